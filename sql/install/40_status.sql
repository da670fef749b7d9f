-- Who is out of step, and why. All of it only reads: it works in a READ ONLY transaction and on a hot standby.

CREATE FUNCTION onagui.sync_status(p_status text[] DEFAULT NULL, p_email text DEFAULT NULL, p_limit bigint DEFAULT NULL)
    RETURNS TABLE (email text, auth_user_id uuid, app_user_id uuid, sync_status text, auth_created_at timestamptz,
                   app_created_at timestamptz, detail text)
    LANGUAGE c STABLE COST 10000 ROWS 10000 AS 'MODULE_PATHNAME', 'sync_status';
COMMENT ON FUNCTION onagui.sync_status(text[], text, bigint) IS
    'Who is in step and who is not: of the statuses in p_status, with the e-mail p_email on either side, at most p_limit rows; NULL asks for all';
-- Reads both tables with the rights of the extension's owner.
REVOKE ALL ON FUNCTION onagui.sync_status(text[], text, bigint) FROM PUBLIC;

-- Reads the function, so that neither table is tied to the view.
CREATE VIEW onagui.user_sync_status AS
    SELECT s.email, s.auth_user_id, s.app_user_id, s.sync_status, s.auth_created_at, s.app_created_at, s.detail
      FROM onagui.sync_status() s;
COMMENT ON VIEW onagui.user_sync_status IS
    'Every user of auth.users and onagui.app_users and how the two sides agree; for some of them only, onagui.sync_status() is faster';
COMMENT ON COLUMN onagui.user_sync_status.email IS 'The auth user''s e-mail, else the app user''s';
COMMENT ON COLUMN onagui.user_sync_status.auth_user_id IS 'auth.users.id; NULL where there is no auth user';
COMMENT ON COLUMN onagui.user_sync_status.app_user_id IS 'onagui.app_users.id; NULL where there is no app user';
COMMENT ON COLUMN onagui.user_sync_status.sync_status IS
    'SYNCED, EMAIL_MISMATCH, MISMATCHED, DUPLICATE, MISSING_IN_APP_USERS, MISSING_IN_AUTH, PENDING or CONFLICT';
COMMENT ON COLUMN onagui.user_sync_status.auth_created_at IS 'When the auth user was created';
COMMENT ON COLUMN onagui.user_sync_status.app_created_at IS 'When the app user was created; NULL where app_users has no such column';
COMMENT ON COLUMN onagui.user_sync_status.detail IS 'Why, in words; NULL for SYNCED';
REVOKE ALL ON onagui.user_sync_status FROM PUBLIC;

CREATE FUNCTION onagui.sync_summary() RETURNS TABLE (sync_status text, users bigint)
    LANGUAGE c STABLE COST 10000 ROWS 8 AS 'MODULE_PATHNAME', 'sync_summary';
COMMENT ON FUNCTION onagui.sync_summary() IS 'How many users have each status, zeros included';
-- Reads both tables with the rights of the extension's owner.
REVOKE ALL ON FUNCTION onagui.sync_summary() FROM PUBLIC;

CREATE FUNCTION onagui.sync_report() RETURNS text
    LANGUAGE c STABLE COST 10000 AS 'MODULE_PATHNAME', 'sync_report';
COMMENT ON FUNCTION onagui.sync_report() IS
    'For people: a summary, then who is not SYNCED, with ids, dates, the reason, and the call that fixes it';
-- Reads both tables with the rights of the extension's owner.
REVOKE ALL ON FUNCTION onagui.sync_report() FROM PUBLIC;

CREATE FUNCTION onagui.sync_health() RETURNS TABLE (check_name text, status text, detail text, remedy text)
    LANGUAGE c STABLE COST 10000 ROWS 20 AS 'MODULE_PATHNAME', 'sync_health';
COMMENT ON FUNCTION onagui.sync_health() IS
    'What keeps users from being in step, or might: each check with status ok, warn or fail, and the SQL that mends it';
-- Reads tables and catalogs with the rights of the extension's owner.
REVOKE ALL ON FUNCTION onagui.sync_health() FROM PUBLIC;
