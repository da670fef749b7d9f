"""Foreign keys of rare kinds: to one partition, to a generated column, between columns of different types or collations."""

import uuid

import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix_one, undo
from support import expect_error

LOW, HIGH = uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)
MIDDLE = uuid.UUID(int=2**127)


@pytest.fixture
def db(db):
    return db.install()


def table(db, columns):
    """app_users of the application's own making."""
    db.sql(f"DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users ({columns})")


def expect_refusal(db, email, sqlstate, tables, action=None):
    """Rehearsed and tried, and nothing has changed."""
    before = content(db, "onagui.app_users", *tables)
    for apply in False, True:
        row = fix_one(db, email, apply)
        assert row["outcome"] in ("refused", "failed"), row
        assert row["details"]["error"]["sqlstate"] == sqlstate, row
        assert action is None or row["action"] == action, row
        assert content(db, "onagui.app_users", *tables) == before


def orders(db, action, *more):
    """Orders partitioned by the user, and items that refer to those of one partition only."""
    db.sql(
        f"""CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, note text) PARTITION BY RANGE (user_id);
            CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ('{MIDDLE}');
            CREATE TABLE orders_high PARTITION OF orders DEFAULT;
            ALTER TABLE orders_low ADD UNIQUE (id);
            CREATE TABLE items (id int, order_id int REFERENCES orders_low (id) {action})"""
    )


ACTIONS = ["", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE CASCADE ON DELETE CASCADE"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("merge", [False, True])
def test_a_row_that_others_refer_to_leaves_its_partition(db, action, merge):
    """To the foreign key that stands to this partition it would be deleted."""
    orders(db, action)
    if merge:
        db.sql("DROP INDEX IF EXISTS onagui.app_users_email_key", role=ADMIN)
        app_user(db, "ann@example.com", auth_user(db, "ann@example.com", HIGH))
        app_user(db, "Ann@example.com", LOW)
    else:
        app_user(db, "ann@example.com", LOW)
        auth_user(db, "ann@example.com", HIGH)
    db.sql(f"INSERT INTO orders VALUES (1, '{LOW}'), (2, '{LOW}'); INSERT INTO items VALUES (1, 1)")
    expect_refusal(db, "ann@example.com", "23503", ["orders", "items"], "merge" if merge else "rekey")
    db.sql("UPDATE items SET order_id = NULL")
    before = content(db, "orders", "items", "onagui.app_users")
    assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 2), row
    undo(db, row["audit_id"])
    assert content(db, "orders", "items", "onagui.app_users") == before


