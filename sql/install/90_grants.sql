-- Who may do what. The objects belong to the superuser; the role that runs CREATE EXTENSION may use all of them, at
-- least read each, so that a later GRANT ALL … IN SCHEMA onagui by that role does not fail outright.
DO $$
DECLARE
    installer text := (SELECT pg_catalog.quote_ident(r.rolname)
                         FROM pg_catalog.pg_extension e
                         JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) e.extowner
                        WHERE e.extname OPERATOR(pg_catalog.=) 'onagui_sync');
    object text;
BEGIN
    FOR object IN
        SELECT CASE d.classid
               WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass
               THEN pg_catalog.format('EXECUTE ON ROUTINE %s', d.objid::pg_catalog.regprocedure)
               ELSE pg_catalog.format('SELECT ON %s %s', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                                      d.objid::pg_catalog.regclass)
               END
          FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
          LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid
                AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
         WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND e.extname OPERATOR(pg_catalog.=) 'onagui_sync'
           AND (d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass OR c.relkind IN ('r', 'v', 'S'))
    LOOP
        EXECUTE pg_catalog.format('GRANT %s TO %s', object, installer);
    END LOOP;
    EXECUTE pg_catalog.format('GRANT INSERT, UPDATE, DELETE ON onagui.sync_column TO %s', installer);

    -- Where this very transaction made the schema, everybody may look names up in it. In a schema that was there
    -- before, that is for its owner to decide.
    IF (SELECT n.xmin::pg_catalog.text OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.xid::pg_catalog.text
          FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'onagui') THEN
        GRANT USAGE ON SCHEMA onagui TO PUBLIC;
    END IF;
END
$$;
