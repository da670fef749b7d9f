"""Sign-ups and others at the same time: no row lost, no sign-up blocked, what could not be written recorded."""

import json
import threading
import time
import uuid

import psycopg
import pytest

from repairs import auth_user
from support import audit, expect_error

A = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
B = uuid.UUID("bbbbbbbb-0000-4000-8000-000000000002")
SIGN_UP = "INSERT INTO auth.users (id, email, raw_user_meta_data, is_sso_user, email_confirmed_at) VALUES (%s, %s, %s, true, now())"


@pytest.fixture
def app(db):
    return db.install()


def users(db):
    return db.sql("SELECT id, email, username FROM onagui.app_users ORDER BY id")


def begin_signup(db, id, email, meta="{}"):
    session = db.connect("supabase_auth_admin")
    session.autocommit = False
    session.execute(SIGN_UP, [id, email, meta])
    return session


def signup_meanwhile(db, id, email, meta="{}", connection=None):
    return db.in_background(SIGN_UP, [id, email, meta], role="supabase_auth_admin", connection=connection)


@pytest.mark.parametrize("commits", [True, False])
def test_two_for_one_username(app, commits):
    first = begin_signup(app, A, "a@example.com", '{"username": "ann"}')
    second = signup_meanwhile(app, B, "b@example.com", '{"username": "ann"}').wait_blocked(by=first)
    first.commit() if commits else first.rollback()
    second.result()
    made = [(B, "b@example.com", "ann_bbbbbbbb" if commits else "ann")]
    assert users(app) == ([(A, "a@example.com", "ann")] if commits else []) + made
    assert app.warnings == []


@pytest.mark.parametrize("commits", [True, False])
def test_two_for_one_email(app, commits):
    first = begin_signup(app, A, "same@example.com")
    second = signup_meanwhile(app, B, "same@example.com").wait_blocked(by=first)
    first.commit() if commits else first.rollback()
    second.result()
    if commits:
        assert users(app) == [(A, "same@example.com", "same")]
        [entry] = audit(app)
        assert (entry["action"], entry["auth_user_id"]) == ("conflict", B)
    else:
        assert users(app) == [(B, "same@example.com", "same")]
        assert audit(app) == []
    assert app.warnings == []


@pytest.mark.parametrize("commits", [True, False])
def test_a_signup_and_an_insert_of_the_application(app, commits):
    with app.connect() as mine:
        mine.autocommit = False
        mine.execute("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'Same@example.com')", [B])
        signup = signup_meanwhile(app, A, "same@example.com").wait_blocked(by=mine)
        mine.commit() if commits else mine.rollback()
        signup.result()
    # Confirmed, and the row was nobody's: it is taken over.
    assert users(app) == [(A, "same@example.com", "same")]
    assert [entry["action"] for entry in audit(app)] == (["link"] if commits else [])
    assert app.warnings == []


def test_an_insert_of_the_application_after_the_signup(app):
    signup = begin_signup(app, A, "same@example.com")
    mine = app.in_background("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'same@example.com')", [B]).wait_blocked(by=signup)
    signup.commit()
    with pytest.raises(psycopg.errors.UniqueViolation):
        mine.result()
    assert users(app) == [(A, "same@example.com", "same")]


def test_without_the_unique_index_nobody_waits_and_nobody_is_lost(app):
    app.sql("DROP INDEX onagui.app_users_email_key; CREATE INDEX ON onagui.app_users (lower(btrim(email)))")
    with app.connect() as mine:
        mine.autocommit = False
        mine.execute("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'same@example.com')", [B])
        signup_meanwhile(app, A, "same@example.com").result()
        mine.commit()
    # Nothing can be known of a row that is not committed: both are there, for the status to show as a duplicate.
    assert [row[0] for row in users(app)] == [A, B]
    first = begin_signup(app, uuid.uuid4(), "two@example.com")
    signup_meanwhile(app, uuid.uuid4(), "two@example.com", '{"username": "other"}').result()
    first.commit()
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE email = 'two@example.com'") == 2


