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
