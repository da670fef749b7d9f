-- The role behind a server's own calls may look, and call everything an operator calls, except what configures.
DO $$
DECLARE
    routine text;
BEGIN
    IF pg_catalog.to_regrole('service_role') IS NULL THEN
        RETURN;
    END IF;
    GRANT SELECT ON onagui.user_sync_status TO service_role;
    FOR routine IN
        SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text
          FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
               AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
          JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
         WHERE e.extname OPERATOR(pg_catalog.=) 'onagui_sync'
           AND p.prorettype OPERATOR(pg_catalog.<>) 'trigger'::pg_catalog.regtype
           AND p.proname NOT IN ('enable_sync', 'disable_sync', 'register_reference', 'create_app_users', 'prune_audit')
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO service_role', routine);
    END LOOP;
END
$$;
