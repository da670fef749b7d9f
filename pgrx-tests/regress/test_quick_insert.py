"""A plain sign-up is inserted without the executor. Whatever app_users has must come out as by a statement, and what
the quick way cannot do must go the other."""

import uuid

import pytest

import support

A = "aaaaaaaa-0000-4000-8000-000000000001"


@pytest.fixture
def app(db):
    return db.install()


def sign_up(app, count=2):
    """In one session: the first makes the expressions ready, the second uses them."""
    ids = [app.auth.signup(f"user{n}@example.com", {"username": f"user{n}"}) for n in range(count)]
    assert not app.warnings
    return ids


def column(app, name):
    return [row[0] for row in app.sql(f"SELECT {name} FROM onagui.app_users ORDER BY email", role="supabase_admin")]


def test_defaults_and_generated_columns(app):
    app.sql(
        """ALTER TABLE onagui.app_users ADD dropped int, ADD number bigserial, ADD made timestamptz NOT NULL DEFAULT clock_timestamp(),
               ADD who text DEFAULT current_user, ADD shout text GENERATED ALWAYS AS (upper(username)) STORED,
               ADD own bigint GENERATED ALWAYS AS IDENTITY;
           ALTER TABLE onagui.app_users DROP dropped"""
    )
    sign_up(app, 3)
    assert column(app, "number") == [1, 2, 3]
    assert column(app, "own") == [1, 2, 3]
    assert column(app, "shout") == ["USER0", "USER1", "USER2"]
    assert column(app, "who") == ["postgres"] * 3
    made = column(app, "made")
    assert made == sorted(set(made))


def test_a_default_with_a_function_of_somebodys(app):
    app.sql(
        """CREATE FUNCTION public.mine() RETURNS text LANGUAGE sql AS $$ SELECT 'one' $$;
           ALTER TABLE onagui.app_users ADD word text DEFAULT public.mine()"""
    )
    sign_up(app)
    app.sql("CREATE OR REPLACE FUNCTION public.mine() RETURNS text LANGUAGE sql AS $$ SELECT 'two' $$")
    app.auth.signup("user2@example.com")
    assert column(app, "word") == ["one", "one", "two"]


def test_a_domain_that_changes(app):
    app.sql("CREATE DOMAIN public.handle AS text; ALTER TABLE onagui.app_users ALTER username TYPE public.handle")
    sign_up(app)
    app.sql("ALTER DOMAIN public.handle ADD CONSTRAINT short CHECK (length(value) < 6)")
    app.auth.signup("user2@example.com", {"username": "far too long"})
    assert column(app, "username")[:2] == ["user0", "user1"]
    assert column(app, "id")[2] and column(app, "username")[2] != "far too long"


@pytest.mark.parametrize("when", ["BEFORE INSERT", "AFTER INSERT"])
@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
def test_triggers_that_come_later(app, when, level):
    sign_up(app)
    app.sql(
        f"""CREATE TABLE public.seen (who text, path text);
            CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO public.seen VALUES (current_user, current_setting('search_path')); RETURN new; END $$;
            CREATE TRIGGER look {when} ON onagui.app_users FOR EACH {level} EXECUTE FUNCTION public.look()"""
    )
    app.auth.signup("user2@example.com")
    assert app.sql("SELECT * FROM public.seen") == [("postgres", "pg_catalog, pg_temp")]


def test_a_trigger_that_holds_the_row_back_is_recorded(app):
    sign_up(app)
    app.sql(
        """CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
           CREATE TRIGGER no BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.no()"""
    )
    app.auth.signup("user2@example.com")
    assert len(column(app, "id")) == 2
    assert [entry["action"] for entry in support.audit(app, email="user2@example.com")][:1] == ["failure"]


def test_a_rule_keeps_its_effect(app):
    app.sql("CREATE TABLE public.other (id uuid); GRANT ALL ON public.other TO PUBLIC")
    sign_up(app)
    app.sql("CREATE RULE also AS ON INSERT TO onagui.app_users DO ALSO INSERT INTO public.other VALUES (new.id)")
    id = app.auth.signup("user2@example.com")
    assert app.sql("SELECT id FROM public.other") == [(id,)]


def test_a_function_in_a_check_sees_the_pinned_path(app):
    app.sql(
        """CREATE FUNCTION public.fine(text) RETURNS boolean LANGUAGE plpgsql AS
               $$ BEGIN RETURN current_setting('search_path') = 'pg_catalog, pg_temp' AND current_user = 'postgres'; END $$;
           ALTER TABLE onagui.app_users ADD CHECK (public.fine(email))"""
    )
    sign_up(app)
    assert len(column(app, "id")) == 2


