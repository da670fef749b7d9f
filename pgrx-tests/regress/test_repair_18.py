"""What foreign keys and columns have learnt with PostgreSQL 18."""

import pytest
from repairs import ADMIN, content, duplicate, fix, fix_one, mismatched, undo

TABLES = ("onagui.app_users", "notes", "sheets")


@pytest.fixture
def db(db):
    if int(db.server.major.split("-")[0]) < 18:
        pytest.skip("came with PostgreSQL 18")
    return db.install()


def test_a_key_not_enforced_is_followed_and_asks_for_nothing(db):
    db.sql(
        """CREATE UNIQUE INDEX ON onagui.app_users (id, email);
           CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE NOT ENFORCED, other uuid REFERENCES onagui.app_users);
           CREATE TABLE sheets (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, email text,
                                FOREIGN KEY (user_id, email) REFERENCES onagui.app_users (id, email) NOT ENFORCED)""",
        role=ADMIN,
    )
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES (1, '{app}', '{app}'), (2, gen_random_uuid(), NULL)", role=ADMIN)
    db.sql(f"INSERT INTO sheets VALUES (1, '{app}', 'ann@example.com'), (2, '{app}', 'nobody')", role=ADMIN)
    before = content(db, *TABLES)
    plan = fix_one(db, "ann@example.com", apply=False)
    row = fix_one(db, "ann@example.com")
    assert (plan["outcome"], plan["rows_changed"]) == ("planned", 3), plan
    assert (row["outcome"], row["rows_changed"]) == ("done", 3), row
    assert db.sql("SELECT user_id, other FROM notes WHERE id = 1", role=ADMIN) == [(auth, auth)]
    assert db.sql("SELECT user_id, email FROM sheets ORDER BY id", role=ADMIN) == [(auth, "ann@example.com"), (auth, "nobody")]
    undo(db, row["audit_id"])
    assert content(db, *TABLES) == before


def test_a_merge_beside_a_key_not_enforced(db):
    db.sql("CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE NOT ENFORCED); CREATE TABLE sheets (id int)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES (1, '{app}'), (2, '{auth}'), (3, gen_random_uuid())")
    before = content(db, *TABLES)
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    assert db.sql("SELECT user_id FROM notes WHERE id < 3") == [(auth,), (auth,)]
    undo(db, row["audit_id"])
    assert content(db, *TABLES) == before


def test_virtual_generated_columns(db):
    db.sql(
        """CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, body text,
                               owner text GENERATED ALWAYS AS (user_id::text) VIRTUAL, UNIQUE (user_id, body));
           CREATE TABLE sheets (id int)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES (1, '{app}', 'a'), (2, '{auth}', 'a'), (3, '{app}', 'b')")
    before = content(db, *TABLES)
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done", row
    assert db.sql("SELECT id, owner FROM notes ORDER BY id") == [(2, str(auth)), (3, str(auth))]
    undo(db, row["audit_id"])
    assert content(db, *TABLES) == before


@pytest.fixture
def shifts(db):
    """Who is a member when, and shifts, each within the periods of a membership."""
    if not db.one("SELECT count(*) FROM pg_available_extensions WHERE name = 'btree_gist'"):
        pytest.skip("this server has no btree_gist")
    db.sql(
        """CREATE EXTENSION btree_gist;
           CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, valid daterange, PRIMARY KEY (user_id, valid WITHOUT OVERLAPS));
           CREATE TABLE sheets (id int PRIMARY KEY, user_id uuid, valid daterange,
                                FOREIGN KEY (user_id, PERIOD valid) REFERENCES notes (user_id, PERIOD valid));
           GRANT ALL ON notes, sheets TO postgres""",
        role=ADMIN,
    )
    return db


def test_temporal_keys(shifts):
    db = shifts
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES ('{app}', '[2020-01-01, 2021-01-01)'), ('{app}', '[2021-01-01, 2022-01-01)')")
    db.sql(f"INSERT INTO sheets VALUES (1, '{app}', '[2020-06-01, 2021-06-01)'), (2, '{app}', '[2021-06-01, 2021-07-01)')")
    before = content(db, *TABLES)
    plan = fix_one(db, "ann@example.com", apply=False)
    row = fix_one(db, "ann@example.com")
    assert (plan["outcome"], plan["rows_changed"]) == ("planned", 4), plan
    assert (row["outcome"], row["rows_changed"]) == ("done", 4), row
    assert db.sql("SELECT user_id, valid::text FROM sheets ORDER BY id") == [
        (auth, "[2020-06-01,2021-06-01)"),
        (auth, "[2021-06-01,2021-07-01)"),
    ]
    undo(db, row["audit_id"])
    assert content(db, *TABLES) == before


def test_a_merge_leaves_periods_as_they_are(shifts):
    db = shifts
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES ('{app}', '[2020-01-01, 2021-01-01)'), ('{app}', '[2021-01-01, 2022-01-01)'), ('{auth}', '[2020-12-01, 2023-01-01)')")
    db.sql(f"INSERT INTO sheets VALUES (1, '{app}', '[2021-02-01, 2021-06-01)')")
    before = content(db, *TABLES)
    # Both periods of the one overlap the other's; the shift fits either.
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done", row
    assert db.sql("SELECT valid::text FROM notes") == [("[2020-12-01,2023-01-01)",)]
    assert db.sql("SELECT user_id, valid::text FROM sheets") == [(auth, "[2021-02-01,2021-06-01)")]
    undo(db, row["audit_id"])
    assert content(db, *TABLES) == before
    # This one does not.
    db.sql(f"INSERT INTO sheets VALUES (2, '{app}', '[2020-02-01, 2020-06-01)')")
    before = content(db, *TABLES)
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply=apply, policy="keep_auth")
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("refused", "23503"), row
        assert "1 row " in row["details"]["error"]["detail"], row
    assert content(db, *TABLES) == before
    assert fix_one(db, "ann@example.com", policy="keep_app")["outcome"] == "done"


def test_a_key_not_enforced_to_auth_users_does_not_stop_an_undo(db):
    db.sql("CREATE TABLE notes (id int); CREATE TABLE sheets (user_id uuid REFERENCES onagui.app_users)")
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO sheets VALUES ('{app}')")
    for of in "onagui.app_users ADD FOREIGN KEY (id)", "sheets ADD FOREIGN KEY (user_id)":
        db.sql(f"ALTER TABLE {of} REFERENCES auth.users NOT ENFORCED", role="supabase_admin")
    before = content(db, *TABLES)
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    undo(db, row["audit_id"])
    assert content(db, *TABLES) == before
