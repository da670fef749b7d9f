"""What fails on the application's side: recorded, told, and the sign-up goes on."""

import uuid

import psycopg
import pytest

from support import audit, expect_error

A = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")


@pytest.fixture
def app(db):
    return db.install()


def trigger(db, body, when="BEFORE INSERT", name="theirs", table="onagui.app_users", options=""):
    db.sql(f"CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$")
    kind = "CONSTRAINT TRIGGER" if options else "TRIGGER"
    db.sql(f"CREATE {kind} {name} {when} ON {table} {options} FOR EACH ROW EXECUTE FUNCTION public.{name}()")


def signs_up(db, **options):
    """One that awaits a mail, so that there is one event."""
    id = db.auth.signup("ann@example.com", {"username": "ann"}, confirmed=False, **options)
    assert db.one("SELECT count(*) FROM auth.users WHERE id = %s", [id]) == 1
    return id


def failure(db, id):
    """The one entry of the log, which must be a failure, and the one warning, which must tell the same."""
    [entry] = audit(db)
    assert (entry["action"], entry["outcome"], entry["auth_user_id"], entry["email"]) == ("failure", "failed", id, "ann@example.com")
    assert (entry["old_app_user_id"], entry["new_app_user_id"], entry["rows_changed"]) == (None, None, 0)
    assert (entry["actor"], entry["undone_by"]) == ("supabase_auth_admin", None)
    error = entry["details"]["error"]
    [warning] = db.warnings
    assert warning.sqlstate == error["sqlstate"]
    assert warning.message == f"onagui_sync could not write the app user of auth user {id}: {error['message']}"
    assert warning.hint == "The sign-up goes on; the failure is recorded in onagui.sync_audit_log."
    return error


def test_no_app_users(db):
    db.install(app_users=False)
    error = failure(db, signs_up(db))
    assert error == {
        "sqlstate": "42P01",
        "message": "table onagui.app_users does not exist",
        "detail": "onagui_sync works on auth.users and onagui.app_users; onagui.app_users was not found.",
        "hint": "Create it in a migration of your own, or call SELECT onagui.create_app_users();",
    }


def test_a_failure_is_recorded_once_a_transaction(db):
    db.install(app_users=False)
    db.auth.signup("ann@example.com")
    assert [entry["action"] for entry in audit(db)] == ["failure"]


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_app_users_is_a_view(db, kind):
    db.install(app_users=False)
    db.sql(f"CREATE {kind} onagui.app_users AS SELECT gen_random_uuid() AS id, 'x'::text AS email")
    error = failure(db, signs_up(db))
    assert error["sqlstate"] == "42P01"
    assert error["message"] == "onagui.app_users is not a table"
    assert error["detail"] == f"It is a {kind.lower()}; onagui_sync writes to ordinary and partitioned tables only."
    assert error["hint"]
    with expect_error("42P01", "is not a table"):
        db.sql("SELECT onagui.create_app_users()")


@pytest.mark.parametrize("column", ["id", "email"])
def test_a_column_is_missing(app, column):
    app.sql(f"ALTER TABLE onagui.app_users DROP COLUMN {column}")
    error = failure(app, signs_up(app))
    assert error["sqlstate"] == "42703"
    assert error["message"] == f"table onagui.app_users has no column {column}"
    assert error["detail"] and error["hint"]


@pytest.mark.parametrize("column, kind, base", [("id", "text", "text"), ("email", "int USING 1", "integer"), ("email", "text[] USING NULL", "text[]")])
def test_a_column_has_an_unfit_type(app, column, kind, base):
    app.sql(f"DROP INDEX onagui.app_users_email_key; ALTER TABLE onagui.app_users ALTER COLUMN {column} TYPE {kind}")
    error = failure(app, signs_up(app))
    assert error["sqlstate"] == "42804"
    assert base in error["detail"]
    assert error["hint"]


def test_a_type_of_ones_own_called_uuid(app):
    app.sql("CREATE TYPE public.uuid AS ENUM ('a')")
    app.sql("DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id public.uuid, email text)")
    assert failure(app, signs_up(app))["sqlstate"] == "42804"


