"""What fails for a sign-up because the tables, or what they are made of, changed under a session that stays is done anew."""

import uuid

import pytest

from support import audit

A, B = uuid.UUID(int=0xA), uuid.UUID(int=0xB)
SIGN_UP = "INSERT INTO auth.users (id, email, raw_user_meta_data, raw_app_meta_data) VALUES (%s, %s, %s, %s)"
#: A username that is taken makes more than the first statement necessary.
TAKEN = '{"username": "taken"}'

PLAN = "CREATE TYPE public.plan AS ENUM ('free', 'pro')"


def users(db, more):
    db.install(app_users=False)
    db.sql(
        f"""CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text UNIQUE, full_name text, {more});
            CREATE UNIQUE INDEX ON onagui.app_users (lower(btrim(email)))"""
    )


def sign_up(session, id, email, user_meta="{}", app_meta="{}"):
    session.execute(SIGN_UP, [id, email, user_meta, app_meta])


def failures(db):
    return [entry["details"] for entry in audit(db) if entry["action"] == "failure"]


@pytest.mark.parametrize("way", ["plain", "taken", "many", "link", "register", "fix"])
@pytest.mark.parametrize(
    "before, more, after",
    [
        (PLAN, "plan public.plan NOT NULL DEFAULT 'free'", "ALTER TYPE public.plan RENAME TO tier"),
        (PLAN, "plan public.plan NOT NULL DEFAULT 'free'", "ALTER TYPE public.plan RENAME VALUE 'free' TO 'basic'"),
        (
            "CREATE FUNCTION public.gen() RETURNS text LANGUAGE sql AS $$ SELECT 'some' $$",
            "plan text NOT NULL DEFAULT public.gen()",
            "ALTER FUNCTION public.gen() RENAME TO made",
        ),
        ("CREATE SEQUENCE public.n", "plan text NOT NULL DEFAULT 'plan ' || nextval('public.n')", "ALTER SEQUENCE public.n RENAME TO m"),
    ],
    ids=["type", "value of a type", "function", "sequence"],
)
def test_what_a_default_names_is_renamed(db, before, more, after, way):
    db.sql(before)
    users(db, more)
    db.sql("INSERT INTO onagui.sync_column VALUES ('plan', 'app_meta', 'plan')")
    session = db.connect("supabase_auth_admin")
    operator = db.connect("postgres")
    for n in range(2):
        sign_up(session, uuid.uuid4(), f"before{n}@example.com", TAKEN)
        operator.execute("SELECT onagui.fix_user_ids(ARRAY['nobody@example.com'], true)")
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'old@example.com')", [B])
    with db.session("supabase_admin").transaction():
        db.sql("SET LOCAL onagui_sync.enabled = off", role="supabase_admin")
        db.sql(SIGN_UP, [uuid.UUID(int=0xC), "missing@example.com", "{}", "{}"], role="supabase_admin")
    db.sql(after)
    if way == "plain":
        sign_up(session, A, "ann@example.com")
    elif way == "taken":
        sign_up(session, A, "ann@example.com", TAKEN)
    elif way == "many":
        session.execute(
            """INSERT INTO auth.users (id, email, raw_app_meta_data) VALUES (%s, 'ann@example.com', '{"plan": "pro"}'), (%s, 'bob@example.com', '{}')""",
            [A, uuid.uuid4()],
        )
        assert db.one("SELECT plan::text FROM onagui.app_users WHERE id = %s", [A]) == "pro"
    elif way == "link":
        sign_up(session, A, "old@example.com")
        session.execute("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [A])
        assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [B]) == 0
    elif way == "register":
        # The session's own look at the tables is as old as the fixes it has made.
        operator.execute("SELECT set_config('request.jwt.claims', %s, false)", ['{"sub": "00000000-0000-0000-0000-00000000000c"}'])
        operator.execute("SELECT onagui.sync_user_registration(%s::jsonb)", ['{"userId": "00000000-0000-0000-0000-00000000000c", "email": "missing@example.com"}'])
    else:
        operator.execute("SELECT onagui.fix_user_ids(NULL, true)")
    id = uuid.UUID(int=0xC) if way in ("register", "fix") else A
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [id]) == 1
    assert failures(db) == []
    assert db.warnings == []


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE onagui.app_users DROP COLUMN full_name",
        "ALTER TABLE onagui.app_users RENAME COLUMN full_name TO display_name",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON onagui.app_users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note()",
    ],
)
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_migration_slips_in_between_two_attempts(db, ddl, many):
    """The first attempt waits for somebody with the same username; when it fails it gives its lock of the table up."""
    db.install()
    db.sql(
        """CREATE TABLE public.notes (id uuid);
           CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.notes VALUES (NEW.id); RETURN NULL; END $$"""
    )
    session = db.connect("supabase_auth_admin")
    sign_up(session, uuid.uuid4(), "before@example.com")
    with db.connect("supabase_auth_admin") as other, db.connect() as migration:
        other.autocommit = migration.autocommit = False
        sign_up(other, B, "bob@example.com", TAKEN)
        call, ids = SIGN_UP, [A]
        params = [A, "ann@example.com", TAKEN, "{}"]
        if many:
            ids.append(uuid.uuid4())
            call += ", (%s, %s, %s, %s)"
            params += [ids[1], "eve@example.com", "{}", "{}"]
        signup = db.in_background(call, params, connection=session).wait_blocked(by=other)
        altering = db.in_background(ddl, connection=migration).wait_blocked()
        other.commit()
        altering.result()
        migration.commit()
    signup.result()
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = ANY (%s)", [ids]) == len(ids)
    assert failures(db) == []