@pytest.mark.parametrize("referred", [False, True])
def test_a_row_leaves_a_partition_of_a_partition_that_others_refer_to(db, referred):
    """The server cannot do it (0A000), whether the row itself is referred to or not."""
    quarter = uuid.UUID(int=2**126)
    db.sql(
        f"""CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, note text) PARTITION BY RANGE (user_id);
            CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ('{MIDDLE}') PARTITION BY RANGE (user_id);
            CREATE TABLE orders_lowest PARTITION OF orders_low FOR VALUES FROM (MINVALUE) TO ('{quarter}');
            CREATE TABLE orders_lower PARTITION OF orders_low DEFAULT;
            CREATE TABLE orders_high PARTITION OF orders DEFAULT;
            ALTER TABLE orders_low ADD UNIQUE (id, user_id);
            CREATE TABLE items (order_id int, user_id uuid, FOREIGN KEY (order_id, user_id) REFERENCES orders_low (id, user_id) ON UPDATE CASCADE)"""
    )
    for name, auth in [("ann", HIGH), ("bob", uuid.UUID(int=2**126 + 1)), ("cy", uuid.UUID(int=4))]:
        app = uuid.UUID(int=len(name))
        app_user(db, f"{name}@example.com", app)
        auth_user(db, f"{name}@example.com", auth)
        db.sql(f"INSERT INTO orders VALUES (1, '{app}')")
        if referred:
            db.sql(f"INSERT INTO items VALUES (1, '{app}')")
        if name == "bob":
            error = fix_one(db, "bob@example.com", False)["details"]["error"]
            assert "1 row of orders would go to another partition; the foreign key items_order_id_user_id_fkey" in error["detail"].replace("public.", "")
            assert "Let the foreign key refer to the whole table" in error["hint"]
        if name != "cy":
            expect_refusal(db, f"{name}@example.com", "23503" if referred and name == "ann" else "0A000", ["orders", "items"], "rekey")
            db.sql("DELETE FROM items; DELETE FROM orders; DELETE FROM onagui.app_users")
    before = content(db, "orders", "items")
    row = fix_one(db, "cy@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 2 if referred else 1), row
    undo(db, row["audit_id"])
    assert content(db, "orders", "items") == before


@pytest.mark.parametrize("action", [*ACTIONS, "ON DELETE RESTRICT"])
@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
def test_a_key_of_one_partition_passes_to_a_row_that_comes_there(db, action, policy):
    """Its key stays as it is: by where the row lies it has it now."""
    db.sql(
        f"""CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, note text) PARTITION BY RANGE (user_id);
            CREATE TABLE low PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ('80000000-0000-0000-0000-000000000000');
            CREATE TABLE high PARTITION OF orders (UNIQUE (id)) FOR VALUES FROM ('80000000-0000-0000-0000-000000000000') TO (MAXVALUE);
            CREATE TABLE items (id int, order_id int REFERENCES high (id) {action})"""
    )
    db.sql("DROP INDEX onagui.app_users_email_key", role=ADMIN)
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com", HIGH))
    app_user(db, "Ann@example.com", LOW)
    db.sql(f"INSERT INTO orders VALUES (1, '{LOW}', 'theirs'), (1, '{HIGH}', 'own'); INSERT INTO items VALUES (5, 1)")
    before = content(db, "orders", "items", "onagui.app_users")
    plan, row = (fix_one(db, "ann@example.com", apply, policy) for apply in (False, True))
    if action and policy == "keep_app":
        assert (plan["outcome"], row["outcome"]) == ("refused", "refused"), (plan, row)
        assert plan["details"]["error"]["sqlstate"] == row["details"]["error"]["sqlstate"] == "23503"
    else:
        assert (plan["outcome"], row["outcome"]) == ("planned", "done"), (plan, row)
        assert db.sql("SELECT note FROM orders") == [("own" if policy == "keep_auth" else "theirs",)]
        assert db.sql("SELECT * FROM items") == [(5, 1)]
        undo(db, row["audit_id"])
    assert content(db, "orders", "items", "onagui.app_users") == before


@pytest.mark.parametrize("action", ACTIONS)
def test_what_came_since_refers_to_a_row_that_would_leave_its_partition(db, action):
    orders(db, action)
    app_user(db, "ann@example.com", HIGH)
    auth_user(db, "ann@example.com", LOW)
    db.sql(f"INSERT INTO orders VALUES (1, '{HIGH}')")
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "done", row
    db.sql("INSERT INTO items VALUES (1, 1)")
    before = content(db, "orders", "items", "onagui.app_users")
    with expect_error("55000"):
        undo(db, row["audit_id"])
    assert content(db, "orders", "items", "onagui.app_users") == before


@pytest.mark.parametrize("action", ACTIONS)
def test_what_came_since_a_merge_refers_to_a_row_that_would_leave_its_partition(db, action):
    orders(db, action)
    db.sql("DROP INDEX IF EXISTS onagui.app_users_email_key", role=ADMIN)
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com", LOW))
    app_user(db, "Ann@example.com", HIGH)
    db.sql(f"INSERT INTO orders VALUES (1, '{HIGH}')")
    row = fix_one(db, "ann@example.com")
    assert (row["action"], row["outcome"]) == ("merge", "done"), row
    db.sql("INSERT INTO items VALUES (1, 1)")
    before = content(db, "orders", "items", "onagui.app_users")
    with expect_error("55000"):
        undo(db, row["audit_id"])
    assert content(db, "orders", "items", "onagui.app_users") == before


def test_a_key_of_one_partition_is_not_that_of_another(db):
    """Both partitions have an order 1; the item refers to the one in the low partition, of another user."""
    orders(db, "ON DELETE CASCADE")
    app_user(db, "bob@example.com", auth_user(db, "bob@example.com", LOW))
    app, auth = app_user(db, "ann@example.com", HIGH), auth_user(db, "ann@example.com", uuid.UUID(int=2**127 + 1))
    db.sql(f"INSERT INTO orders VALUES (1, '{LOW}'), (1, '{HIGH}'); INSERT INTO items VALUES (1, 1)")
    row = fix_one(db, "ann@example.com", False)
    assert (row["outcome"], row["rows_changed"]) == ("planned", 1), row
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    assert db.sql("SELECT * FROM items") == [(1, 1)]
    undo(db, row["audit_id"])
    assert db.sql("SELECT * FROM items") == [(1, 1)]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_user_to_whom_others_refer_leaves_their_partition(db, action):
    db.sql(
        f"""DROP TABLE onagui.app_users;
            CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text) PARTITION BY RANGE (id);
            CREATE TABLE users_low PARTITION OF onagui.app_users FOR VALUES FROM (MINVALUE) TO ('{MIDDLE}');
            CREATE TABLE users_high PARTITION OF onagui.app_users DEFAULT;
            CREATE TABLE notes (user_id uuid REFERENCES users_low {action})"""
    )
    app_user(db, "ann@example.com", LOW)
    auth_user(db, "ann@example.com", HIGH)
    db.sql(f"INSERT INTO notes VALUES ('{LOW}')")
    expect_refusal(db, "ann@example.com", "23503", ["notes"], "rekey")
    app_user(db, "bob@example.com", uuid.UUID(int=2))
    auth_user(db, "bob@example.com", uuid.UUID(int=3))
    db.sql(f"INSERT INTO notes VALUES ('{uuid.UUID(int=2)}')")
    row = fix_one(db, "bob@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    assert db.one("SELECT count(*) FROM notes") == 2
    undo(db, row["audit_id"])
    assert sorted(user.int for (user,) in db.sql("SELECT * FROM notes")) == [1, 2]


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
def test_rows_that_refer_by_a_generated_column_of_the_email(db, action):
    table(db, "id uuid PRIMARY KEY, email text, address text GENERATED ALWAYS AS (lower(email)) STORED UNIQUE")
    db.sql(f"CREATE TABLE notes (id int, address text REFERENCES onagui.app_users (address) ON UPDATE {action})")
    users = [auth_user(db, f"{name}@new.example.com") for name in ("ann", "bob")]
    for id, name in zip(users, ("ann", "bob")):
        app_user(db, f"{name}@old.example.com", id)
    db.sql("INSERT INTO notes VALUES (1, 'ann@old.example.com'), (2, 'bob@old.example.com')")
    before = content(db, "notes", "onagui.app_users")
    row = fix_one(db, "ann@new.example.com", False)
    assert (row["outcome"], row["rows_changed"]) == ("planned", 1), row
    row = fix_one(db, "ann@new.example.com")
    assert (row["action"], row["outcome"], row["rows_changed"]) == ("update_email", "done", 1), row
    assert db.sql("SELECT address FROM notes ORDER BY id") == [("ann@new.example.com",), ("bob@old.example.com",)]
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


def ignore_case(db):
    """A collation to which capitals and small letters are the same."""
    if db.server.number >= 18:
        pytest.skip("from PostgreSQL 18 on it refers only to columns of the same collation")
    db.ignore_case()


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
def test_the_key_tells_whether_case_matters(db, action):
    """The key makes no difference between capitals and small letters; the column that refers to it does."""
    ignore_case(db)
    table(db, "id uuid PRIMARY KEY, email text, username text COLLATE insensitive UNIQUE")
    db.sql(f"CREATE TABLE notes (name text REFERENCES onagui.app_users (username) ON DELETE {action} ON UPDATE {action})")
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth, username="staying")
    app_user(db, "Ann@example.com", username="Leaving")
    db.sql("INSERT INTO notes VALUES ('LEAVING')")
    before = content(db, "notes", "onagui.app_users")
    row = fix_one(db, "ann@example.com", False)
    assert (row["action"], row["outcome"], row["rows_changed"]) == ("merge", "planned", 1), row
    row = fix_one(db, "ann@example.com")
    assert (row["action"], row["outcome"], row["rows_changed"]) == ("merge", "done", 1), row
    assert db.sql("SELECT name FROM notes") == [("staying",)]
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


def test_a_column_that_ignores_case_refers_to_one_that_does_not(db):
    """Two users whose names differ in nothing else. To the server what refers to the one goes with the other."""
    ignore_case(db)
    table(db, "id uuid PRIMARY KEY, email text, username text UNIQUE")
    db.sql("CREATE TABLE notes (name text COLLATE insensitive REFERENCES onagui.app_users (username) ON DELETE CASCADE)")
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth, username="staying")
    app_user(db, "Ann@example.com", username="leaving")
    app_user(db, "other@example.com", username="LEAVING")
    db.sql("INSERT INTO notes VALUES ('leaving'), ('LEAVING')")
    expect_refusal(db, "ann@example.com", "23503", ["notes"], "merge")
    db.sql("DELETE FROM notes WHERE name = 'LEAVING' COLLATE \"C\"")
    before = content(db, "notes", "onagui.app_users")
    row = fix_one(db, "ann@example.com")
    assert (row["action"], row["outcome"], row["rows_changed"]) == ("merge", "done", 1), row
    assert db.sql("SELECT name::text FROM notes") == [("staying",)]
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