def test_a_check_on_the_email(app):
    app.sql("ALTER TABLE onagui.app_users ADD CONSTRAINT staff CHECK (email LIKE '%@staff.example.com')")
    error = failure(app, signs_up(app))
    assert error["sqlstate"] == "23514"
    assert "staff" in error["message"]


def test_an_email_that_is_too_long(app):
    app.sql("ALTER TABLE onagui.app_users ALTER email TYPE varchar(5)")
    assert failure(app, signs_up(app))["sqlstate"] == "22001"


def test_a_column_nobody_fills(app):
    app.sql("ALTER TABLE onagui.app_users ADD tenant int NOT NULL")
    assert failure(app, signs_up(app))["sqlstate"] == "23502"


def test_a_foreign_key_of_app_users(app):
    app.sql("CREATE TABLE public.tenants (id int PRIMARY KEY); ALTER TABLE onagui.app_users ADD tenant int DEFAULT 1 REFERENCES public.tenants")
    assert failure(app, signs_up(app))["sqlstate"] == "23503"


@pytest.mark.parametrize("when", ["BEFORE INSERT", "AFTER INSERT"])
def test_a_trigger_that_raises(app, when):
    app.sql("CREATE TABLE public.side (n int)")
    trigger(app, "INSERT INTO public.side VALUES (1); RAISE EXCEPTION 'no %', NEW.username USING ERRCODE = 'AB123', DETAIL = 'why', HINT = 'what';", when)
    id = signs_up(app)
    assert failure(app, id) == {"sqlstate": "AB123", "message": "no ann", "detail": "why", "hint": "what"}
    assert app.warnings[0].detail == "why"
    # Nothing of the application's side is left.
    assert app.one("SELECT count(*) FROM public.side") == 0
    assert app.one("SELECT count(*) FROM onagui.app_users") == 0