def test_a_row_that_is_being_inserted_for_longer_than_one_waits(app):
    app.sql("ALTER ROLE supabase_auth_admin SET onagui_sync.lock_timeout = '200ms'", role="supabase_admin")
    try:
        with app.connect() as mine:
            mine.autocommit = False
            mine.execute("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'u7@example.com')", [B])
            start = time.monotonic()
            # One of many waits in vain: the others shall have their rows.
            app.connect("supabase_auth_admin").execute(
                "INSERT INTO users (id, email) SELECT gen_random_uuid(), 'u' || i || '@example.com' FROM generate_series(1, 200) i"
            )
            assert time.monotonic() - start < 10
            mine.rollback()
    finally:
        app.sql("ALTER ROLE supabase_auth_admin RESET onagui_sync.lock_timeout", role="supabase_admin")
    assert app.one("SELECT count(*) FROM onagui.app_users") == 199
    [entry] = audit(app)
    assert (entry["action"], entry["email"], entry["details"]["error"]["sqlstate"]) == ("failure", "u7@example.com", "55P03")


@pytest.mark.parametrize("many", [False, True])
def test_a_lock_on_app_users(app, many):
    app.sql("ALTER ROLE supabase_auth_admin SET onagui_sync.lock_timeout = '500ms'", role="supabase_admin")
    try:
        with app.connect() as migration:
            migration.autocommit = False
            migration.execute("LOCK TABLE onagui.app_users IN ACCESS EXCLUSIVE MODE")
            session = app.connect("supabase_auth_admin")
            start = time.monotonic()
            if many:
                session.execute("INSERT INTO users (id, email) SELECT gen_random_uuid(), 'u' || i || '@example.com' FROM generate_series(1, 1000) i")
            else:
                # Insert and confirm: two statements, which wait once.
                app.auth.signup("ann@example.com", id=A, connection=session)
            took = time.monotonic() - start
            migration.rollback()
        assert 0.4 < took < 0.5 + 1.0, took
        assert session.one("SHOW lock_timeout") == "0"
    finally:
        app.sql("ALTER ROLE supabase_auth_admin RESET onagui_sync.lock_timeout", role="supabase_admin")
    entries = audit(app)
    assert len(entries) == (1000 if many else 1)
    assert {(entry["action"], entry["details"]["error"]["sqlstate"]) for entry in entries} == {("failure", "55P03")}
    assert users(app) == []
    # The next transaction waits as long as ever.
    with app.connect() as migration:
        migration.autocommit = False
        migration.execute("LOCK TABLE onagui.app_users IN ACCESS EXCLUSIVE MODE")
        next_one = signup_meanwhile(app, B, "bob@example.com", connection=session).wait_blocked(by=migration)
        migration.rollback()
        next_one.result()
    assert [row[0] for row in users(app)] == [B]


def test_lock_timeout_zero_is_the_sessions_own(app):
    session = app.connect("supabase_admin")
    session.execute("SELECT onagui.enable_sync()")
    session.execute("SET onagui_sync.lock_timeout = 0; SET lock_timeout = '300ms'")
    with app.connect() as migration:
        migration.autocommit = False
        migration.execute("LOCK TABLE onagui.app_users IN ACCESS EXCLUSIVE MODE")
        start = time.monotonic()
        session.execute(SIGN_UP, [A, "a@example.com", "{}"])
        assert 0.25 < time.monotonic() - start < 1.5
        migration.rollback()
    assert session.one("SHOW lock_timeout") == "300ms"
    assert [entry["details"]["error"]["sqlstate"] for entry in audit(app)] == ["55P03"]


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE onagui.app_users DROP COLUMN username",
        "ALTER TABLE onagui.app_users ADD COLUMN phone text",
        "ALTER TABLE onagui.app_users ALTER COLUMN username TYPE varchar(3)",
        "DROP INDEX onagui.app_users_email_key",
        "ALTER TABLE onagui.app_users RENAME TO old_users; SELECT onagui.create_app_users()",
        "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (email text, id uuid PRIMARY KEY)",
    ],
)
@pytest.mark.parametrize("warm", [True, False])
def test_ddl_during_a_signup(app, ddl, warm):
    """The sign-up waits for the migration and then finds another table than it had looked at."""
    session = app.connect("supabase_auth_admin")
    if warm:
        session.execute(SIGN_UP, [B, "b@example.com", '{"username": "b"}'])
    with app.connect() as migration:
        migration.autocommit = False
        migration.execute(ddl)
        signup = signup_meanwhile(app, A, "ann@example.com", '{"username": "ann"}', connection=session).wait_blocked(by=migration)
        migration.commit()
        signup.result()
    assert app.sql("SELECT email::text FROM onagui.app_users WHERE id = %s", [A]) == [("ann@example.com",)]
    assert app.warnings == []
    signup_meanwhile(app, uuid.uuid4(), "next@example.com", connection=session).result()
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE email = 'next@example.com'") == 1