def test_an_undo_does_not_take_what_came_since_along(db):
    """The same of an undo: what refers to Bob would go with Ann's name."""
    ignore_case(db)
    table(db, "id uuid PRIMARY KEY, email text UNIQUE")
    db.sql("CREATE TABLE notes (email text COLLATE insensitive REFERENCES onagui.app_users (email) ON UPDATE CASCADE)")
    app_user(db, "old@example.com", auth_user(db, "ann@example.com"))
    row = fix_one(db, "ann@example.com")
    assert (row["action"], row["outcome"]) == ("update_email", "done"), row
    app_user(db, "ANN@example.com")
    db.sql("INSERT INTO notes VALUES ('ANN@example.com')")
    with expect_error("55000"):
        undo(db, row["audit_id"])
    db.sql("UPDATE notes SET email = 'ann@example.com'")
    undo(db, row["audit_id"])
    assert db.sql("SELECT email FROM notes") == [("old@example.com",)]


def test_what_came_since_refers_without_regard_to_case(db):
    ignore_case(db)
    table(db, "id uuid PRIMARY KEY, email text COLLATE insensitive UNIQUE")
    db.sql("CREATE TABLE notes (email text REFERENCES onagui.app_users (email) ON UPDATE CASCADE)")
    app_user(db, "ann@old.example.com", auth_user(db, "ann@new.example.com"))
    row = fix_one(db, "ann@new.example.com")
    assert (row["action"], row["outcome"]) == ("update_email", "done"), row
    db.sql("INSERT INTO notes VALUES ('ANN@NEW.example.com')")
    undo(db, row["audit_id"])
    assert db.sql("SELECT email FROM notes") == [("ann@old.example.com",)]


