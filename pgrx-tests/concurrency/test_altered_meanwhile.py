"""Whoever waits for a migration goes by what is so afterwards."""

import pytest
from repairs import ADMIN, app_user, auth_user, duplicate, fix_one, mismatched
from support import expect_error

OWNER = "ALTER TABLE onagui.app_users OWNER TO supabase_auth_admin"
COLUMN = "ALTER TABLE onagui.app_users DROP full_name"


@pytest.fixture
def db(db):
    db.install()
    return db


def wait_for(db, migration, query, params=(), role=ADMIN, warm=None):
    """The rows of `query`, which waits until the migration is committed."""
    session = db.connect(role)
    if warm:
        session.execute(warm)
    other = db.connect(ADMIN)
    other.execute("BEGIN")
    other.execute(migration)
    waiting = db.in_background(query, params, connection=session)
    waiting.wait_blocked(by=other)
    other.execute("COMMIT")
    return waiting.result()


def test_a_confirmation(db):
    app = app_user(db, "ann@example.com")
    auth = auth_user(db, "ann@example.com", confirmed=False)
    wait_for(db, OWNER, "UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [auth], "supabase_auth_admin")
    assert db.sql("SELECT id FROM onagui.app_users", role=ADMIN) == [(auth,)] != [(app,)]


def test_a_changed_email(db):
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth)
    wait_for(db, OWNER, "UPDATE auth.users SET email = 'new@example.com' WHERE id = %s", [auth], "supabase_auth_admin")
    assert db.sql("SELECT email FROM onagui.app_users", role=ADMIN) == [("new@example.com",)]


@pytest.mark.parametrize("call", ["fix_user_ids(ARRAY['1@example.com'], true)", "fix_user_ids(NULL, true)"])
def test_a_fix(db, call):
    pairs = [mismatched(db, f"{n}@example.com") for n in (1, 2)]
    rows = wait_for(db, OWNER, f"SELECT outcome, new_app_user_id, details FROM onagui.{call}", warm="SELECT onagui.fix_user_ids()")
    assert {outcome for outcome, _, _ in rows} == {"done"}, rows
    assert {new for _, new, _ in rows} <= {auth for _, auth in pairs}


def test_a_row_that_is_made(db):
    auth = auth_user(db, "ann@example.com")
    ((outcome, details),) = wait_for(db, COLUMN, "SELECT outcome, details FROM onagui.fix_user_ids(NULL, true)", warm="SELECT onagui.fix_user_ids()")
    assert outcome == "done", details
    assert db.sql("SELECT id FROM onagui.app_users", role=ADMIN) == [(auth,)]


def test_an_undo(db):
    app, auth = mismatched(db, "ann@example.com")
    row = fix_one(db, "ann@example.com")
    wait_for(db, OWNER, "SELECT onagui.undo_fix(%s)", [row["audit_id"]], warm="SELECT onagui.fix_user_ids()")
    assert db.sql("SELECT id FROM onagui.app_users", role=ADMIN) == [(app,)]


@pytest.mark.parametrize("before, call", [("disable_sync()", "enable_sync()"), ("enable_sync()", "disable_sync()"), ("enable_sync()", "enable_sync(true)")])
def test_two_who_attach_or_detach(db, before, call):
    """The second one finds it done."""
    db.sql(f"SELECT onagui.{before}")
    first, second = db.connect(), db.connect()
    with first.transaction():
        first.execute(f"SELECT onagui.{call}")
        waiting = db.in_background(f"SELECT onagui.{call}", connection=second)
        waiting.wait_blocked(by=first)
    ((told,),) = waiting.result()
    assert told.startswith("OK:") and "nothing was changed" in told


ANEW = "DROP TABLE onagui.app_users CASCADE; SELECT onagui.create_app_users()"
RENAMED = "ALTER TABLE onagui.app_users RENAME TO x; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text)"
FEWER = "ALTER TABLE onagui.app_users DROP COLUMN username, DROP COLUMN created_at"
LOOKS = [
    "SELECT count(*) FROM onagui.sync_summary()",
    "SELECT count(*) FROM onagui.sync_status()",
    "SELECT count(*) FROM onagui.sync_status(p_email => 'ann@example.com')",
    "SELECT count(*) FROM onagui.user_sync_status",
    "SELECT onagui.sync_report()",
    "SELECT action, details #- '{references}' FROM onagui.fix_user_ids()",
]


REWRITTEN = "ALTER TABLE onagui.app_users ALTER email TYPE varchar(320)"
AUTH_REWRITTEN = "ALTER TABLE auth.users ALTER phone TYPE varchar(32)"
COPIED = """
    CREATE TABLE onagui.app_new (LIKE onagui.app_users INCLUDING ALL);
    INSERT INTO onagui.app_new SELECT * FROM onagui.app_users;
    DROP TABLE onagui.app_users CASCADE;
    ALTER TABLE onagui.app_new RENAME TO app_users"""