def test_app_users_goes_during_a_signup(app):
    session = app.connect("supabase_auth_admin")
    session.execute(SIGN_UP, [B, "b@example.com", "{}"])
    with app.connect() as migration:
        migration.autocommit = False
        migration.execute("DROP TABLE onagui.app_users")
        signup = signup_meanwhile(app, A, "ann@example.com", connection=session).wait_blocked(by=migration)
        migration.commit()
        signup.result()
    [entry] = audit(app)
    assert (entry["auth_user_id"], entry["details"]["error"]["sqlstate"]) == (A, "42P01")


def test_whoever_meets_a_deadlock_waits_for_the_other_one(app):
    """The sign-up's trigger takes the two rows in one order, the application in the other."""
    app.sql(
        """CREATE TABLE public.counters (name text PRIMARY KEY, n int DEFAULT 0);
           INSERT INTO public.counters VALUES ('a'), ('b');
           CREATE FUNCTION public.count() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               UPDATE public.counters SET n = n + 1 WHERE name = 'a'; PERFORM pg_advisory_xact_lock(1);
               UPDATE public.counters SET n = n + 1 WHERE name = 'b'; RETURN NEW; END $$;
           CREATE TRIGGER count AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.count()"""
    )
    gate = app.connect()
    gate.execute("SELECT pg_advisory_lock(1)")
    session = app.connect("supabase_admin")
    # It is the sign-up's deadlock detector that shall strike.
    session.execute("SET deadlock_timeout = '10ms'")
    signup = signup_meanwhile(app, A, "ann@example.com", connection=session).wait_blocked(by=gate)
    mine = app.connect("supabase_admin")
    mine.execute("SET deadlock_timeout = '20s'")
    mine.autocommit = False
    mine.execute("UPDATE public.counters SET n = 5 WHERE name = 'b'")
    other = app.in_background("UPDATE public.counters SET n = 5 WHERE name = 'a'", connection=mine).wait_blocked(by=session)
    gate.execute("SELECT pg_advisory_unlock(1)")
    other.result()
    mine.commit()
    signup.result()
    assert [id for id, *_ in users(app)] == [A]
    assert audit(app) == []
    assert app.sql("SELECT n FROM public.counters") == [(6,), (6,)]


def test_a_deadlock_that_comes_again_is_recorded(app):
    app.sql(
        """CREATE SEQUENCE public.attempts;
           CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM nextval('public.attempts'); RAISE 'again' USING ERRCODE = '40P01'; END $$;
           CREATE TRIGGER refuse AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.refuse()"""
    )
    signup_meanwhile(app, A, "ann@example.com").result()
    assert app.sql("SELECT id FROM auth.users") == [(A,)]
    assert users(app) == []
    [entry] = audit(app)
    assert (entry["action"], entry["details"]["error"]["sqlstate"]) == ("failure", "40P01")
    assert app.one("SELECT last_value FROM public.attempts") == 4