def test_a_trigger_that_discards_the_row(app):
    app.sql("CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    app.sql("CREATE TRIGGER nothing BEFORE INSERT OR UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.nothing()")
    error = failure(app, signs_up(app))
    assert error == {
        "sqlstate": "09000",
        "message": "a trigger or rule on onagui.app_users discarded the row",
        "detail": "0 of 1 rows were written.",
        "hint": "A BEFORE trigger must return the row: RETURN NEW.",
    }


def test_a_changed_email_that_is_discarded(app):
    id = app.auth.signup("a@example.com")
    app.sql("CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    app.sql("CREATE TRIGGER nothing BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.nothing()")
    app.auth.change_email(id, "ann@example.com")
    assert failure(app, id)["sqlstate"] == "09000"


def test_a_deferred_constraint_trigger_runs_inside(app):
    trigger(
        app, "IF NEW.username = 'ann' THEN RAISE EXCEPTION 'late, as %', current_user; END IF;", "AFTER INSERT", options="DEFERRABLE INITIALLY DEFERRED"
    )
    assert failure(app, signs_up(app))["message"] == "late, as postgres"
    app.auth.signup("bob@example.com")
    assert app.sql("SELECT email FROM onagui.app_users") == [("bob@example.com",)]


def test_a_deferred_foreign_key_runs_inside(app):
    app.sql("CREATE TABLE public.tenants (id int PRIMARY KEY)")
    app.sql("ALTER TABLE onagui.app_users ADD tenant int DEFAULT 1 REFERENCES public.tenants DEFERRABLE INITIALLY DEFERRED")
    assert failure(app, signs_up(app))["sqlstate"] == "23503"
    app.sql("INSERT INTO public.tenants VALUES (1)")
    app.auth.signup("bob@example.com")
    assert app.sql("SELECT email FROM onagui.app_users") == [("bob@example.com",)]


def test_a_trigger_that_writes_to_a_table_with_a_deferred_key(app):
    """As every foreign key is that Django makes. A row whose user does not come is no row of a sign-up's."""
    app.sql(
        """CREATE TABLE public.profiles (
               user_id uuid PRIMARY KEY REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED,
               referrer uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED)"""
    )
    trigger(app, "INSERT INTO public.profiles VALUES (NEW.id, (NEW.metadata ->> 'referrer')::uuid);", "AFTER INSERT")
    ann = app.auth.signup("ann@example.com", meta={"referrer": str(A)})
    assert [(row["action"], row["details"]["left_out"], row["details"]["error"]["sqlstate"]) for row in audit(app)] == [("signup", ["metadata"], "23503")]
    bob = app.auth.signup("bob@example.com", meta={"referrer": str(ann)})
    assert app.sql("SELECT * FROM public.profiles") == [(ann, None), (bob, ann)]
    assert app.warnings == []


def test_rows_that_wait_beside_a_trigger_that_writes_under_a_deferred_key(app):
    """Those of a trigger on auth.users come before the user's row. They go on waiting; under other keys all is checked."""
    app.sql(
        """CREATE TABLE public.waiting (user_id uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED);
           CREATE TABLE public.profiles (user_id uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED)"""
    )
    trigger(app, "INSERT INTO public.profiles VALUES (NEW.id);", "AFTER INSERT")
    app.sql(
        """CREATE FUNCTION public.first() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
               BEGIN INSERT INTO public.waiting VALUES (NEW.id); RETURN NULL; END $$;
           CREATE TRIGGER first AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.first()"""
    )
    ann = app.auth.signup("ann@example.com")
    assert app.sql("SELECT user_id FROM public.profiles JOIN public.waiting USING (user_id) JOIN onagui.app_users u ON u.id = user_id") == [(ann,)]
    assert audit(app) == [] and app.warnings == []
    # Where they wait by the key under which the trigger writes, that is recorded.
    admin = app.connect("supabase_admin")
    admin.execute("DROP TRIGGER first ON auth.users")
    with admin.transaction():
        admin.execute("INSERT INTO public.profiles VALUES (%s)", [A])
        admin.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'bob@example.com')", [uuid.uuid4()])
        admin.execute("DELETE FROM public.profiles WHERE user_id = %s", [A])
    assert [row["details"]["error"]["sqlstate"] for row in audit(app)] == ["42501"]


def test_what_is_deferred_stays_deferred_for_others(app):
    app.sql("ALTER TABLE onagui.app_users ADD parent uuid, ADD CONSTRAINT parent_key FOREIGN KEY (parent) REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED")
    both = app.connect("supabase_admin")
    with both.transaction():
        both.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'a@example.com')", [A])
        child, parent = uuid.uuid4(), uuid.uuid4()
        both.execute("INSERT INTO onagui.app_users (id, parent) VALUES (%s, %s)", [child, parent])
        both.execute("INSERT INTO onagui.app_users (id) VALUES (%s)", [parent])
    assert app.one("SELECT count(*) FROM onagui.app_users") == 3


def test_constraints_that_share_a_name_or_stand_out_of_reach(app):
    """SET CONSTRAINTS takes names: one that is not deferrable elsewhere, or in a schema the owner may not look into."""
    app.sql("ALTER TABLE onagui.app_users ADD parent uuid, ADD CONSTRAINT same FOREIGN KEY (parent) REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED")
    app.sql("CREATE TABLE onagui.other (id int CONSTRAINT same CHECK (id > 0))")
    app.sql(
        """CREATE SCHEMA hidden;
           CREATE TABLE hidden.t (u uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED)""",
        role="supabase_admin",
    )
    id = signs_up(app)
    assert app.sql("SELECT id FROM onagui.app_users") == [(id,)]
    assert app.warnings == []