@pytest.mark.parametrize("look", [*LOOKS, "SELECT * FROM onagui.sync_health()"])
@pytest.mark.parametrize("migration", [REWRITTEN, AUTH_REWRITTEN, COPIED])
def test_a_look_at_tables_that_are_written_anew(db, migration, look):
    """To a snapshot from before the wait they are empty, and everybody out of step."""
    db.sql("ALTER TABLE auth.users DROP COLUMN phone CASCADE; ALTER TABLE auth.users ADD COLUMN phone text", role=ADMIN)
    for n in range(3):
        db.auth.signup(f"u{n}@example.com")
    mismatched(db, "ann@example.com")
    rows = wait_for(db, migration, look)
    now = db.connect(ADMIN).execute(look).fetchall()
    if "report" in look:
        rows, now = ([row[0].split("\n", 2)[2] for row in some] for some in (rows, now))
    assert rows == now


def test_a_rehearsal_over_what_is_written_anew(db):
    app, _ = mismatched(db, "ann@example.com")
    db.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users, n int)")
    db.sql("INSERT INTO public.notes VALUES (%s, 1)", [app])
    look = "SELECT outcome, rows_changed FROM onagui.fix_user_ids()"
    for change in "ALTER TABLE public.notes ALTER n TYPE bigint", "ALTER TABLE public.notes ALTER n TYPE int":
        assert wait_for(db, change, look) == [("planned", 1)]


def test_a_rehearsal_waits_for_no_table_that_does_not_concern_it(db):
    db.auth.signup("ann@example.com")
    db.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users)")
    other = db.connect()
    other.execute("BEGIN")
    other.execute("LOCK TABLE public.notes")
    db.sql("SET lock_timeout = '300ms'")
    assert db.one("SELECT onagui.fix_user_id_mismatch('ann@example.com', false)").startswith("OK: ")
    assert db.sql("SELECT * FROM onagui.fix_user_ids()") == []
    mismatched(db, "bob@example.com")
    auth_user(db, "eve@example.com")
    assert sorted(db.sql("SELECT email, outcome FROM onagui.fix_user_ids()")) == [("bob@example.com", "failed"), ("eve@example.com", "planned")]


@pytest.mark.parametrize("warm", [None, "SELECT * FROM onagui.fix_user_ids()"])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("migration", [ANEW, RENAMED, FEWER])
def test_a_look(db, migration, look, warm):
    """It answers what it would answer afterwards."""
    mismatched(db, "ann@example.com")
    rows = wait_for(db, migration, look, warm=warm)
    known = [str(row).partition("+00")[2] if "report" in look else row for row in rows]
    assert known == [str(row).partition("+00")[2] if "report" in look else row for row in db.connect(ADMIN).execute(look).fetchall()]
    if "fix_user_ids" in look:
        assert rows == [("rekey" if migration is FEWER else "create", {})]


def test_health_that_waits_for_the_tables(db):
    for migration in ANEW, "ALTER TABLE onagui.app_users DROP COLUMN username, ADD COLUMN nick text NOT NULL":
        rows = wait_for(db, migration, "SELECT * FROM onagui.sync_health()")
        assert rows == db.sql("SELECT * FROM onagui.sync_health()", role=ADMIN)


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_users_who_are_dropped(db, look):
    with expect_error("42P01", hint="create_app_users"):
        wait_for(db, "DROP TABLE onagui.app_users CASCADE", look)


def test_a_rehearsal_that_waits_for_a_table_to_change_hands(db):
    app, _ = mismatched(db, "ann@example.com")
    db.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users)")
    db.sql("INSERT INTO public.notes VALUES (%s)", [app])
    look = "SELECT outcome, rows_changed FROM onagui.fix_user_ids()"
    assert wait_for(db, f"ALTER TABLE public.notes OWNER TO {ADMIN}", look, role="postgres") == [("planned", 1)]


def test_a_signup_whose_snapshot_is_older_than_the_table(db):
    session = db.connect("supabase_auth_admin")
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute("SELECT FROM auth.users")
    db.sql(ANEW, role=ADMIN)
    session.execute("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'ann@example.com')")
    session.execute("COMMIT")
    [warning] = session.warnings
    assert warning.sqlstate == "42P01" and warning.message.endswith("onagui.app_users is newer than what this transaction sees")


DROPPED = "DROP INDEX notes_once"


@pytest.mark.parametrize("apply", [False, True])
def test_an_index_that_is_gone_though_the_snapshot_shows_it(db, apply):
    db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, n int); CREATE UNIQUE INDEX notes_once ON notes (user_id, (n + 1)) WHERE n > 0")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO notes VALUES (%s, 1), (%s, 1)", [app, auth])
    session = db.connect(ADMIN)
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute("SELECT count(*) FROM auth.users")
    db.sql(DROPPED)
    rows = session.execute("SELECT outcome, details FROM onagui.fix_user_ids(NULL, %s) WHERE action = 'merge'", [apply]).fetchall()
    assert [outcome for outcome, _ in rows] == ["done" if apply else "planned"], rows


def test_a_rehearsal_that_waits_for_an_index_to_go(db):
    db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, n int); CREATE UNIQUE INDEX notes_once ON notes (user_id, (n + 1)) WHERE n > 0")
    mismatched(db, "ann@example.com")
    rows = wait_for(db, DROPPED, "SELECT outcome, details FROM onagui.fix_user_ids()")
    assert [outcome for outcome, _ in rows] == ["planned"], rows
