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