def test_a_serialization_failure_is_passed_on(app):
    app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'a@example.com', 'ann')", [A])
    session = app.connect("supabase_auth_admin")
    session.autocommit = False
    session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    session.execute("SELECT 1 FROM users")
    app.sql("UPDATE onagui.app_users SET username = 'anna'")
    with pytest.raises(psycopg.errors.SerializationFailure):
        session.execute("INSERT INTO users (id, email) VALUES (%s, 'new@example.com')", [A])
    session.rollback()
    assert audit(app) == []
    session.execute("INSERT INTO users (id, email) VALUES (%s, 'new@example.com')", [A])
    session.commit()
    assert users(app) == [(A, "new@example.com", "anna")]


def test_many_at_once(app):
    """Eight sessions sign up for few names and addresses while a migration comes and goes."""
    stop = threading.Event()
    failures = []

    def sign_up(worker):
        session = app.connect("supabase_auth_admin")
        number = 0
        while not stop.is_set() and number < 150:
            try:
                session.execute(SIGN_UP, [uuid.uuid4(), f"u{number % 40}@example.com", '{"username": "n%d"}' % (number % 7)])
            except Exception as error:  # told below
                failures.append(error)
            number += 1

    threads = [threading.Thread(target=sign_up, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    migration = app.connect()
    for _ in range(5):
        migration.execute("ALTER TABLE onagui.app_users ADD COLUMN extra int")
        migration.execute("ALTER TABLE onagui.app_users DROP COLUMN extra")
    for thread in threads:
        thread.join(60)
    stop.set()
    assert failures == []
    assert app.one("SELECT count(*) FROM auth.users") == 8 * 150
    assert app.one("SELECT count(*) FROM onagui.app_users") == 40
    # Each of the others is told of.
    missing = app.one(
        """SELECT count(*) FROM auth.users u LEFT JOIN onagui.app_users a USING (id) LEFT JOIN onagui.sync_audit_log l ON l.auth_user_id = u.id
            WHERE a.id IS NULL AND l.audit_id IS NULL""",
        role="supabase_admin",
    )
    assert missing == 0
    assert {(entry["action"], entry["details"].get("error", {}).get("sqlstate")) for entry in audit(app)} == {("conflict", None)}


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("change", ["DELETE FROM onagui.app_users", "UPDATE onagui.app_users SET email = 'other@example.com'"])
@pytest.mark.parametrize("commits", [True, False])
def test_the_row_to_link_goes_meanwhile(app, unique, change, commits):
    if not unique:
        app.sql("DROP INDEX onagui.app_users_email_key; CREATE INDEX ON onagui.app_users (lower(btrim(email)))")
    app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'same@example.com', 'mine')", [B])
    with app.connect() as mine:
        mine.autocommit = False
        mine.execute(change)
        signup = signup_meanwhile(app, A, "same@example.com").wait_blocked(by=mine)
        mine.commit() if commits else mine.rollback()
        signup.result()
    assert app.warnings == []
    assert [row for row in users(app) if row[0] == A] == [(A, "same@example.com", "same" if commits else "mine")]
    assert [entry["action"] for entry in audit(app)] == ([] if commits else ["link"])


@pytest.mark.parametrize("email", ["ann@example.com", None])
@pytest.mark.parametrize("by", ["sign-up", "fix"])
def test_the_row_of_a_sign_up_under_way_is_not_linked_away(app, email, by):
    """It needs no filling, so that nothing of it is written."""
    row = app.one(
        "INSERT INTO onagui.app_users (id, email, username, full_name, metadata) VALUES (gen_random_uuid(), 'ann@example.com', 'ann', 'Ann', '{}') RETURNING id"
    )
    if by == "fix":
        app.sql("ALTER TABLE auth.users DISABLE TRIGGER USER", role="supabase_auth_admin")
        app.auth.signup("ann@example.com")
        app.sql("ALTER TABLE auth.users ENABLE TRIGGER USER", role="supabase_auth_admin")
    auth = app.connect("supabase_auth_admin")
    auth.execute("BEGIN")
    app.auth.signup(email, id=row, phone=None if email else "4912345", sso=bool(email), connection=auth)
    if by == "fix":
        running = app.in_background("SELECT outcome FROM onagui.fix_user_ids(ARRAY['ann@example.com'], true)")
    else:
        insert = "INSERT INTO auth.users (id, email, email_confirmed_at, is_sso_user) VALUES (gen_random_uuid(), 'ann@example.com', now(), false)"
        running = app.in_background(insert, role="supabase_auth_admin")
    running.wait_blocked(by=auth)
    auth.execute("COMMIT")
    running.result()
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [row]) == 1