@pytest.mark.parametrize(
    "kind, there, staying, leaving, stranger",
    [
        ("date", "timestamp", "2026-01-05 10:00", "2026-01-01 00:00", "2026-01-05 00:00"),
        ("real", "double precision", "0.1", "1", None),
        ("name", "text", "n" * 70, "ann", "n" * 63),
    ],
)
def test_a_key_is_not_cut_to_the_type_of_the_column(db, kind, there, staying, leaving, stranger):
    table(db, f"id uuid PRIMARY KEY, email text, number {there} UNIQUE")
    db.sql(f"CREATE TABLE notes (number {kind} REFERENCES onagui.app_users (number))")
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth, number=staying)
    app_user(db, "Ann@example.com", number=leaving)
    db.sql(f"INSERT INTO notes VALUES ('{leaving}')")
    if stranger:
        app_user(db, "third@example.com", number=stranger)
    expect_refusal(db, "ann@example.com", "22001", ["notes"], "merge")


def test_a_key_of_another_type_that_fits(db):
    """2.00 is 2, though not to the letter."""
    table(db, "id uuid PRIMARY KEY, email text, number numeric UNIQUE")
    db.sql("CREATE TABLE notes (number int REFERENCES onagui.app_users (number))")
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth, number="2.00")
    app_user(db, "Ann@example.com", number="1.00")
    db.sql("INSERT INTO notes VALUES (1)")
    before = content(db, "notes", "onagui.app_users")
    assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "done", row
    assert db.one("SELECT number FROM notes") == 2
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


