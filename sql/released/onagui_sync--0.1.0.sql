-- onagui_sync 0.1.0, as it was released. Never to be changed: the upgrade tests start from it.

-- Whoever owns a schema can put code of their own beside ours, under the same names; and a trusted extension may be
-- created by anybody with CREATE on the database. Both must be people who may do harm here anyway.
DO $$
DECLARE
    installer record;
    owner record;
BEGIN
    SELECT r.oid, r.rolname, r.rolsuper, r.rolbypassrls INTO STRICT installer
      FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) e.extowner
     WHERE e.extname OPERATOR(pg_catalog.=) 'onagui_sync';
    SELECT r.oid, r.rolname, r.rolsuper OR r.rolbypassrls AS trusted INTO STRICT owner
      FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
     WHERE n.nspname OPERATOR(pg_catalog.=) 'onagui';
    IF NOT owner.trusted AND owner.oid OPERATOR(pg_catalog.<>) installer.oid
       AND owner.oid OPERATOR(pg_catalog.<>) (SELECT d.datdba FROM pg_catalog.pg_database d
                                               WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) THEN
        -- A superuser restores dumps, in which the schema belongs to whom it belonged. This script takes nothing from it.
        IF installer.rolsuper THEN
            RAISE WARNING 'schema onagui belongs to %, who can put functions of their own beside the extension''s',
                          pg_catalog.quote_ident(owner.rolname)
                USING HINT = 'Where that is nobody to be trusted: ALTER SCHEMA onagui OWNER TO …;';
        ELSE
            RAISE EXCEPTION 'schema onagui belongs to somebody else'
                USING ERRCODE = 'insufficient_privilege',
                      DETAIL = pg_catalog.format('Its owner is %I, who can put functions of their own beside the extension''s.',
                                                 owner.rolname),
                      HINT = pg_catalog.format('Look through what is in it, then ALTER SCHEMA onagui OWNER TO %I;',
                                               installer.rolname);
        END IF;
    END IF;
    -- An administrator's role that is no superuser may bypass row security.
    IF NOT installer.rolsuper AND NOT installer.rolbypassrls
       AND NOT (pg_catalog.has_table_privilege(installer.oid, pg_catalog.to_regclass('auth.users'), 'SELECT')
                AND pg_catalog.has_table_privilege(installer.oid, pg_catalog.to_regclass('auth.users'), 'TRIGGER')) THEN
        RAISE EXCEPTION 'permission denied: onagui_sync reads auth.users and attaches triggers to it'
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = pg_catalog.format('Role %I may not SELECT from auth.users or not create a TRIGGER on it.', installer.rolname),
                  HINT = 'Let the role that runs the migrations create the extension, or a superuser.';
    END IF;
END
$$;

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
    'reason, error {sqlstate, message, detail, hint}, references, and what undo_fix() needs, each where it applies';
COMMENT ON COLUMN onagui.sync_audit_log.actor IS 'The role that was in force for the caller';
COMMENT ON COLUMN onagui.sync_audit_log.undone_by IS 'audit_id of the undo, where the entry has been undone';

-- pg_dump keeps what was configured, remembered and recorded.
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_column', '');
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_known_id', '');
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_audit_log', '');
SELECT pg_catalog.pg_extension_config_dump('onagui.sync_audit_log_audit_id_seq', '');

-- The triggers on auth.users.

CREATE FUNCTION onagui.sync_auth_user_to_app_users() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'sync_auth_user_to_app_users';
COMMENT ON FUNCTION onagui.sync_auth_user_to_app_users() IS
    'Trigger function: keeps onagui.app_users in step with auth.users; attached by onagui.enable_sync(), refuses any other table';
-- Who may execute a trigger function may attach it to a table of their own.
REVOKE ALL ON FUNCTION onagui.sync_auth_user_to_app_users() FROM PUBLIC;

CREATE FUNCTION onagui.enable_sync(p_always boolean DEFAULT false) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'enable_sync';
COMMENT ON FUNCTION onagui.enable_sync(boolean) IS
    'Attaches the triggers to auth.users; p_always => true: for rows that arrive through logical replication too';
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

-- Repairing users: rehearse, fix, undo.

