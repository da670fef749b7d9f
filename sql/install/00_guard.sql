-- Whoever owns the schema may rename it, and put another one with code of their own in its place. Until this is over nobody does.
DO $$
BEGIN
    PERFORM FROM pg_catalog.pg_namespace n
      JOIN pg_catalog.pg_extension e ON e.extnamespace OPERATOR(pg_catalog.=) n.oid
     WHERE e.extname OPERATOR(pg_catalog.=) 'onagui_sync' AND n.nspname OPERATOR(pg_catalog.=) 'onagui'
       FOR SHARE OF n;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the schema onagui is not that of the extension'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'The extension''s schema was renamed, and another one may have its name.',
                  HINT = 'Give it back: look at SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = ''onagui_sync''; then ALTER SCHEMA ... RENAME TO onagui;';
    END IF;
END
$$;

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
                USING HINT = 'Where that is nobody to be trusted: ALTER SCHEMA onagui OWNER TO ...;';
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