def test_what_came_since_is_not_cut_either(db):
    table(db, "id uuid PRIMARY KEY, email text, number timestamp UNIQUE")
    db.sql("CREATE TABLE notes (number date REFERENCES onagui.app_users (number))")
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth, number=None)
    app_user(db, "Ann@example.com", number="2026-01-05 00:00")
    row = fix_one(db, "ann@example.com")
    assert (row["action"], row["outcome"]) == ("merge", "done"), row
    db.sql("INSERT INTO notes VALUES ('2026-01-05')")
    undo(db, row["audit_id"])
    assert db.sql("SELECT number::text FROM notes") == [("2026-01-05",)]


@pytest.mark.parametrize("flag", ["indisvalid = false, indisready = false", "indisvalid = false, indisready = false, indislive = false"])
def test_an_index_that_is_not_kept_up_hinders_nobody(db, flag):
    """What a CREATE INDEX CONCURRENTLY leaves that failed early."""
    db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, n int); CREATE UNIQUE INDEX notes_key ON notes (user_id, n)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"UPDATE pg_index SET {flag} WHERE indexrelid = 'notes_key'::regclass", role=ADMIN)
    db.sql(f"INSERT INTO notes VALUES ('{app}', 1), ('{auth}', 1)")
    row = fix_one(db, "ann@example.com", False)
    assert row["outcome"] == "planned", row
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    assert db.sql("SELECT * FROM notes") == [(auth, 1), (auth, 1)]