CREATE TABLE onagui.sync_reference (
    table_schema  name NOT NULL,
    table_name    name NOT NULL,
    column_name   name NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (table_schema, table_name, column_name)
);
COMMENT ON TABLE onagui.sync_reference IS
    'Columns that hold ids of app users without a foreign key; fixes move them along. See onagui.register_reference()';
COMMENT ON COLUMN onagui.sync_reference.table_schema IS 'Schema of the table';
COMMENT ON COLUMN onagui.sync_reference.table_name IS 'The table; one that does not exist is passed over';
COMMENT ON COLUMN onagui.sync_reference.column_name IS 'The column: uuid, text or varchar';
COMMENT ON COLUMN onagui.sync_reference.registered_at IS 'When it was registered';
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

CREATE FUNCTION onagui.prune_audit(p_older_than interval) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'prune_audit';
COMMENT ON FUNCTION onagui.prune_audit(interval) IS
    'Removes entries of the audit log older than p_older_than and says how many; what they tell of cannot be undone any more';
-- Removes what nobody else may remove.
REVOKE ALL ON FUNCTION onagui.prune_audit(interval) FROM PUBLIC;

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

-- Who may do what. The objects belong to the superuser; the role that runs CREATE EXTENSION may use all of them, at
-- least read each, so that a later GRANT ALL … IN SCHEMA onagui by that role does not fail outright.
DO $$
DECLARE
    installer text := (SELECT pg_catalog.quote_ident(r.rolname)
                         FROM pg_catalog.pg_extension e
                         JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) e.extowner
                        WHERE e.extname OPERATOR(pg_catalog.=) 'onagui_sync');
    made_here boolean := (SELECT n.xmin::pg_catalog.text
                                 OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.xid::pg_catalog.text
                            FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'onagui');
    object record;
    grantee text;
BEGIN
    FOR object IN
        SELECT CASE WHEN p.oid IS NOT NULL THEN 'ROUTINE'
                    WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE'
                    ELSE 'TABLE' END AS kind,
               CASE WHEN p.oid IS NOT NULL THEN 'EXECUTE' ELSE 'SELECT' END AS use,
               coalesce(p.oid::pg_catalog.regprocedure::pg_catalog.text, c.oid::pg_catalog.regclass::pg_catalog.text) AS name,
               coalesce(p.proacl, c.relacl) AS acl,
               coalesce(p.proowner, c.relowner) AS owner
          FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
          LEFT JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) d.objid
                AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
          LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
                AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v,S}'::pg_catalog."char"[])
         WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND e.extname OPERATOR(pg_catalog.=) 'onagui_sync'
           AND (p.oid IS NOT NULL OR c.oid IS NOT NULL)
    LOOP
        -- What ALTER DEFAULT PRIVILEGES of the superuser has given to others was meant for other objects.
        FOR grantee IN
            SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
              FROM pg_catalog.aclexplode(object.acl) a
              LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.grantee
             WHERE a.grantee OPERATOR(pg_catalog.<>) object.owner
        LOOP
            EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %s CASCADE', object.kind, object.name, grantee);
        END LOOP;
        EXECUTE pg_catalog.format('GRANT %s ON %s %s TO %s', object.use, object.kind, object.name, installer);
    END LOOP;
    EXECUTE pg_catalog.format('GRANT INSERT, UPDATE, DELETE ON onagui.sync_column TO %s', installer);

    -- Where this very transaction made the schema, everybody may look names up in it, and nobody gets more by default
    -- privileges. In a schema that was there before, that is for its owner to decide.
    IF made_here THEN
        FOR grantee IN
            SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
              FROM pg_catalog.pg_namespace n
              CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
              LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.grantee
             WHERE n.nspname OPERATOR(pg_catalog.=) 'onagui' AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner
        LOOP
            EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA onagui FROM %s CASCADE', grantee);
        END LOOP;
        GRANT USAGE ON SCHEMA onagui TO PUBLIC;
    END IF;
END
$$;

-- What the roles of the REST interface may do, where they exist. Runs at CREATE EXTENSION and again in enable_sync(), for
-- roles that were created later: only a role that has nothing of the extension's yet is given anything, so that what an
-- administrator has taken away stays away.
DO $$
DECLARE
    grantee text;
    wanted record;