def test_an_email_change_whose_row_is_deleted_meanwhile(app):
    """Without a row it is treated as a sign-up."""
    ann = app.auth.signup("ann@example.com")
    other = app.connect()
    other.execute("BEGIN")
    other.execute("DELETE FROM onagui.app_users")
    running = app.in_background("UPDATE auth.users SET email = 'new@example.com'", role="supabase_auth_admin").wait_blocked(by=other)
    other.execute("COMMIT")
    running.result()
    assert app.sql("SELECT id, email FROM onagui.app_users") == [(ann, "new@example.com")]
    assert app.one("SELECT count(*) FROM onagui.sync_audit_log WHERE action = 'failure'", role="supabase_admin") == 0


def without_unique_emails(db):
    db.sql("DROP INDEX onagui.app_users_email_key; CREATE INDEX ON onagui.app_users (lower(btrim(email)))")


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("theirs, username", [(None, None), (None, "annie"), ("annie", "annie")])
def test_a_row_that_comes_while_a_registration_waits(app, unique, own, theirs, username):
    if not unique:
        without_unique_emails(app)
    ann = auth_user(app, "ann@example.com")
    body = {"userId": str(ann), "email": "ann@example.com"} | ({"username": username} if username else {})
    with app.connect() as other:
        other.autocommit = False
        other.execute("LOCK TABLE onagui.app_users IN SHARE MODE")
        call = app.in_background("SELECT onagui.sync_user_registration(%s)", [json.dumps(body)]).wait_blocked(by=other)
        other.execute("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'ann@example.com', %s)", [ann if own else B, theirs])
        other.commit()
    ((answer,),) = call.result()
    assert answer["data"]["action"] == ("updated" if own else "linked")
    assert users(app) == [(ann, "ann@example.com", username or "ann")]


def test_a_registration_whose_row_a_trigger_discards(app):
    """It is tried once: nobody was faster."""
    ann = auth_user(app, "ann@example.com")
    app.sql(
        """CREATE SEQUENCE public.tries;
           CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('public.tries'); RETURN NULL; END $$;
           CREATE TRIGGER no BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.no()"""
    )
    with expect_error("09000"):
        app.sql("SELECT onagui.sync_user_registration(%s)", [json.dumps({"userId": str(ann), "email": "ann@example.com"})])
    assert app.one("SELECT last_value FROM public.tries") == 1


def test_a_row_that_comes_while_a_signup_looks_for_another_username(app):
    without_unique_emails(app)
    holder = begin_signup(app, uuid.uuid4(), "holder@example.com", '{"username": "ann"}')
    signup = signup_meanwhile(app, A, "ann@example.com", '{"username": "ann"}').wait_blocked(by=holder)
    other = app.connect()
    other.autocommit = False
    lock = app.in_background("LOCK TABLE onagui.app_users IN SHARE MODE", connection=other).wait_blocked(by=signup.connection)
    holder.commit()
    lock.result()
    signup.wait_blocked(by=other)
    other.execute("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'ann@example.com', 'boss')", [B])
    other.commit()
    signup.result()
    assert app.sql("SELECT id, username FROM onagui.app_users WHERE email = 'ann@example.com'") == [(A, "boss")]
    assert [entry["action"] for entry in audit(app)] == ["link"] and app.warnings == []