def test_a_trigger_sees_the_owner_and_nothing_of_the_caller(app):
    app.sql("CREATE TABLE public.seen (who text, session text, path text)")
    trigger(app, "INSERT INTO public.seen VALUES (current_user, session_user, current_setting('search_path'));", "AFTER INSERT")
    signs_up(app)
    assert app.sql("SELECT * FROM public.seen") == [("postgres", "supabase_auth_admin", "pg_catalog, pg_temp")]
    assert app.one("SHOW search_path", role="supabase_auth_admin") == "auth"
    assert app.one("SELECT current_user", role="supabase_auth_admin") == "supabase_auth_admin"


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE supabase_admin",
        "SET ROLE anon",
        "SET SESSION AUTHORIZATION supabase_admin",
        "RESET ROLE",
        "RESET SESSION AUTHORIZATION",
        "SET LOCAL ROLE supabase_auth_admin",
    ],
)
def test_a_trigger_has_no_way_to_more(app, statement):
    trigger(app, f"{statement};")
    error = failure(app, signs_up(app))
    assert error["sqlstate"] == "42501"
    assert "within security-restricted operation" in error["message"] or "within security-definer function" in error["message"]


def test_settings_of_a_trigger_do_not_outlive_the_call(app):
    trigger(
        app,
        """SET search_path = public; SET LOCAL work_mem = '65kB'; SET statement_timeout = '7s'; SET lock_timeout = '9s';
           PERFORM set_config('my.mark', 'left', false);""",
    )
    session = app.connect("supabase_auth_admin")
    names = ("search_path", "work_mem", "statement_timeout", "lock_timeout")
    with session.transaction():
        before = [session.one(f"SHOW {name}") for name in names]
        session.execute("INSERT INTO users (id, email) VALUES (%s, 'a@example.com')", [A])
        assert [session.one(f"SHOW {name}") for name in names] == before
    assert [session.one(f"SHOW {name}") for name in names] == before
    assert not session.one("SELECT current_setting('my.mark', true)")
    assert app.one("SELECT count(*) FROM onagui.app_users") == 1


@pytest.mark.parametrize("fails", [False, True])
def test_the_lock_timeout_is_given_back(app, fails):
    if fails:
        trigger(app, "RAISE EXCEPTION 'no';")
    session = app.connect("supabase_auth_admin")
    session.execute("SET lock_timeout = '3s'")
    session.execute("INSERT INTO users (id, email) VALUES (%s, 'a@example.com')", [A])
    assert session.one("SHOW lock_timeout") == "3s"
    session.execute("RESET lock_timeout")
    assert session.one("SHOW lock_timeout") == "0"


def test_a_hostile_search_path(app):
    app.sql(
        """CREATE SCHEMA evil;
           CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 1/0 || '' $$;
           CREATE FUNCTION evil.btrim(text) RETURNS text LANGUAGE sql AS $$ SELECT 1/0 || '' $$;
           CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT 1/0 = 1 $$;
           CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
           CREATE TABLE evil.users (id int); CREATE TABLE evil.app_users (id int); CREATE TABLE evil.new_users (id int);
           GRANT USAGE ON SCHEMA evil TO PUBLIC;"""
    )
    session = app.connect("supabase_auth_admin")
    session.execute("SET search_path = evil, auth, pg_catalog, onagui")
    session.execute("CREATE TEMP TABLE new_users (id int)")
    session.execute("CREATE TEMP TABLE unnest (id int)")
    session.execute("INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES (%s, 'a@example.com', '{\"username\": \"ann\"}')", [A])
    session.execute("INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES (gen_random_uuid(), 'b@example.com', '{\"username\": \"ann\"}')")
    session.execute("UPDATE auth.users SET email_confirmed_at = now()")
    session.execute("DELETE FROM auth.users")
    assert app.sql("SELECT email FROM onagui.app_users ORDER BY 1") == [("a@example.com",), ("b@example.com",)]
    assert app.warnings == []


def test_row_security_does_not_apply(app):
    app.sql("ALTER TABLE onagui.app_users FORCE ROW LEVEL SECURITY")
    app.sql("CREATE POLICY none ON onagui.app_users USING (false) WITH CHECK (false)")
    app.sql("ALTER TABLE onagui.app_users OWNER TO anon; GRANT USAGE ON SCHEMA onagui TO anon", role="supabase_admin")
    id = app.auth.signup("a@example.com")
    app.auth.change_email(id, "b@example.com")
    assert app.sql("SELECT email FROM onagui.app_users", role="supabase_admin") == [("b@example.com",)]
    assert app.warnings == []