def test_a_function_in_an_index_sees_the_pinned_path(app):
    app.sql(
        """CREATE FUNCTION public.mark(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
               $$ BEGIN IF current_setting('search_path') <> 'pg_catalog, pg_temp' THEN RAISE 'path'; END IF; RETURN $1; END $$"""
    )
    sign_up(app)
    app.sql("SET search_path = pg_catalog, pg_temp; CREATE INDEX ON onagui.app_users (public.mark(email)); RESET search_path")
    app.auth.signup("user2@example.com")
    app.auth.signup("user3@example.com")
    assert not app.warnings and len(column(app, "id")) == 4


def test_a_check_that_signs_somebody_up(app):
    """The one that is signed up meanwhile goes the long way."""
    app.sql(
        """CREATE FUNCTION public.bring_a_friend(mail text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
           BEGIN
               IF mail NOT LIKE 'friend%' THEN INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'friend-' || mail); END IF;
               RETURN true;
           END $$;
           ALTER TABLE onagui.app_users ADD CHECK (public.bring_a_friend(email))"""
    )
    sign_up(app)
    assert column(app, "email") == ["friend-user0@example.com", "friend-user1@example.com", "user0@example.com", "user1@example.com"]


def test_a_foreign_key_to_auth_holds(app):
    app.sql("ALTER TABLE onagui.app_users ADD FOREIGN KEY (id) REFERENCES auth.users ON DELETE CASCADE", role="supabase_admin")
    ids = sign_up(app)
    assert set(column(app, "id")) == set(ids)
    app.auth.delete(ids[0])
    assert column(app, "id") == [ids[1]]


def test_deleted_users_of_a_bulk_load_get_no_row(app):
    sign_up(app)
    app.sql(
        """INSERT INTO auth.users (id, email, deleted_at)
           SELECT gen_random_uuid(), 'bulk' || n, CASE WHEN n % 2 = 0 THEN now() END FROM generate_series(1, 10) n""",
        role="supabase_auth_admin",
    )
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE email LIKE 'bulk%'", role="supabase_admin") == 5


def test_the_table_changes_within_a_transaction(app):
    """What was made ready for one table must not be used for another, rolled back or not."""
    admin = app.session("supabase_admin")
    insert = "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), %s)"
    admin.execute(insert, ["one@example.com"])
    with pytest.raises(ZeroDivisionError), admin.transaction():
        admin.execute("ALTER TABLE onagui.app_users DROP username, ADD username varchar(3), ADD extra int DEFAULT 7")
        admin.execute(insert, ["two@example.com"])
        assert admin.execute("SELECT username, extra FROM onagui.app_users WHERE email = 'two@example.com'").fetchone() == ("two", 7)
        raise ZeroDivisionError
    admin.execute(insert, ["three@example.com"])
    with admin.transaction():
        admin.execute("ALTER TABLE auth.users DROP raw_user_meta_data")
        admin.execute(insert, ["four@example.com"])
    admin.execute(insert, ["five@example.com"])
    assert column(app, "username") == ["five", "four", "one", "three"]


def test_a_schema_that_takes_anothers_place(app):
    sign_up(app)
    admin = app.session("supabase_admin")
    admin.execute("ALTER SCHEMA auth RENAME TO old_auth")
    admin.execute("CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY, email text)")
    admin.execute("INSERT INTO auth.users VALUES (%s, 'new@example.com')", [A])
    assert len(column(app, "id")) == 2
    admin.execute("SELECT onagui.enable_sync()")
    admin.execute("INSERT INTO auth.users VALUES (%s, 'newer@example.com')", [str(uuid.uuid4())])
    assert "newer@example.com" in column(app, "email")
    # The old table's triggers are no longer those of auth.users.
    with support.expect_error("39P01"):
        app.sql("INSERT INTO old_auth.users (id, email) VALUES (gen_random_uuid(), 'x')", role="supabase_admin")


def test_the_owner_without_the_right_to_insert(app):
    sign_up(app)
    app.sql("REVOKE INSERT ON onagui.app_users FROM postgres")
    app.auth.signup("user2@example.com")
    assert len(column(app, "id")) == 2
    assert app.warnings[-1].sqlstate == "42501"


def test_settings_and_role_after_an_error(app):
    sign_up(app)
    auth = app.session("supabase_auth_admin")
    before = auth.execute("SELECT current_user, current_setting('search_path')").fetchone()
    app.sql("ALTER TABLE onagui.app_users ADD CHECK (email <> 'bad@example.com')")
    app.auth.signup("bad@example.com")
    assert auth.execute("SELECT current_user, current_setting('search_path')").fetchone() == before
    assert [entry["details"]["error"]["sqlstate"] for entry in support.audit(app, action="failure")][:1] == ["23514"]