def test_an_email_change_waits_for_a_deferrable_trigger(db):
    db.install()
    db.sql(
        """CREATE TABLE public.notes (id uuid);
           CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.notes VALUES (NEW.id); RETURN NULL; END $$"""
    )
    session = db.connect("supabase_auth_admin")
    for n in range(2):
        sign_up(session, A if n else B, f"u{n}@example.com")
        session.execute("UPDATE auth.users SET email = 'v' || email WHERE id = %s", [A if n else B])
    with db.connect() as migration:
        migration.autocommit = False
        migration.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON onagui.app_users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note()"
        )
        change = db.in_background("UPDATE auth.users SET email = 'new@example.com' WHERE id = %s", [A], connection=session)
        change.wait_blocked(by=migration)
        migration.commit()
    change.result()
    assert db.one("SELECT email FROM onagui.app_users WHERE id = %s", [A]) == "new@example.com"
    assert failures(db) == []


def test_a_deadlock_with_a_migration(db):
    """Of a table with partitions some statements lock the partitions first; whoever is refused waits and goes on."""
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text) PARTITION BY HASH (id);
           CREATE TABLE onagui.p0 PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 1, REMAINDER 0);
           CREATE INDEX ON onagui.app_users (lower(btrim(email)))"""
    )
    session = db.connect("supabase_auth_admin")
    sign_up(session, B, "bob@example.com")
    with db.connect("supabase_admin") as migration:
        migration.execute("SET deadlock_timeout = '10s'")
        migration.autocommit = False
        migration.execute("ALTER TABLE onagui.p0 ENABLE ROW LEVEL SECURITY")
        signup = db.in_background(SIGN_UP, [A, "ann@example.com", "{}", "{}"], connection=session).wait_blocked(by=migration)
        migration.execute("ALTER TABLE onagui.app_users ENABLE ROW LEVEL SECURITY")
        migration.commit()
    signup.result()
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [A]) == 1
    assert failures(db) == []


def test_a_trigger_that_always_fails_and_changes_the_catalog_is_not_tried_for_ever(db):
    db.install()
    db.sql(
        """CREATE SEQUENCE public.attempts;
           CREATE FUNCTION public.per_user() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM nextval('public.attempts');
               EXECUTE format('CREATE TABLE public.%I ()', NEW.id);
               PERFORM nobody_has_made_me(); RETURN NEW; END $$;
           CREATE TRIGGER per_user BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.per_user()"""
    )
    sign_up(db.session("supabase_auth_admin"), A, "ann@example.com")
    assert db.one("SELECT last_value FROM public.attempts") <= 8
    [details] = failures(db)
    assert details["error"]["sqlstate"] == "42883"


def test_two_failures_of_one_sign_up_are_one(db):
    """The Auth server inserts a user and confirms them in one transaction; what fails twice alike lay in two places."""
    db.install()
    db.sql("SET lock_timeout = 0")
    with db.connect("supabase_auth_admin") as other:
        other.autocommit = False
        sign_up(other, B, "bob@example.com", TAKEN)
        session = db.connect("supabase_auth_admin")
        session.execute("SET onagui_sync.lock_timeout = '200ms'")
        with session.transaction():
            sign_up(session, A, "ann@example.com", TAKEN)
            session.execute("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [A])
        other.rollback()
    [details] = failures(db)
    assert details["error"]["sqlstate"] == "55P03"
