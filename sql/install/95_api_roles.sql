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
