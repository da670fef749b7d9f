-- What others do on a sign-up. Both write the same table as ours: the one that onagui.create_app_users() makes.

-- (b) The pattern of Supabase's documentation.
CREATE FUNCTION public.handle_new_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    INSERT INTO onagui.app_users (id, email, username, metadata)
    VALUES (new.id, new.email,
            coalesce(new.raw_user_meta_data ->> 'username', split_part(new.email, '@', 1)), new.raw_user_meta_data);
    RETURN new;
END;
$$;

-- (c) What careful people make of it.
CREATE FUNCTION public.handle_new_user_carefully() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    BEGIN
        INSERT INTO onagui.app_users (id, email, username, metadata)
        VALUES (new.id, new.email,
                coalesce(new.raw_user_meta_data ->> 'username', split_part(new.email, '@', 1)), new.raw_user_meta_data)
        ON CONFLICT (id) DO UPDATE SET email = excluded.email, updated_at = now();
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'could not create the app user of %: %', new.id, sqlerrm;
    END;
    RETURN new;
END;
$$;
