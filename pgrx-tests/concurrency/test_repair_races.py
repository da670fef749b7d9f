"""Two sessions at once: no orphan, no lost row, one audit row for each thing done, ordinary errors."""

import psycopg
import pytest
from repairs import ADMIN, app_user, auth_user, duplicate, fix, fix_one, log, mismatched, new_id, statuses, undo
from support import expect_error

FIX = "SELECT action, outcome, rows_changed, details #>> '{error,sqlstate}' FROM onagui.fix_user_ids(NULL, true)"


@pytest.fixture
def db(db):
    db.install()
    db.sql("CREATE TABLE orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users)")
    return db


def orphans(db):
    return db.one("SELECT count(*) FROM orders o LEFT JOIN onagui.app_users u ON u.id = o.user_id WHERE u.id IS NULL")


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_child_inserted_before_the_fix_commits(db, make):
    """The child's foreign-key check holds the user's row: the fix waits, and then moves the child too."""
    app, auth = make(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    child = db.connect()
    child.execute("BEGIN")
    child.execute("INSERT INTO orders VALUES (2, %s)", [app])
    running = db.in_background(FIX)
    running.wait_blocked(by=child)
    child.execute("COMMIT")
    rows = [row for row in running.result() if row[0] != "none"]
    assert [row[1:3] for row in rows] == [("done", 2)]
    assert db.sql("SELECT DISTINCT user_id FROM orders") == [(auth,)]


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_child_inserted_while_the_fix_is_under_way(db, make):
    """It waits for the fix and is refused: its user is not there any more."""
    app, auth = make(db, "ann@example.com")
    fixer = db.connect()
    fixer.execute("BEGIN")
    fixer.execute(FIX)
    child = db.in_background("INSERT INTO orders VALUES (2, %s)", [app])
    child.wait_blocked(by=fixer)
    fixer.execute("COMMIT")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        child.result()
    assert orphans(db) == 0


def test_child_survives_a_fix_that_is_rolled_back(db):
    app, auth = mismatched(db, "ann@example.com")
    fixer = db.connect()
    fixer.execute("BEGIN")
    fixer.execute(FIX)
    child = db.in_background("INSERT INTO orders VALUES (2, %s)", [app])
    child.wait_blocked(by=fixer)
    fixer.execute("ROLLBACK")
    child.result()
    assert orphans(db) == 0 and log(db) == []


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_two_fixes_of_one_user(db, make):
    app, auth = make(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    first = db.connect()
    first.execute("BEGIN")
    first.execute(FIX)
    second = db.in_background(FIX)
    second.wait_blocked(by=first)
    first.execute("COMMIT")
    assert [row[:2] for row in second.result()] == [("none", "unchanged")]
    assert len(log(db)) == 1 and orphans(db) == 0 and statuses(db) == {"SYNCED": 1}


@pytest.mark.parametrize("call", ["fix_user_ids(NULL, true)", "fix_user_ids(ARRAY['ann@example.com'], true)"])
def test_the_own_row_comes_while_the_fix_waits(db, call):
    """Then the user is not the one any more whom the fix has seen, which is no conflict."""
    app, auth = mismatched(db, "ann@example.com")
    others = [mismatched(db, f"user{i}@example.com") for i in range(5)]
    holder = db.connect()
    holder.execute("BEGIN")
    holder.execute("UPDATE onagui.app_users SET full_name = 'Ann' WHERE id = %s", [app])
    running = db.in_background(f"SELECT action, outcome, old_app_user_id FROM onagui.{call}")
    running.wait_blocked(by=holder)
    holder.execute("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@another.example.com')", [auth])
    holder.execute("COMMIT")
    rows = running.result()
    assert [row[:2] for row in rows if row[2] == app] == [("none", "unchanged")]
    done = sorted(str(row[2]) for row in rows if row[1] == "done")
    assert done == (sorted(str(pair[0]) for pair in others) if "NULL" in call else [])
    assert log(db, action="conflict") == log(db, action="failure") == []


def test_confirmation_during_the_fix(db):
    """Whoever comes second finds the link made."""
    app, auth = mismatched(db, "ann@example.com", confirmed=False)
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    auth_server = db.connect("supabase_auth_admin")
    auth_server.execute("BEGIN")
    auth_server.execute("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [auth])
    # The fix still sees an e-mail that is not confirmed.
    assert db.sql("SELECT outcome FROM onagui.fix_user_ids(ARRAY['ann@example.com'], true)") == [("refused",)]
    auth_server.execute("COMMIT")
    assert statuses(db) == {"SYNCED": 1} and orphans(db) == 0
    assert [entry["action"] for entry in log(db) if entry["outcome"] == "done"] == ["link"]


def test_confirmation_waits_for_the_fix(db):
    app, auth = mismatched(db, "ann@example.com")
    fixer = db.connect()
    fixer.execute("BEGIN")
    fixer.execute(FIX)
    confirm = db.in_background("UPDATE auth.users SET email_confirmed_at = now(), email = 'ann2@example.com' WHERE id = %s", [auth], role="supabase_auth_admin")
    confirm.wait_blocked(by=fixer)
    fixer.execute("COMMIT")
    confirm.result()
    assert db.sql("SELECT id FROM onagui.app_users") == [(auth,)]
    assert len(log(db, action="rekey")) == 1


def test_sign_up_during_the_fix(db):
    """Somebody signs up with the address while a decision about its holder is under way."""
    app, auth = mismatched(db, "ann@example.com")
    fixer = db.connect()
    fixer.execute("BEGIN")
    fixer.execute(FIX)
    other = new_id()
    signup = db.in_background("INSERT INTO auth.users (id, email, is_sso_user) VALUES (%s, 'ann@example.com', true)", [other], role="supabase_auth_admin")
    signup.result()
    fixer.execute("COMMIT")
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [auth]) == 1 and orphans(db) == 0


def test_fix_and_undo(db):
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    first = db.connect()
    first.execute("BEGIN")
    first.execute("SELECT onagui.undo_fix(%s)", [audit_id])
    second = db.in_background("SELECT onagui.undo_fix(%s)", [audit_id])
    second.wait_blocked(by=first)
    first.execute("COMMIT")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        second.result()
    third = db.connect()
    third.execute("BEGIN")
    third.execute(FIX)
    undo_of_undo = db.in_background("SELECT onagui.undo_fix(%s)", [log(db, action="undo")[0]["audit_id"]])
    undo_of_undo.wait_blocked(by=third)
    third.execute("COMMIT")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        undo_of_undo.result()
    assert orphans(db) == 0 and statuses(db) == {"SYNCED": 1}
    assert [entry["action"] for entry in log(db)] == ["rekey", "undo", "rekey"]
    undo(db, log(db)[-1]["audit_id"])
    assert db.one("SELECT user_id FROM orders") == app


def test_one_of_two_swapped_emails_changes_meanwhile(db):
    """They are exchanged together or not at all."""
    ann, bob = auth_user(db, "ann@example.com"), auth_user(db, "bob@example.com")
    app_user(db, "bob@example.com", ann)
    app_user(db, "ann@example.com", bob)
    other = db.connect()
    other.execute("BEGIN")
    other.execute("UPDATE onagui.app_users SET email = 'old@example.com' WHERE id = %s", [ann])
    running = db.in_background(FIX)
    running.wait_blocked(by=other)
    other.execute("COMMIT")
    assert [(row[0], row[1], row[3]) for row in running.result()] == [("update_email", "failed", "40001")] * 2
    assert dict(db.sql("SELECT id, email FROM onagui.app_users")) == {ann: "old@example.com", bob: "ann@example.com"}
    [entry, _] = log(db, action="failure")
    assert entry["details"]["error"]["hint"] == "Try again."
    assert [row["outcome"] for row in fix(db, None)] == ["done"] * 2
    assert statuses(db) == {"SYNCED": 2}


@pytest.mark.parametrize("users", [2, 3])
@pytest.mark.parametrize("call", [FIX, "CALL onagui.fix_all_user_ids()"])
def test_two_exchanges_of_emails(db, users, call):
    """Nothing is left to do for the second one, and nothing went wrong either."""
    for i in range(users):
        app_user(db, f"u{(i + 1) % users}@example.com", auth_user(db, f"u{i}@example.com"))
    first = db.connect()
    first.execute("BEGIN")
    first.execute(FIX)
    second = db.in_background(call)
    second.wait_blocked(by=first)
    first.execute("COMMIT")
    rows = second.result()
    assert rows == [("none", "unchanged", 0, None)] * users or call != FIX
    assert len(log(db)) == users and statuses(db) == {"SYNCED": users}


def test_deadlock_on_purpose(db):
    """An ordinary 40P01 for one of the two; the other one goes through, and nothing is done by halves."""
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    other = db.connect()
    other.execute("BEGIN")
    other.execute("UPDATE orders SET id = id WHERE id = 1")
    running = db.in_background(FIX)
    running.wait_blocked(by=other)
    told = None
    try:
        other.execute("SELECT FROM onagui.app_users WHERE id = %s FOR UPDATE", [app])
        other.execute("COMMIT")
    except psycopg.errors.DeadlockDetected as error:
        told = error
        other.execute("ROLLBACK")
    try:
        rows = running.result()
    except psycopg.errors.DeadlockDetected as error:
        rows, told = [], error
    assert told or any(row[3] == "40P01" for row in rows), rows
    assert orphans(db) == 0
    assert len(log(db, action="rekey")) == (1 if statuses(db) == {"SYNCED": 1} else 0)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_row_that_the_snapshot_does_not_see(db, level, make):
    """In these levels a child that was committed since the snapshot must end in an ordinary error, not in an orphan."""
    app, auth = make(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    session = db.connect()
    session.execute(f"BEGIN ISOLATION LEVEL {level}")
    session.execute("SELECT count(*) FROM orders")
    db.sql("INSERT INTO orders VALUES (2, %s)", [app])
    outcome = None
    try:
        outcome = [row for row in session.execute(FIX).fetchall() if row[0] != "none"]
        session.execute("COMMIT")
    except (psycopg.errors.SerializationFailure, psycopg.errors.ForeignKeyViolation) as error:
        outcome = error.sqlstate
        session.execute("ROLLBACK")
    assert orphans(db) == 0, outcome
    assert db.one("SELECT count(*) FROM orders") == 2
    assert outcome == "40001" or outcome[0][1] == "failed" and outcome[0][3] in ("40001", "23503"), outcome


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_row_that_changes_under_a_planned_move(db, make):
    app, auth = make(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    other = db.connect()
    other.execute("BEGIN")
    other.execute("UPDATE orders SET id = 7 WHERE id = 1")
    running = db.in_background(FIX)
    running.wait_blocked(by=other)
    other.execute("COMMIT")
    rows = [row for row in running.result() if row[0] != "none"]
    assert [row[1] for row in rows] == ["done"], rows
    assert db.sql("SELECT id, user_id FROM orders") == [(7, auth)]
    undo(db, log(db)[-1]["audit_id"], role=ADMIN)
    assert db.sql("SELECT id, user_id FROM orders") == [(7, app)]


def out_of_step(db, kind):
    auth = auth_user(db, "ann@example.com")
    if kind == "renamed":
        app_user(db, "old@example.com", auth)
    return auth


@pytest.mark.parametrize("kind", ["missing", "renamed"])
def test_two_fixes_of_a_user_who_stays(db, kind):
    """Nothing is left to do for the second one, and nothing went wrong either."""
    out_of_step(db, kind)
    first = db.connect()
    first.execute("BEGIN")
    first.execute(FIX)
    second = db.in_background(FIX)
    second.wait_blocked(by=first)
    first.execute("COMMIT")
    assert second.result() == [("none", "unchanged", 0, None)]
    assert len(log(db)) == 1 and statuses(db) == {"SYNCED": 1}


def test_application_takes_the_email_while_a_row_is_created(db):
    out_of_step(db, "missing")
    mine = db.connect()
    mine.execute("BEGIN")
    mine.execute("INSERT INTO onagui.app_users (id, email) VALUES (gen_random_uuid(), 'ann@example.com')")
    running = db.in_background(FIX)
    running.wait_blocked(by=mine)
    mine.execute("COMMIT")
    assert running.result() == [("none", "unchanged", 0, None)]
    assert log(db) == [] and statuses(db) == {"MISMATCHED": 1}


def waits_for(db, user, query, params=None):
    """The query, held back by a row that somebody is about to add for the user."""
    holder = db.connect(ADMIN)
    holder.execute("BEGIN")
    holder.execute("SELECT FROM onagui.app_users WHERE id = %s FOR KEY SHARE", [user])
    return holder, db.in_background(query, params).wait_blocked(by=holder)


@pytest.mark.parametrize("acts", ["ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE SET NULL", ""])
@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_a_table_that_comes_while_a_fix_waits(db, make, acts):
    app, auth = make(db, "ann@example.com")
    holder, running = waits_for(db, app, FIX)
    db.sql(f"CREATE TABLE late (user_id uuid REFERENCES onagui.app_users {acts})")
    db.sql("INSERT INTO late VALUES (%s)", [app])
    holder.execute("COMMIT")
    assert [row[1:3] for row in running.result() if row[0] != "none"] == [("done", 1)]
    assert db.sql("SELECT user_id FROM late") == [(auth,)]
    undo(db, log(db)[-1]["audit_id"])
    assert db.sql("SELECT user_id FROM late") == [(app,)]


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_a_reference_that_is_registered_while_a_fix_waits(db, make):
    app, auth = make(db, "ann@example.com")
    db.sql("CREATE TABLE files (owner uuid)")
    db.sql("INSERT INTO files VALUES (%s)", [app])
    holder, running = waits_for(db, app, FIX)
    db.sql("SELECT onagui.register_reference('files', 'owner')")
    holder.execute("COMMIT")
    running.result()
    assert db.sql("SELECT owner FROM files") == [(auth,)]


def test_a_table_that_comes_while_a_row_that_gives_way_is_waited_for(db):
    db.sql("CREATE TABLE seats (id int PRIMARY KEY, user_id uuid UNIQUE REFERENCES onagui.app_users)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (1, %s), (2, %s)", [app, auth])
    call = "SELECT outcome FROM onagui.fix_user_ids(NULL, true, 'keep_auth')"
    holder, running = waits_for(db, app, call)
    db.sql("CREATE TABLE notes (seat int REFERENCES seats ON DELETE CASCADE)")
    db.sql("INSERT INTO notes VALUES (1)")
    holder.execute("COMMIT")
    running.result()
    assert db.sql("SELECT seat FROM notes") == [(2,)]


def test_a_column_that_comes_while_a_fix_waits(db):
    """What it holds of a row that gives way is kept."""
    db.sql("CREATE TABLE seats (id int PRIMARY KEY, user_id uuid UNIQUE REFERENCES onagui.app_users)")
    call = "SELECT audit_id FROM onagui.fix_user_ids(NULL, true, 'keep_auth') WHERE action = 'merge'"
    for seat, email in (1, "warm@example.com"), (3, "ann@example.com"):
        app, auth = duplicate(db, email)
        db.sql("INSERT INTO seats VALUES (%s, %s), (%s, %s)", [seat, app, seat + 1, auth])
        if seat == 1:
            db.sql(call)
    holder, running = waits_for(db, app, call)
    db.sql("ALTER TABLE seats ADD COLUMN note text")
    db.sql("UPDATE seats SET note = 'precious' WHERE id = 3")
    holder.execute("COMMIT")
    [(audit_id,)] = running.result()
    undo(db, audit_id)
    assert db.one("SELECT note FROM seats WHERE id = 3") == "precious"


def test_an_undo_of_a_creation_and_a_table_that_comes_meanwhile(db):
    auth = auth_user(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    holder, running = waits_for(db, auth, "SELECT onagui.undo_fix(%s)", [audit_id])
    db.sql("CREATE TABLE late (user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE)")
    db.sql("INSERT INTO late VALUES (%s)", [auth])
    holder.execute("COMMIT")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        running.result()
    assert db.sql("SELECT user_id FROM late") == [(auth,)]


@pytest.mark.parametrize("make", [mismatched, duplicate])
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE files ADD FOREIGN KEY (owner) REFERENCES onagui.app_users ON DELETE CASCADE ON UPDATE SET NULL",
        "SELECT onagui.register_reference('files', 'owner')",
    ],
)
def test_what_a_snapshot_does_not_see_of_the_catalog(db, make, change):
    """The server's foreign-key checks see it."""
    app, auth = make(db, "ann@example.com")
    db.sql("CREATE TABLE files (owner uuid)")
    db.sql("INSERT INTO files VALUES (%s)", [app])
    fixer = db.connect()
    fixer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    fixer.execute("SELECT count(*) FROM files")
    db.sql(change)
    with expect_error("40001", "what refers to users was changed meanwhile", detail="nothing was changed", hint="in a new transaction"):
        fixer.execute("SELECT * FROM onagui.fix_user_id_mismatch('ann@example.com')")
    fixer.execute("ROLLBACK")
    assert db.sql("SELECT owner FROM files") == [(app,)]
    fixer.execute("SELECT * FROM onagui.fix_user_id_mismatch('ann@example.com')")
    assert db.sql("SELECT owner FROM files") == [(auth,)]


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_a_second_auth_user_with_the_email_while_a_fix_waits(db, make):
    """It is a CONFLICT by then: whose row it is, a person must say."""
    app, auth = make(db, "ann@example.com")
    holder, running = waits_for(db, app, FIX)
    db.auth.signup("ann@example.com", sso=True)
    holder.execute("COMMIT")
    assert ("unchanged", 0) in [row[1:3] for row in running.result()]
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [app]) == 1


def test_a_second_app_row_with_the_email_while_a_fix_waits(db):
    db.sql("DROP INDEX onagui.app_users_email_key")
    app, auth = mismatched(db, "ann@example.com")
    holder, running = waits_for(db, app, FIX)
    app_user(db, "Ann@example.com")
    holder.execute("COMMIT")
    assert [row[1:3] for row in running.result()] == [("unchanged", 0)]


@pytest.mark.parametrize(
    "change, outcome",
    [
        ("DELETE FROM auth.users WHERE id = %s", ("failed", "P0002")),
        ("UPDATE auth.users SET deleted_at = now() WHERE id = %s", ("failed", "P0002")),
        ("UPDATE auth.users SET email_confirmed_at = NULL WHERE id = %s", ("failed", "55000")),
    ],
)
def test_a_persons_decision_is_looked_at_again(db, change, outcome):
    app, auth = mismatched(db, "ann@example.com")
    call = "SELECT outcome, details #>> '{error,sqlstate}' FROM onagui.fix_user_id(%s, %s, true)"
    holder, running = waits_for(db, app, call, [app, auth])
    db.sql(change, [auth], role="supabase_auth_admin")
    holder.execute("COMMIT")
    assert running.result() == [outcome]
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [app]) == 1


def test_two_undos_of_an_exchange(db):
    ids = [auth_user(db, f"u{i}@example.com") for i in range(2)]
    for i, id in enumerate(ids):
        app_user(db, f"u{1 - i}@example.com", id)
    one, other = (row["audit_id"] for row in fix(db, None))
    holder, first = waits_for(db, ids[0], "SELECT onagui.undo_fix(%s)", [one])
    second = db.in_background("SELECT onagui.undo_fix(%s)", [other]).wait_blocked()
    holder.execute("COMMIT")
    assert first.result()[0][0].startswith("UNDONE")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        second.result()


@pytest.mark.parametrize("unchanged", range(5))
def test_newcomers_are_seen_after_batches_that_wrote_nothing(db, unchanged):
    """Such a batch ends no transaction that others could notice: it must not pass for somebody else's that does."""
    for i in range(unchanged):
        id = new_id()
        db.sql("INSERT INTO auth.users (id, phone, is_sso_user) VALUES (%s, %s, false)", [id, f"49{i}"], role="supabase_auth_admin")
        db.sql("UPDATE onagui.app_users SET email = %s WHERE id = %s", [f"kept{i}@example.com", id])
    app, auth = mismatched(db, "ann@example.com")
    holder, running = waits_for(db, app, "CALL onagui.fix_all_user_ids(1)")
    db.sql("INSERT INTO auth.users (id, email, email_confirmed_at, is_sso_user) VALUES (gen_random_uuid(), 'ann@example.com', now(), true)", role="supabase_auth_admin")
    holder.execute("COMMIT")
    running.result()
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [app]) == 1
