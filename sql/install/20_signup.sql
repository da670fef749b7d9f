-- The triggers on auth.users.

CREATE FUNCTION onagui.sync_auth_user_to_app_users() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'sync_auth_user_to_app_users';
COMMENT ON FUNCTION onagui.sync_auth_user_to_app_users() IS
    'Trigger function: keeps onagui.app_users in step with auth.users; attached by onagui.enable_sync(), refuses any other table';
-- Who may execute a trigger function may attach it to a table of their own.
REVOKE ALL ON FUNCTION onagui.sync_auth_user_to_app_users() FROM PUBLIC;

CREATE FUNCTION onagui.enable_sync(p_always boolean DEFAULT NULL) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'enable_sync';
COMMENT ON FUNCTION onagui.enable_sync(boolean) IS
    'Attaches the triggers to auth.users; p_always => true: for rows that arrive through logical replication too, false: not for these, left out: as they are';
-- Works with the rights of the extension's owner.
REVOKE ALL ON FUNCTION onagui.enable_sync(boolean) FROM PUBLIC;

CREATE FUNCTION onagui.disable_sync() RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'disable_sync';
COMMENT ON FUNCTION onagui.disable_sync() IS
    'Detaches the triggers from auth.users; sign-ups go on, without rows in onagui.app_users';
-- Works with the rights of the extension's owner.
REVOKE ALL ON FUNCTION onagui.disable_sync() FROM PUBLIC;

CREATE FUNCTION onagui.create_app_users() RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'create_app_users';
COMMENT ON FUNCTION onagui.create_app_users() IS
    'Creates a standard onagui.app_users that belongs to the caller, unless there is one already';
-- Configures, so it is for the installing role, though it runs with the caller's rights alone.
REVOKE ALL ON FUNCTION onagui.create_app_users() FROM PUBLIC;

-- A changed mapping must reach every backend's prepared statements.
CREATE FUNCTION onagui.sync_column_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'sync_column_changed';
COMMENT ON FUNCTION onagui.sync_column_changed() IS
    'Trigger function of onagui.sync_column: tells all sessions that the mapping has changed';
REVOKE ALL ON FUNCTION onagui.sync_column_changed() FROM PUBLIC;
CREATE TRIGGER sync_column_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON onagui.sync_column
    FOR EACH STATEMENT EXECUTE FUNCTION onagui.sync_column_changed();
ALTER TABLE onagui.sync_column ENABLE ALWAYS TRIGGER sync_column_changed;