def test_no_owner_runs_code_as_another(app):
    """The planner folds functions in an index of the owner's: it must do so with the owner's rights."""
    app.sql(
        """CREATE TABLE public.ran (who text); GRANT ALL ON public.ran TO PUBLIC;
           CREATE FUNCTION public.act() RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.ran VALUES (current_user); END';
           CREATE FUNCTION public.mark(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.act(); RETURN 'x'; END $$;
           CREATE INDEX ON onagui.app_users ((public.mark(1) || email));
           CREATE STATISTICS public.theirs ON (public.mark(1) || email), id FROM onagui.app_users;"""
    )
    app.sql("GRANT CREATE ON SCHEMA public TO supabase_auth_admin", role="supabase_admin")
    app.sql("CREATE INDEX ON auth.users ((public.mark(1) || email))", role="supabase_auth_admin")
    id = app.auth.signup("a@example.com", {"username": "ann"}, confirmed=False)
    app.auth.confirm(id, connection=app.connect("supabase_auth_admin"))
    app.auth.change_email(id, "b@example.com", connection=app.connect("supabase_auth_admin"))
    app.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'c@example.com')", [A])
    app.auth.signup("c@example.com", confirmed=False, connection=app.connect("supabase_auth_admin"))
    linked = app.auth.signup("c@example.com", sso=True, connection=app.connect("supabase_auth_admin"))
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [linked]) == 1
    app.auth.soft_delete(id, connection=app.connect("supabase_auth_admin"))
    app.auth.delete(id, connection=app.connect("supabase_auth_admin"))
    app.sql("TRUNCATE auth.users CASCADE", role="supabase_auth_admin")
    for call in ("disable_sync", "enable_sync"):
        app.connect().execute(f"SELECT onagui.{call}()")
    assert set(app.sql("SELECT DISTINCT who FROM public.ran")) <= {("postgres",), ("supabase_auth_admin",)}


def test_a_domain_runs_no_code_as_another(app):
    app.sql(
        """CREATE FUNCTION public.mine(text) RETURNS boolean LANGUAGE plpgsql AS
           $$ BEGIN IF current_user <> 'postgres' THEN RAISE EXCEPTION 'ran as %', current_user; END IF; RETURN true; END $$;
           CREATE DOMAIN public.nick AS text CHECK (public.mine(VALUE));
           ALTER TABLE onagui.app_users ALTER username TYPE public.nick, ALTER email TYPE public.nick"""
    )
    app.auth.signup("a@example.com", {"username": "ann"})
    app.auth.signup("b@example.com", {"username": "ann"})
    assert app.one("SELECT count(*) FROM onagui.app_users") == 2
    assert app.warnings == []


def test_a_cast_of_ones_own_runs_no_code_as_another(app):
    app.sql("GRANT CREATE ON SCHEMA public TO supabase_auth_admin", role="supabase_admin")
    app.sql(
        """CREATE TYPE public.shade AS ENUM ('grey');
           CREATE FUNCTION public.to_text(public.shade) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; END $$;
           CREATE CAST (public.shade AS text) WITH FUNCTION public.to_text(public.shade);
           ALTER TABLE auth.users ADD shade public.shade""",
        role="supabase_auth_admin",
    )
    app.sql("ALTER TABLE onagui.app_users ADD shade varchar(3)")
    app.sql("INSERT INTO onagui.sync_column VALUES ('shade', 'column', 'shade')")
    app.sql("INSERT INTO auth.users (id, email, shade) VALUES (%s, 'a@example.com', 'grey')", [A], role="supabase_auth_admin")
    assert app.sql("SELECT shade FROM onagui.app_users") == [("gre",)]


def test_cancel_is_passed_on(app):
    trigger(app, "PERFORM pg_sleep(30);")
    session = app.connect("supabase_auth_admin")
    session.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        session.execute("INSERT INTO users (id, email) VALUES (%s, 'a@example.com')", [A])
    assert app.one("SELECT count(*) FROM auth.users") == 0
    assert audit(app) == []


