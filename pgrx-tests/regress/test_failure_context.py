"""Where an error comes from: which code of the application was running."""

import psycopg
import pytest
from repairs import ADMIN, auth_user, fix_one, mismatched
from support import audit

FAILS = """
    CREATE FUNCTION public.note_it() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body}; RETURN NEW; END$$;
    CREATE TRIGGER note_it {when} ON {table} FOR EACH ROW EXECUTE FUNCTION public.note_it()"""
NOTE_IT = "PL/pgSQL function public.note_it() line 1 at "
POSTS = "CREATE TABLE posts (id int, author uuid REFERENCES onagui.app_users)"


@pytest.fixture
def db(db):
    db.install()
    return db


def signs_up(db):
    db.sql("INSERT INTO auth.users (id, email, is_sso_user) VALUES (gen_random_uuid(), 'ann@example.com', false)", role="supabase_auth_admin")
    [entry] = audit(db)
    [warning] = db.warnings
    return entry["details"], warning


def fails(db, table, when, body):
    db.sql(FAILS.format(table=table, when=when, body=body))


@pytest.mark.parametrize("when", ["BEFORE INSERT", "AFTER INSERT"])
def test_a_sign_up(db, when):
    fails(db, "onagui.app_users", when, "PERFORM 1 / 0")
    details, warning = signs_up(db)
    assert set(details["error"]) == {"sqlstate", "message", "detail", "hint"} and details["error"]["sqlstate"] == "22012"
    assert details["context"].splitlines()[-1] == NOTE_IT + "PERFORM"
    assert NOTE_IT in warning.context


def test_nothing_of_the_application_runs(db):
    db.sql("ALTER TABLE onagui.app_users ADD CHECK (email <> 'ann@example.com')")
    details, _ = signs_up(db)
    assert details["error"]["sqlstate"] == "23514" and "context" not in details


@pytest.mark.parametrize("when", ["BEFORE UPDATE", "AFTER UPDATE"])
def test_a_fix(db, when):
    db.sql(POSTS)
    fails(db, "posts", when, "INSERT INTO history VALUES (NEW.id)")
    db.sql("CREATE TABLE history (id int)")
    app, _ = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO posts VALUES (1, %s)", [app])
    details = fix_one(db, "ann@example.com")["details"]
    error = details["error"]
    assert (error["sqlstate"], error["message"]) == ("42P01", 'relation "history" does not exist')
    assert "search_path = pg_catalog, pg_temp here: qualify the name, or give the function a SET search_path" in error["hint"]
    assert details["context"] == NOTE_IT + "SQL statement"
    db.sql("ALTER FUNCTION note_it() SET search_path = public")
    assert fix_one(db, "ann@example.com")["outcome"] == "done"


def test_the_servers_own_hint_stays(db):
    db.sql(POSTS)
    fails(db, "posts", "BEFORE UPDATE", "PERFORM shout(NEW.id)")
    app, _ = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO posts VALUES (1, %s)", [app])
    error = fix_one(db, "ann@example.com")["details"]["error"]
    assert error["sqlstate"] == "42883" and error["hint"].startswith("No function matches") and error["hint"].endswith("a SET search_path.")


def test_a_call_that_fails(db):
    fails(db, "onagui.app_users", "BEFORE INSERT", "PERFORM 1 / 0")
    id = auth_user(db, "ann@example.com")
    with pytest.raises(psycopg.errors.DivisionByZero) as raised:
        db.sql("SELECT onagui.sync_user_registration(jsonb_build_object('userId', %s::text, 'email', 'ann@example.com'))", [str(id)], role=ADMIN)
    assert NOTE_IT in raised.value.diag.context


def test_it_is_not_endless(db):
    db.sql("CREATE FUNCTION deeper(n int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN CASE n WHEN 0 THEN 1 / n ELSE public.deeper(n - 1) END; END$$")
    fails(db, "onagui.app_users", "BEFORE INSERT", "PERFORM public.deeper(100)")
    context = signs_up(db)[0]["context"]
    assert 1900 < len(context) < 2010 and context.endswith(" ...")
