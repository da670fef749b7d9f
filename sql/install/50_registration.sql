-- What a web client calls.

CREATE FUNCTION onagui.sync_user_registration(jsonb) RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'sync_user_registration';
COMMENT ON FUNCTION onagui.sync_user_registration(jsonb) IS
    'Brings one user into step for a client: {"userId", "email", "username"?, "metadata"?}; service_role for anybody, authenticated for the user of its own token only';
-- Works with the rights of the owners of the tables; checks the caller itself.
REVOKE ALL ON FUNCTION onagui.sync_user_registration(jsonb) FROM PUBLIC;

CREATE FUNCTION onagui.sync_ping() RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN pg_catalog.jsonb_build_object(
        'message', 'User sync service is running',
        'timestamp', pg_catalog.now(),
        'version', (SELECT e.extversion FROM pg_catalog.pg_extension e
                     WHERE e.extname OPERATOR(pg_catalog.=) 'onagui_sync'));
COMMENT ON FUNCTION onagui.sync_ping() IS 'Whether the service is there, and which version';
-- Open to anon and authenticated, see 95_api_roles.sql.
REVOKE ALL ON FUNCTION onagui.sync_ping() FROM PUBLIC;
