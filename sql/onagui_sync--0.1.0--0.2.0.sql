-- From 0.1.0 to 0.2.0. As long as 0.2.0 is not released, every change of sql/install/ is made here a second time; the test
-- pgrx-tests/upgrade/test_update.py compares the outcome with a fresh install, object by object. A new routine is besides
-- listed in the block below, so that it belongs to, and may be called by, whom it should. Never changed once released.

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

-- 10_tables.sql
COMMENT ON COLUMN onagui.sync_audit_log.details IS
    'reason, error {sqlstate, message, detail, hint}, context (which code of the application raised it), references, and what undo_fix() needs, each where it applies';

-- 20_signup.sql
CREATE OR REPLACE FUNCTION onagui.enable_sync(p_always boolean DEFAULT NULL) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'enable_sync';
COMMENT ON FUNCTION onagui.enable_sync(boolean) IS
    'Attaches the triggers to auth.users; p_always => true: for rows that arrive through logical replication too, false: not for these, left out: as they are';

-- 30_repair.sql
ALTER TABLE onagui.sync_reference ADD COLUMN by_superuser boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN onagui.sync_reference.by_superuser IS
    'Whether a superuser has registered it: without that it is passed over where the table belongs to a superuser';
-- What was moved along until now still is.
UPDATE onagui.sync_reference r SET by_superuser = true
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  JOIN pg_catalog.pg_class root
       ON root.oid OPERATOR(pg_catalog.=) COALESCE(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid)
  JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) root.relowner
 WHERE n.nspname OPERATOR(pg_catalog.=) r.table_schema AND c.relname OPERATOR(pg_catalog.=) r.table_name AND o.rolsuper;

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

-- Who may call the new routines, and to whom they belong: the same as the old ones beside them, whatever an
-- administrator has granted since, or default privileges give away. The superuser who updates may be another one than the
-- one who installed.
DO $$
DECLARE
    made record;
    grantee text;
BEGIN
    FOR made IN
        SELECT new.routine::pg_catalog.regprocedure AS routine, old.oid AS beside, owner.rolname AS owner
          FROM (VALUES ('onagui.unregister_reference(regclass,name)', 'onagui.register_reference(regclass,name)'),
                       ('onagui.unregister_reference(name,name,name)', 'onagui.register_reference(regclass,name)')
               ) new(routine, beside)
          JOIN pg_catalog.pg_proc old ON old.oid OPERATOR(pg_catalog.=) new.beside::pg_catalog.regprocedure
          JOIN pg_catalog.pg_roles owner ON owner.oid OPERATOR(pg_catalog.=) old.proowner
    LOOP
        EXECUTE pg_catalog.format('ALTER ROUTINE %s OWNER TO %I', made.routine, made.owner);
        FOR grantee IN
            SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
              FROM pg_catalog.pg_proc p
              CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) a
              LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.grantee
             WHERE p.oid OPERATOR(pg_catalog.=) made.routine AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
        LOOP
            EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s CASCADE', made.routine, grantee);
        END LOOP;
        FOR grantee IN
            SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
              FROM pg_catalog.pg_proc p
              CROSS JOIN LATERAL pg_catalog.aclexplode(p.proacl) a
              LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) a.grantee
             WHERE p.oid OPERATOR(pg_catalog.=) made.beside AND a.grantee OPERATOR(pg_catalog.<>) p.proowner
        LOOP
            EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s', made.routine, grantee);
        END LOOP;
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
                  HINT = 'Rename or drop them, then update the extension again.';
    END IF;
END
$$;

-- 90_grants.sql
-- The server notes what a script grants as there from the beginning, and pg_dump leaves that out. But the schema is no
-- member of the extension: a dump makes it before CREATE EXTENSION, and has to open it, too.
DELETE FROM pg_catalog.pg_init_privs i
 USING pg_catalog.pg_namespace n
 WHERE n.nspname OPERATOR(pg_catalog.=) 'onagui' AND i.objoid OPERATOR(pg_catalog.=) n.oid
   AND i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass;
DELETE FROM pg_catalog.pg_shdepend s
 USING pg_catalog.pg_namespace n, pg_catalog.pg_database d
 WHERE n.nspname OPERATOR(pg_catalog.=) 'onagui' AND s.objid OPERATOR(pg_catalog.=) n.oid
   AND s.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
   AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND s.dbid OPERATOR(pg_catalog.=) d.oid
   AND s.deptype OPERATOR(pg_catalog.=) 'i';
