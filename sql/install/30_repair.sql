-- Repairing users: rehearse, fix, undo.

CREATE TABLE onagui.sync_reference (
    table_schema  name NOT NULL,
    table_name    name NOT NULL,
    column_name   name NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    by_superuser  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (table_schema, table_name, column_name)
);
COMMENT ON TABLE onagui.sync_reference IS
    'Columns that hold ids of app users without a foreign key; fixes move them along. See onagui.register_reference()';
COMMENT ON COLUMN onagui.sync_reference.table_schema IS 'Schema of the table';
COMMENT ON COLUMN onagui.sync_reference.table_name IS 'The table; one that does not exist is passed over';
COMMENT ON COLUMN onagui.sync_reference.column_name IS 'The column: uuid, text or varchar';
COMMENT ON COLUMN onagui.sync_reference.registered_at IS 'When it was registered';
COMMENT ON COLUMN onagui.sync_reference.by_superuser IS
    'Whether a superuser has registered it: without that it is passed over where the table belongs to a superuser';
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_reference', '');

CREATE FUNCTION onagui.fix_user_id_mismatch(p_email text, p_use_auth_id boolean DEFAULT true) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'fix_user_id_mismatch';
COMMENT ON FUNCTION onagui.fix_user_id_mismatch(text, boolean) IS
    'Brings one user into step and says so in a line that begins with OK:, FIXED:, CREATED: or MERGED:; p_use_auth_id => false changes nothing and tells the plan (MANUAL:)';
-- Works with the rights of the owners of the tables.
REVOKE ALL ON FUNCTION onagui.fix_user_id_mismatch(text, boolean) FROM PUBLIC;

CREATE FUNCTION onagui.fix_user_ids(
    p_emails text[] DEFAULT NULL,
    p_apply boolean DEFAULT false,
    p_on_conflict text DEFAULT 'error',
    p_limit bigint DEFAULT NULL,
    OUT email text, OUT action text, OUT outcome text, OUT auth_user_id uuid, OUT old_app_user_id uuid,
    OUT new_app_user_id uuid, OUT rows_changed bigint, OUT details jsonb, OUT audit_id bigint
) RETURNS SETOF record
    LANGUAGE c AS 'MODULE_PATHNAME', 'fix_user_ids';
COMMENT ON FUNCTION onagui.fix_user_ids(text[], boolean, text, bigint) IS
    'Brings users into step, one row each: those with the e-mails, or all that can be fixed. p_apply => false only tells what would be done; p_on_conflict: error, keep_auth or keep_app';
-- Works with the rights of the owners of the tables.
REVOKE ALL ON FUNCTION onagui.fix_user_ids(text[], boolean, text, bigint) FROM PUBLIC;

CREATE FUNCTION onagui.fix_user_id(
    p_app_user_id uuid,
    p_auth_user_id uuid,
    p_apply boolean DEFAULT false,
    p_on_conflict text DEFAULT 'error',
    OUT email text, OUT action text, OUT outcome text, OUT auth_user_id uuid, OUT old_app_user_id uuid,
    OUT new_app_user_id uuid, OUT rows_changed bigint, OUT details jsonb, OUT audit_id bigint
) RETURNS SETOF record
    LANGUAGE c AS 'MODULE_PATHNAME', 'fix_user_id';
COMMENT ON FUNCTION onagui.fix_user_id(uuid, uuid, boolean, text) IS
    'A person''s decision in a CONFLICT: this app user is that auth user. p_apply => false only tells what would be done';
-- Works with the rights of the owners of the tables.
REVOKE ALL ON FUNCTION onagui.fix_user_id(uuid, uuid, boolean, text) FROM PUBLIC;

CREATE PROCEDURE onagui.fix_all_user_ids(p_batch_size integer DEFAULT 1000, p_on_conflict text DEFAULT 'error')
    LANGUAGE c AS 'MODULE_PATHNAME', 'fix_all_user_ids';
COMMENT ON PROCEDURE onagui.fix_all_user_ids(integer, text) IS
    'Brings all users into step that can be fixed, and commits after each batch; can be stopped and called again';
-- Works with the rights of the owners of the tables.
REVOKE ALL ON PROCEDURE onagui.fix_all_user_ids(integer, text) FROM PUBLIC;

CREATE FUNCTION onagui.undo_fix(p_audit_id bigint) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'undo_fix';
COMMENT ON FUNCTION onagui.undo_fix(bigint) IS
    'Puts back exactly what a fix, a link or an undo changed, or refuses and says why; p_audit_id as in onagui.sync_audit_log';
-- Works with the rights of the owners of the tables.
REVOKE ALL ON FUNCTION onagui.undo_fix(bigint) FROM PUBLIC;

CREATE FUNCTION onagui.register_reference(p_table regclass, p_column name) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'register_reference';
COMMENT ON FUNCTION onagui.register_reference(regclass, name) IS
    'Lets fixes move a column along that holds ids of app users without a foreign key';
-- Configures what fixes write.
REVOKE ALL ON FUNCTION onagui.register_reference(regclass, name) FROM PUBLIC;

CREATE FUNCTION onagui.unregister_reference(p_table regclass, p_column name) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'unregister_reference';
COMMENT ON FUNCTION onagui.unregister_reference(regclass, name) IS
    'Takes back what onagui.register_reference() did: fixes leave the column alone from now on';
-- Configures what fixes write.
REVOKE ALL ON FUNCTION onagui.unregister_reference(regclass, name) FROM PUBLIC;

CREATE FUNCTION onagui.unregister_reference(p_schema name, p_table name, p_column name) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'unregister_reference_by_name';
COMMENT ON FUNCTION onagui.unregister_reference(name, name, name) IS
    'The same by the names in onagui.sync_reference, for a table that was dropped or renamed';
-- Configures what fixes write.
REVOKE ALL ON FUNCTION onagui.unregister_reference(name, name, name) FROM PUBLIC;

CREATE FUNCTION onagui.prune_audit(p_older_than interval) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'prune_audit';
COMMENT ON FUNCTION onagui.prune_audit(interval) IS
    'Removes entries of the audit log older than p_older_than and says how many; what they tell of cannot be undone any more';
-- Removes what nobody else may remove.
REVOKE ALL ON FUNCTION onagui.prune_audit(interval) FROM PUBLIC;