BEGIN
    FOR grantee IN
        SELECT r.rolname FROM pg_catalog.pg_roles r
         WHERE r.rolname OPERATOR(pg_catalog.=) ANY ('{anon,authenticated,service_role}'::pg_catalog.name[])
           AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_depend d
                 JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
                 LEFT JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) d.objid
                       AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                 LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
                       AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                CROSS JOIN LATERAL pg_catalog.aclexplode(COALESCE(p.proacl, c.relacl)) a
                WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                  AND d.deptype OPERATOR(pg_catalog.=) 'e'
                  AND e.extname OPERATOR(pg_catalog.=) 'onagui_sync'
                  AND a.grantee OPERATOR(pg_catalog.=) r.oid)
    LOOP
        FOR wanted IN
            SELECT f.routine::pg_catalog.regprocedure AS routine
              FROM (VALUES
                    ('onagui.sync_ping()', '{anon,authenticated,service_role}'::pg_catalog.text[]),
                    ('onagui.sync_user_registration(jsonb)', '{authenticated,service_role}'),
                    ('onagui.sync_status(text[],text,bigint)', '{service_role}'),
                    ('onagui.sync_summary()', '{service_role}'),
                    ('onagui.sync_report()', '{service_role}'),
                    ('onagui.sync_health()', '{service_role}'),
                    ('onagui.fix_user_id_mismatch(text,boolean)', '{service_role}'),
                    ('onagui.fix_user_ids(text[],boolean,text,bigint)', '{service_role}'),
                    ('onagui.fix_user_id(uuid,uuid,boolean,text)', '{service_role}'),
                    ('onagui.fix_all_user_ids(integer,text)', '{service_role}'),
                    ('onagui.undo_fix(bigint)', '{service_role}')) f(routine, roles)
             WHERE grantee OPERATOR(pg_catalog.=) ANY (f.roles)
               AND pg_catalog.to_regprocedure(f.routine) IS NOT NULL
        LOOP
            EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I', wanted.routine, grantee);
        END LOOP;
        IF grantee OPERATOR(pg_catalog.=) 'service_role' THEN
            GRANT SELECT ON onagui.user_sync_status, onagui.sync_audit_log TO service_role;
        END IF;
    END LOOP;
END
$$;

-- A function of the same name as one of ours would be called in its place wherever its arguments fit better.
DO $$
DECLARE
    others text;
BEGIN
    SELECT pg_catalog.string_agg(p.oid::pg_catalog.regprocedure::pg_catalog.text, ', ' ORDER BY p.oid) INTO others
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_proc ours ON ours.proname OPERATOR(pg_catalog.=) p.proname
           AND ours.pronamespace OPERATOR(pg_catalog.=) p.pronamespace AND ours.oid OPERATOR(pg_catalog.<>) p.oid
      JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
           AND d.objid OPERATOR(pg_catalog.=) ours.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
      JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
     WHERE e.extname OPERATOR(pg_catalog.=) 'onagui_sync'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m
                        WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                          AND m.objid OPERATOR(pg_catalog.=) p.oid AND m.deptype OPERATOR(pg_catalog.=) 'e'
                          AND m.refobjid OPERATOR(pg_catalog.=) e.oid);
    IF others IS NOT NULL THEN
        RAISE EXCEPTION 'schema onagui has functions with the names of the extension''s'
            USING ERRCODE = 'duplicate_function',
                  DETAIL = pg_catalog.format('These could be called in their place: %s.', others),
                  HINT = 'Rename or drop them, then create the extension again.';
    END IF;
END
$$;

-- Attach at once where Supabase Auth is there already.
DO $$
BEGIN
    IF pg_catalog.to_regclass('auth.users') IS NULL THEN
        -- CREATE EXTENSION hides notices; this one is meant to be read. The setting ends with the script.
        PERFORM pg_catalog.set_config('client_min_messages', 'notice', true);
        RAISE NOTICE 'auth.users does not exist yet, so no trigger was attached'
            USING HINT = 'Once it exists: SELECT onagui.enable_sync();';
    ELSE
        PERFORM onagui.enable_sync();
    END IF;
END
$$;