@pytest.mark.parametrize("sqlstate", ["40001", "53200", "57014", "53100"])
def test_what_must_pass_is_passed_on(app, sqlstate):
    trigger(app, f"RAISE EXCEPTION 'passed' USING ERRCODE = '{sqlstate}', DETAIL = 'd', HINT = 'h';")
    with expect_error(sqlstate, "passed", "d", "h"):
        app.auth.signup("a@example.com")
    with expect_error(sqlstate, "passed"):
        app.sql("INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), i || '@example.com' FROM generate_series(1, 9) i", role="supabase_auth_admin")
    assert app.one("SELECT count(*) FROM auth.users") == 0


def test_on_error_raise(app):
    app.sql("ALTER ROLE supabase_auth_admin SET onagui_sync.on_error = 'raise'", role="supabase_admin")
    try:
        trigger(app, "RAISE EXCEPTION 'no' USING ERRCODE = 'AB123', DETAIL = 'd', HINT = 'h', COLUMN = 'c';")
        with expect_error("AB123", "no", "d", "h") as caught:
            app.auth.signup("a@example.com", connection=app.connect("supabase_auth_admin"))
        assert caught.diag.column_name == "c"
        assert app.one("SELECT count(*) FROM auth.users") == 0
        assert audit(app) == []
        # A conflict is no error.
        app.sql("DROP TRIGGER theirs ON onagui.app_users; INSERT INTO onagui.app_users (id, email) VALUES (gen_random_uuid(), 'a@example.com')")
        app.auth.signup("a@example.com", confirmed=False, connection=app.connect("supabase_auth_admin"))
        assert [entry["action"] for entry in audit(app)] == ["pending"]
        app.sql("DROP TABLE onagui.app_users")
        with expect_error("42P01", "onagui.app_users does not exist"):
            app.auth.signup("b@example.com", connection=app.connect("supabase_auth_admin"))
    finally:
        app.sql("ALTER ROLE supabase_auth_admin RESET onagui_sync.on_error", role="supabase_admin")


def test_no_audit_log_to_record_in(app):
    """Even then: the sign-up goes on."""
    app.sql("ALTER TABLE onagui.sync_audit_log RENAME TO gone", role="supabase_admin")
    id = signs_up(app)
    assert [w.sqlstate for w in app.warnings] == ["42P01"]
    app.auth.delete(id)


def test_a_record_that_fails(app):
    trigger(app, "RAISE EXCEPTION 'no';")
    app.sql("ALTER TABLE onagui.sync_audit_log ADD CHECK (action <> 'failure')", role="supabase_admin")
    signs_up(app)
    [warning] = app.warnings
    assert "could not be recorded" in warning.hint


def test_auth_users_without_an_email(app):
    """Who knows what another version of the Auth server does."""
    app.sql("ALTER TABLE auth.users RENAME email TO address", role="supabase_auth_admin")
    app.sql("INSERT INTO auth.users (id, address) VALUES (%s, 'a@example.com')", [A], role="supabase_auth_admin")
    [entry] = audit(app)
    assert (entry["auth_user_id"], entry["details"]["error"]["sqlstate"]) == (A, "42703")
    app.sql("DELETE FROM auth.users", role="supabase_auth_admin")
    assert audit(app)[1]["action"] == "delete"


def test_ddl_between_signups_of_one_connection(app):
    for number, ddl in enumerate(
        [
            "SELECT 1",
            "ALTER TABLE onagui.app_users DROP COLUMN username",
            "ALTER TABLE onagui.app_users ADD COLUMN username varchar(4)",
            "ALTER TABLE onagui.app_users ALTER email TYPE varchar(100)",
            "ALTER TABLE onagui.app_users RENAME COLUMN full_name TO display",
            "DROP INDEX onagui.app_users_email_key",
            "ALTER TABLE onagui.app_users RENAME TO old_users; SELECT onagui.create_app_users()",
            "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (email text, id uuid UNIQUE)",
            "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid, email text, username text, PRIMARY KEY (id)) PARTITION BY HASH (id);"
            "CREATE TABLE onagui.p0 PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            "CREATE TABLE onagui.p1 PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            "TRUNCATE onagui.app_users",
        ]
    ):
        app.sql(ddl)
        id = app.auth.signup(f"user{number}@example.com", {"username": f"user{number}"})
        assert app.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [id]) == 1, ddl
        app.auth.change_email(id, f"new{number}@example.com")
        assert app.sql("SELECT email::text FROM onagui.app_users WHERE id = %s", [id]) == [(f"new{number}@example.com",)], ddl
    app.sql("ALTER TABLE onagui.app_users OWNER TO service_role; GRANT USAGE ON SCHEMA onagui TO service_role", role="supabase_admin")
    app.auth.signup("owner@example.com")
    assert app.warnings == []


