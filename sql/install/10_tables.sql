-- The extension's own tables. Nothing here refers to auth.users or onagui.app_users: both may be altered, dropped and
-- recreated freely.

CREATE TABLE onagui.sync_column (
    app_column text PRIMARY KEY CHECK (app_column NOT IN ('id', 'email')),
    source     text NOT NULL CHECK (source IN ('column', 'user_meta', 'app_meta')),
    key        text,
    CHECK (source OPERATOR(pg_catalog.<>) 'column' OR key IS NOT NULL)
);
COMMENT ON TABLE onagui.sync_column IS
    'Where the columns of onagui.app_users come from; a row here overrides what is built in for its app_column';
COMMENT ON COLUMN onagui.sync_column.app_column IS 'Column of onagui.app_users; skipped where the table lacks it';
COMMENT ON COLUMN onagui.sync_column.source IS
    'column: a column of auth.users; user_meta, app_meta: a key of raw_user_meta_data, raw_app_meta_data';
COMMENT ON COLUMN onagui.sync_column.key IS
    'Name of the column or of the key; NULL with user_meta or app_meta takes the whole object';

CREATE TABLE onagui.sync_known_id (
    auth_user_id uuid PRIMARY KEY,
    gone_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE onagui.sync_known_id IS
    'Ids that once were auth users'' and were deleted or soft-deleted; an e-mail never links an app user with such an id';
COMMENT ON COLUMN onagui.sync_known_id.auth_user_id IS 'Id of the auth user that was deleted';
COMMENT ON COLUMN onagui.sync_known_id.gone_at IS 'When the deletion was seen';

CREATE TABLE onagui.sync_audit_log (
    audit_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    occurred_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    action          text NOT NULL,
    outcome         text NOT NULL,
    auth_user_id    uuid,
    old_app_user_id uuid,
    new_app_user_id uuid,
    email           text,
    rows_changed    bigint NOT NULL DEFAULT 0,
    details         jsonb NOT NULL DEFAULT '{}',
    actor           text NOT NULL,
    undone_by       bigint
);
CREATE INDEX sync_audit_log_auth_user_id ON onagui.sync_audit_log (auth_user_id);
CREATE INDEX sync_audit_log_occurred_at ON onagui.sync_audit_log (occurred_at);
COMMENT ON TABLE onagui.sync_audit_log IS
    'Everything onagui_sync did or could not do; only onagui.prune_audit() removes rows';
COMMENT ON COLUMN onagui.sync_audit_log.audit_id IS 'Number of the entry, the argument of onagui.undo_fix()';
COMMENT ON COLUMN onagui.sync_audit_log.occurred_at IS 'Start of the transaction that did it';
COMMENT ON COLUMN onagui.sync_audit_log.action IS
    'signup, create, link, rekey, merge, update_email, pending, conflict, failure, delete, undo';
COMMENT ON COLUMN onagui.sync_audit_log.outcome IS 'done, planned (a pending link), refused (a conflict) or failed';
COMMENT ON COLUMN onagui.sync_audit_log.auth_user_id IS 'The auth user concerned';
COMMENT ON COLUMN onagui.sync_audit_log.old_app_user_id IS 'Id of the app user before';
COMMENT ON COLUMN onagui.sync_audit_log.new_app_user_id IS 'Id of the app user after';
COMMENT ON COLUMN onagui.sync_audit_log.email IS 'The e-mail on the auth side';
COMMENT ON COLUMN onagui.sync_audit_log.rows_changed IS 'Rows that refer to the user and were changed; the user''s own not counted';
COMMENT ON COLUMN onagui.sync_audit_log.details IS
    'reason, error {sqlstate, message, detail, hint}, context (which code of the application raised it), references, and what undo_fix() needs, each where it applies';
COMMENT ON COLUMN onagui.sync_audit_log.actor IS 'The role that was in force for the caller';
COMMENT ON COLUMN onagui.sync_audit_log.undone_by IS 'audit_id of the undo, where the entry has been undone';

-- pg_dump keeps what was configured, remembered and recorded.
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_column', '');
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_known_id', '');
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_audit_log', '');
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_audit_log_audit_id_seq', '');