def test_an_index_of_some_partitions(db):
    """The index of the whole table is not valid before each partition has its own."""
    db.sql(
        """CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, n int) PARTITION BY LIST (n);
           CREATE TABLE notes_1 PARTITION OF notes FOR VALUES IN (1);
           CREATE TABLE notes_2 PARTITION OF notes FOR VALUES IN (2);
           CREATE UNIQUE INDEX notes_key ON ONLY notes (user_id, n);
           CREATE UNIQUE INDEX notes_1_key ON notes_1 (user_id, n);
           ALTER INDEX notes_key ATTACH PARTITION notes_1_key"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES ('{app}', 2), ('{auth}', 2)")
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    assert db.sql("SELECT * FROM notes") == [(auth, 2), (auth, 2)]
    undo(db, row["audit_id"])
    db.sql(f"INSERT INTO notes VALUES ('{app}', 1), ('{auth}', 1)")
    expect_refusal(db, "ann@example.com", "23505", ["notes"])
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["details"]["conflicts"] == [{"table": "public.notes", "constraint": "notes_1_key", "rows": 1}], row
    assert sorted(db.sql("SELECT * FROM notes")) == [(auth, 1), (auth, 2), (auth, 2)]


def test_a_cast_of_the_applications_own(db):
    """The text that a value is read from is what its type writes, not what a cast makes of it."""
    db.sql(
        """CREATE TYPE mood AS ENUM ('good', 'bad');
           CREATE FUNCTION in_words(mood) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'a mood' $$;
           CREATE CAST (mood AS text) WITH FUNCTION in_words(mood);
           CREATE TABLE notes (id mood, user_id uuid REFERENCES onagui.app_users, mood mood, PRIMARY KEY (id, user_id));
           CREATE TABLE replies (id int, note mood, user_id uuid, FOREIGN KEY (note, user_id) REFERENCES notes ON DELETE CASCADE)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(
        f"""INSERT INTO notes VALUES ('good', '{app}', 'good'), ('bad', '{app}', 'bad'), ('bad', '{auth}', 'good');
            INSERT INTO replies VALUES (1, 'good', '{app}'), (2, 'bad', '{app}')"""
    )
    before = content(db, "notes", "replies", "onagui.app_users")
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done", row
    assert db.sql("SELECT id, note::name::text, user_id FROM replies ORDER BY 1") == [(1, "good", auth), (2, "bad", auth)]
    undo(db, row["audit_id"])
    assert content(db, "notes", "replies", "onagui.app_users") == before


def test_a_cast_to_the_applications_own(db):
    """A text is read as its type reads it, not as a cast from text would."""
    db.sql(
        """CREATE TYPE mood AS ENUM ('good', 'bad');
           CREATE TYPE place AS (town text, house int);
           CREATE FUNCTION any_mood(text) RETURNS mood LANGUAGE sql IMMUTABLE AS $$ SELECT 'bad'::public.mood $$;
           CREATE FUNCTION no_place(text) RETURNS place LANGUAGE sql IMMUTABLE AS $$ SELECT NULL::public.place $$;
           CREATE CAST (text AS mood) WITH FUNCTION any_mood(text);
           CREATE CAST (text AS place) WITH FUNCTION no_place(text);
           CREATE DOMAIN some_place AS place CHECK (VALUE IS NOT NULL);
           CREATE TABLE notes (id mood, user_id uuid REFERENCES onagui.app_users, place place, home some_place, PRIMARY KEY (id, user_id));
           CREATE TABLE replies (id int, note mood, user_id uuid,
                                 FOREIGN KEY (note, user_id) REFERENCES notes ON UPDATE CASCADE ON DELETE CASCADE)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    for id in app, auth:
        db.sql(f"""INSERT INTO notes VALUES ('good', '{id}', '(Rome,1)', '("New York",2)'); INSERT INTO replies VALUES (1, 'good', '{id}')""")
    before = content(db, "notes", "replies")
    row = fix_one(db, "ann@example.com", policy="keep_app")
    assert (row["outcome"], row["rows_changed"]) == ("done", 3), row
    assert db.sql("SELECT id::text, user_id, (place).town FROM notes") == [("good", auth, "Rome")]
    undo(db, row["audit_id"])
    assert content(db, "notes", "replies") == before


def test_a_table_that_is_gone(db):
    """A regclass keeps the number of a table that has been dropped, or is none."""
    db.sql(
        """CREATE TABLE notes (about regclass, user_id uuid REFERENCES onagui.app_users, PRIMARY KEY (about, user_id));
           CREATE TABLE subject ()"""
    )
    app, auth = duplicate(db, "ann@example.com")
    for id in app, auth:
        db.sql(f"INSERT INTO notes VALUES ('subject', '{id}'), (0, '{id}'), ('notes', '{id}')")
    db.sql("DROP TABLE subject")
    before = db.sql("SELECT about::oid, user_id FROM notes ORDER BY 1, 2")
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert (row["outcome"], row["rows_changed"]) == ("done", 3), row
    undo(db, row["audit_id"])
    assert db.sql("SELECT about::oid, user_id FROM notes ORDER BY 1, 2") == before


def test_blanks_at_the_end_are_kept(db):
    db.sql("CREATE TABLE notes (user_id uuid UNIQUE REFERENCES onagui.app_users, text bpchar)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES ('{app}', 'two blanks  '), ('{auth}', 'one ')")
    lengths = "SELECT octet_length(text) FROM notes ORDER BY 1"
    before = db.sql(lengths)
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done", row
    undo(db, row["audit_id"])
    assert db.sql(lengths) == before == [(4,), (12,)]


@pytest.mark.parametrize("kind", ["json", "point"])
def test_a_primary_key_that_includes_what_cannot_be_compared(db, kind):
    value = {"json": "{}", "point": "(1,2)"}[kind]
    db.sql(f"CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, note {kind}, PRIMARY KEY (user_id) INCLUDE (note))")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES ('{app}', '{value}'), ('{auth}', '{value}')")
    before = content(db, "notes", "onagui.app_users")
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done", row
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


def test_a_column_generated_from_where_a_row_lies(db):
    db.sql("CREATE TABLE notes (user_id uuid UNIQUE REFERENCES onagui.app_users, place oid GENERATED ALWAYS AS (tableoid) STORED)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES ('{app}'), ('{auth}')")
    before = content(db, "notes", "onagui.app_users")
    assert fix_one(db, "ann@example.com", False, policy="keep_app")["outcome"] == "planned"
    row = fix_one(db, "ann@example.com", policy="keep_app")
    assert row["outcome"] == "done", row
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


ACTS = ["NO ACTION", "CASCADE", "SET NULL"]


@pytest.mark.parametrize("action", ACTS)
def test_blanks_that_do_not_count(db, action):
    """To the key 'leaving' and 'leaving ' are the same, as to the server; to the column alone they would not be."""
    table(db, "id uuid PRIMARY KEY, email text, code char(10) UNIQUE")
    db.sql(f"CREATE TABLE notes (n int, code text REFERENCES onagui.app_users (code) ON DELETE {action} ON UPDATE {action})")
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com"), code="staying")
    app_user(db, "Ann@example.com", code="leaving")
    db.sql("INSERT INTO notes VALUES (1, 'leaving'), (2, 'leaving   ')")
    before = content(db, "notes", "onagui.app_users")
    for apply, outcome in (False, "planned"), (True, "done"):
        row = fix_one(db, "ann@example.com", apply)
        assert (row["action"], row["outcome"], row["rows_changed"]) == ("merge", outcome, 2), row
    assert db.one("SELECT count(*) FROM notes WHERE rtrim(code) = 'staying'") == 2
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


@pytest.mark.parametrize("action", ACTS)
def test_blanks_that_count(db, action):
    """To the server 'ann ' is not 'ann', whose note it is."""
    table(db, "id uuid PRIMARY KEY, email text, code varchar UNIQUE")
    db.sql(f"CREATE TABLE notes (n int, code char(10) REFERENCES onagui.app_users (code) ON DELETE {action})")
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com"), code="staying")
    app_user(db, "Ann@example.com", code="ann ")
    app_user(db, "carl@example.com", code="ann")
    db.sql("INSERT INTO notes VALUES (1, 'ann')")
    before = content(db, "notes", "onagui.app_users")
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 0), row
    assert content(db, "notes") == {"notes": before["notes"]}
    undo(db, row["audit_id"])
    assert content(db, "notes", "onagui.app_users") == before


def test_a_number_that_is_too_large_for_the_column(db):
    table(db, "id uuid PRIMARY KEY, email text, number bigint UNIQUE")
    db.sql("CREATE TABLE notes (number int REFERENCES onagui.app_users (number))")
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com"), number=3000000000)
    app_user(db, "Ann@example.com", number=1)
    db.sql("INSERT INTO notes VALUES (1)")
    expect_refusal(db, "ann@example.com", "22001", ["notes"], "merge")


@pytest.mark.parametrize("action", ACTS)
def test_a_child_that_comes_to_differ_in_case_only(db, action):
    """The staying user has the name of the leaving one but for the case: to the column it is the one that goes."""
    ignore_case(db)
    table(db, "id uuid PRIMARY KEY, email text, username text UNIQUE")
    db.sql(f"CREATE TABLE notes (n int, name text COLLATE insensitive REFERENCES onagui.app_users (username) ON DELETE {action})")
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com"), username="ann")
    app_user(db, "Ann@example.com", username="Ann")
    db.sql("INSERT INTO notes VALUES (1, 'Ann')")
    expect_refusal(db, "ann@example.com", "23503", ["notes"], "merge")


def test_what_moves_along_is_no_stranger(db):
    ignore_case(db)
    db.sql(
        """CREATE TABLE tags (user_id uuid REFERENCES onagui.app_users, name text, PRIMARY KEY (user_id, name));
           CREATE TABLE items (user_id uuid, name text COLLATE insensitive, FOREIGN KEY (user_id, name) REFERENCES tags)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO tags VALUES ('{app}', 'a'), ('{app}', 'A'); INSERT INTO items VALUES ('{app}', 'a'), ('{app}', 'A')")
    before = content(db, "tags", "items", "onagui.app_users")
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 4), row
    undo(db, row["audit_id"])
    assert content(db, "tags", "items", "onagui.app_users") == before


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL", "SET DEFAULT"])
def test_what_came_since_follows_a_generated_key(db, action):
    table(db, "id uuid PRIMARY KEY, email text, address text GENERATED ALWAYS AS (lower(email)) STORED UNIQUE")
    db.sql(f"CREATE TABLE notes (address text REFERENCES onagui.app_users (address) ON UPDATE {action})")
    app_user(db, "Old@example.com", auth_user(db, "new@example.com"))
    row = fix_one(db, "new@example.com")
    assert (row["action"], row["outcome"]) == ("update_email", "done"), row
    db.sql("INSERT INTO notes VALUES ('new@example.com')")
    undo(db, row["audit_id"])
    assert db.sql("SELECT address FROM notes") == [("old@example.com",)]


def test_what_came_since_a_merge_follows_a_generated_key(db):
    db.sql(
        """CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users,
                               tag text GENERATED ALWAYS AS (id || left(user_id::text, 8)) STORED UNIQUE);
           CREATE TABLE replies (tag text REFERENCES notes (tag) ON UPDATE SET NULL)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES (1, '{app}')")
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "done", row
    db.sql("INSERT INTO replies SELECT tag FROM notes")
    undo(db, row["audit_id"])
    assert db.one("SELECT tag FROM replies") == f"1{str(app)[:8]}"


def test_times_that_are_compared_by_a_zone(db):
    """The server compares them in the zone of the session, whoever that is."""
    table(db, "id uuid PRIMARY KEY, email text, since timestamptz UNIQUE")
    db.sql("CREATE TABLE notes (since timestamp REFERENCES onagui.app_users (since) ON DELETE CASCADE)")
    session = db.session("postgres")
    session.execute("SET TimeZone = 'Europe/Berlin'")
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com"), since="2026-03-01 00:00Z")
    app_user(db, "Ann@example.com", since="2026-02-01 00:00Z")
    session.execute("INSERT INTO notes VALUES ('2026-02-01 01:00')")
    expect_refusal(db, "ann@example.com", "22001", ["notes"], "merge")
    session.execute("DELETE FROM notes")
    assert fix_one(db, "ann@example.com")["outcome"] == "done"


def test_what_came_since_keeps_what_does_not_change(db):
    """The tenant is the same but for the case, and stays as it was written."""
    ignore_case(db)
    table(db, "id uuid PRIMARY KEY, tenant text COLLATE insensitive, email text, UNIQUE (tenant, email)")
    db.sql("CREATE TABLE notes (tenant text COLLATE insensitive, email text, FOREIGN KEY (tenant, email) REFERENCES onagui.app_users (tenant, email))")
    app_user(db, "old@example.com", auth_user(db, "ann@example.com"), tenant="Acme")
    row = fix_one(db, "ann@example.com")
    db.sql("INSERT INTO notes VALUES ('ACME', 'ann@example.com')")
    undo(db, row["audit_id"])
    assert db.sql("SELECT tenant::text, email FROM notes") == [("ACME", "old@example.com")]


@pytest.mark.parametrize("key", ["", " NOT VALID", " ON DELETE CASCADE"])
def test_a_decision_where_ids_refer_to_auth_users_too(db, key):
    db.sql("CREATE TABLE orders (user_id uuid REFERENCES onagui.app_users)")
    old = auth_user(db, "bob@example.com")
    app_user(db, "bob@example.com", old)
    db.sql(f"INSERT INTO orders VALUES ('{old}')")
    for of in "onagui.app_users ADD FOREIGN KEY (id)", "orders ADD FOREIGN KEY (user_id)":
        db.sql(f"ALTER TABLE {of} REFERENCES auth.users{key}", role=ADMIN)
    new = auth_user(db, "Bob@example.com", is_sso_user=True)
    before = content(db, "orders", "onagui.app_users")
    (row,) = db.rows("SELECT * FROM onagui.fix_user_id(%s, %s, true)", [old, new])
    assert (row["action"], row["outcome"], row["rows_changed"]) == ("rekey", "done", 1), row
    assert db.sql("SELECT * FROM orders") == [(new,)]
    undo(db, row["audit_id"])
    assert content(db, "orders", "onagui.app_users") == before