def test_ddl_inside_the_transaction(app):
    session = app.connect("supabase_admin")
    insert = "INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES (gen_random_uuid(), %s, '{\"username\": \"ann\"}')"
    with session.transaction():
        session.execute(insert, ["a@example.com"])
        session.execute("ALTER TABLE onagui.app_users DROP COLUMN username, ADD COLUMN metadata2 int")
        session.execute(insert, ["b@example.com"])
        session.execute("ALTER TABLE onagui.app_users ADD COLUMN username text")
        session.execute(insert, ["c@example.com"])
        session.execute("ALTER TABLE auth.users ADD COLUMN more int, DROP COLUMN phone_change")
        session.execute(insert, ["d@example.com"])
    assert app.sql("SELECT email, username FROM onagui.app_users ORDER BY email") == [
        ("a@example.com", None), ("b@example.com", None), ("c@example.com", "ann"), ("d@example.com", "ann"),
    ]
    assert session.warnings == []


def test_partitions(db):
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text) PARTITION BY RANGE (id);
           CREATE TABLE onagui.low PARTITION OF onagui.app_users FOR VALUES FROM (MINVALUE) TO ('80000000-0000-0000-0000-000000000000')"""
    )
    low = db.auth.signup("low@example.com", id=uuid.UUID("10000000-0000-4000-8000-000000000000"))
    assert db.sql("SELECT id FROM onagui.app_users") == [(low,)]
    high = db.auth.signup("high@example.com", id=A, confirmed=False)
    [entry] = audit(db)
    assert (entry["auth_user_id"], entry["details"]["error"]["sqlstate"]) == (high, "23514")


def test_a_deferred_constraint_trigger_of_a_partition(db):
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text) PARTITION BY HASH (id);
           CREATE TABLE onagui.only PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 1, REMAINDER 0)"""
    )
    body = "IF NEW.email LIKE 'bad%' THEN RAISE EXCEPTION 'no'; END IF;"
    trigger(db, body, "AFTER INSERT OR UPDATE", table="onagui.only", options="DEFERRABLE INITIALLY DEFERRED")
    ann = db.auth.signup("ann@example.com")
    bad = db.auth.signup("bad@example.com")
    db.auth.change_email(ann, "ann@example.org")
    assert db.sql("SELECT id, email FROM onagui.app_users") == [(ann, "ann@example.org")]
    assert [(entry["auth_user_id"], entry["details"]["error"]["message"]) for entry in audit(db) if entry["action"] == "failure"] == [(bad, "no")]


def test_children_of_inheritance_are_not_app_users(app):
    app.sql("CREATE TABLE public.child () INHERITS (onagui.app_users)")
    app.sql("INSERT INTO public.child (id, email) VALUES (%s, 'a@example.com')", [A])
    id = app.auth.signup("a@example.com")
    assert app.sql("SELECT id FROM ONLY onagui.app_users") == [(id,)]


@pytest.mark.parametrize("code", ["OS000", "25P02", "40003"])
def test_a_code_that_means_something_inside(app, code):
    """Whatever a trigger raises is an error of the application's."""
    app.sql(
        f"""CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$;
            CREATE TRIGGER no BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION no()"""
    )
    app.auth.signup("ann@example.com")
    app.sql("INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), format('u%%s@example.com', i) FROM generate_series(1, 3) i", [], role="supabase_auth_admin")
    assert [entry["details"]["error"]["sqlstate"] for entry in audit(app)] == [code] * 4
