"""Many users re-keyed together: to each of them as if they had been alone."""

import pytest
from repairs import ADMIN, content, fix, log, mismatched, statuses, undo
from support import expect_error

USERS = 9


@pytest.fixture
def db(db):
    db.install()
    return db


def everybody(db, policy="error"):
    rows = fix(db, None, policy=policy)
    return {row["email"]: row for row in rows}


def some(db):
    """USERS users out of step, by number: (app, auth)."""
    return [mismatched(db, f"u{n}@example.com") for n in range(USERS)]


def fill(db, table, users, column="user_id"):
    """As many rows for each user as their number says."""
    for n, (app, _) in enumerate(users):
        for _ in range(n):
            db.sql(f"INSERT INTO {table} ({column}) VALUES (%s)", [app], role=ADMIN)


@pytest.mark.parametrize("kind", ["uuid", "text", "varchar"])
def test_each_users_rows_are_counted(db, kind):
    db.sql(f"CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY, user_id {kind})")
    if kind == "uuid":
        db.sql("ALTER TABLE notes ADD FOREIGN KEY (user_id) REFERENCES onagui.app_users")
    else:
        db.sql("SELECT onagui.register_reference('notes', 'user_id')", role=ADMIN)
    users = some(db)
    fill(db, "notes", users)
    rows = everybody(db)
    assert [rows[f"u{n}@example.com"]["rows_changed"] for n in range(USERS)] == list(range(USERS))
    assert rows["u0@example.com"]["details"] == {"references": []}
    assert rows["u3@example.com"]["details"] == {"references": [{"table": "public.notes", "columns": ["user_id"], "rows": 3}]}
    for n, (app, auth) in enumerate(users):
        row = rows[f"u{n}@example.com"]
        assert (row["old_app_user_id"], row["new_app_user_id"], row["outcome"]) == (app, auth, "done")
        assert db.one("SELECT count(*) FROM notes WHERE user_id = %s", [auth if kind == "uuid" else str(auth)], role=ADMIN) == n
    assert statuses(db) == {"SYNCED": USERS}


def test_upper_case_stays_upper_case(db):
    db.sql("CREATE TABLE notes (user_id text)")
    db.sql("SELECT onagui.register_reference('notes', 'user_id')", role=ADMIN)
    users = some(db)
    for app, _ in users:
        db.sql("INSERT INTO notes VALUES (upper(%s)), (%s)", [str(app), str(app)])
    everybody(db)
    kept = {row for (row,) in db.sql("SELECT user_id FROM notes")}
    assert kept == {str(auth) for _, auth in users} | {str(auth).upper() for _, auth in users}


def test_a_row_that_refers_to_two_of_them(db):
    db.sql(
        """CREATE TABLE messages (sender uuid REFERENCES onagui.app_users, receiver uuid REFERENCES onagui.app_users,
                                  CHECK (sender <> receiver))"""
    )
    users = some(db)
    for n in range(USERS):
        db.sql("INSERT INTO messages VALUES (%s, %s)", [users[n][0], users[(n + 1) % USERS][0]], role=ADMIN)
    rows = everybody(db)
    assert {row["rows_changed"] for row in rows.values()} == {2}
    expected = sorted((users[n][1], users[(n + 1) % USERS][1]) for n in range(USERS))
    assert sorted(db.sql("SELECT * FROM messages", role=ADMIN)) == expected


def test_users_who_refer_to_each_other(db):
    db.sql("ALTER TABLE onagui.app_users ADD manager uuid REFERENCES onagui.app_users")
    users = some(db)
    for n in range(USERS):
        db.sql("UPDATE onagui.app_users SET manager = %s WHERE id = %s", [users[n // 2][0], users[n][0]], role=ADMIN)
    everybody(db)
    assert statuses(db) == {"SYNCED": USERS}
    expected = sorted((users[n][1], users[n // 2][1]) for n in range(USERS))
    assert sorted(db.sql("SELECT id, manager FROM onagui.app_users", role=ADMIN)) == expected


def test_one_bad_user_costs_only_themselves(db):
    db.sql(
        """CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, text text);
           CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN IF NEW.text = 'frozen' THEN RAISE EXCEPTION 'a frozen note' USING ERRCODE = 'U0001'; END IF; RETURN NEW; END$$;
           CREATE TRIGGER no BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION no()"""
    )
    users = some(db)
    for n, (app, _) in enumerate(users):
        db.sql("INSERT INTO notes VALUES (%s, %s)", [app, "frozen" if n == 5 else "free"], role=ADMIN)
    rows = everybody(db)
    bad = rows.pop("u5@example.com")
    assert (bad["outcome"], bad["details"]["error"]["sqlstate"]) == ("failed", "U0001")
    assert {row["outcome"] for row in rows.values()} == {"done"}
    assert statuses(db) == {"SYNCED": USERS - 1, "MISMATCHED": 1}
    assert len(log(db, action="rekey")) == USERS - 1 and len(log(db, action="failure")) == 1


def test_one_whose_new_id_is_held_already(db):
    db.sql("CREATE TABLE notes (id int PRIMARY KEY, user_id uuid)")
    db.sql("SELECT onagui.register_reference('notes', 'user_id')", role=ADMIN)
    users = some(db)
    db.sql("INSERT INTO notes VALUES (1, %s), (2, %s)", [users[4][0], users[4][1]])
    before = content(db, "notes", "onagui.app_users")
    rows = everybody(db)
    assert rows["u4@example.com"]["rows_changed"] == 1
    assert statuses(db) == {"SYNCED": USERS}
    for row in rows.values():
        undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


def test_a_trigger_that_holds_a_users_own_row_back(db):
    db.sql(
        """CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN RETURN CASE WHEN NEW.email = 'u2@example.com' THEN NULL ELSE NEW END; END$$;
           CREATE TRIGGER hold BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION hold()"""
    )
    some(db)
    rows = everybody(db)
    assert rows["u2@example.com"]["outcome"] == "failed"
    assert "onagui.app_users" in rows["u2@example.com"]["details"]["error"]["message"]
    assert statuses(db) == {"SYNCED": USERS - 1, "MISMATCHED": 1}
    with expect_error(rows["u2@example.com"]["details"]["error"]["sqlstate"]):
        db.one("SELECT onagui.fix_user_id_mismatch('u2@example.com')")


def test_somebody_has_dealt_with_one_meanwhile(db):
    """The list of a call is older than its locks."""
    users = some(db)
    holder = db.connect(ADMIN)
    with holder.transaction():
        holder.execute("UPDATE onagui.app_users SET email = 'new@example.com' WHERE id = %s", [users[8][0]])
        running = db.in_background("SELECT outcome, count(*) FROM onagui.fix_user_ids(NULL, true) GROUP BY 1 ORDER BY 1")
        running.wait_blocked()
    assert running.result() == [("done", USERS - 1), ("unchanged", 1)]


def test_each_is_taken_back_alone(db):
    db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)")
    users = some(db)
    fill(db, "notes", users)
    before = content(db, "notes", "onagui.app_users")
    rows = everybody(db)
    undo(db, rows["u7@example.com"]["audit_id"])
    assert statuses(db) == {"SYNCED": USERS - 1, "MISMATCHED": 1}
    for email, row in rows.items():
        if email != "u7@example.com":
            undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before
