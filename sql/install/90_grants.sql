-- Who may do what. The objects belong to the superuser; the role that runs CREATE EXTENSION may use all of them, at
-- least read each, so that a later GRANT ALL ... IN SCHEMA onagui by that role does not fail outright.
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
