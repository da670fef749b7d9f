"""Foreign keys of columns that hold no id: generated ones, the users' own, and those of the e-mail."""

import uuid

import pytest
from psycopg.types.json import Jsonb
from repairs import app_user, auth_user, content, fix, fix_one, undo

LOW, HIGH = uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)


@pytest.fixture
def db(db):
    return db.install()


def both(db, email, *tables, **expected):
    """Rehearsed and tried: what the rehearsal foretold, and nothing has changed."""
    before = content(db, "onagui.app_users", *tables)
    for apply in False, True:
        row = fix_one(db, email, apply)
        assert row["outcome"] == "refused", row
        assert row["details"]["error"]["sqlstate"] == "23503", row
        assert {key: row[key] for key in expected} == expected, row
        assert content(db, "onagui.app_users", *tables) == before


BUCKET = "GENERATED ALWAYS AS (left({}::text, 1)) STORED REFERENCES bucket"


@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE"])
@pytest.mark.parametrize("merge", [False, True])
def test_a_generated_column_refers_to_what_does_not_change(db, action, merge):
    db.sql(
        f"""CREATE TABLE bucket (name text PRIMARY KEY); INSERT INTO bucket VALUES ('0');
            CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, bucket text {BUCKET.format('user_id')} {action});
            CREATE TABLE replies (note int REFERENCES notes)"""
    )
    app_user(db, "ann@example.com", LOW)
    if merge:
        db.sql("DROP INDEX IF EXISTS onagui.app_users_email_key", role="supabase_admin")
        app_user(db, "Ann@example.com", HIGH)
    auth_user(db, "ann@example.com", HIGH)
    db.sql(f"INSERT INTO notes VALUES (1, '{LOW}'); INSERT INTO replies VALUES (1)")
    both(db, "ann@example.com", "notes", action="merge" if merge else "rekey")
    db.sql("INSERT INTO bucket VALUES ('f')")
    before = content(db, "onagui.app_users", "notes", "replies")
    row = fix_one(db, "ann@example.com", False)
    assert (row["outcome"], row["rows_changed"]) == ("planned", 1), row
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    assert db.one("SELECT bucket FROM notes") == "f"
    undo(db, row["audit_id"])
    assert content(db, "onagui.app_users", "notes", "replies") == before


def test_many_users_of_whom_one_has_nothing_to_refer_to(db):
    db.sql(
        f"""CREATE TABLE bucket (name text PRIMARY KEY); INSERT INTO bucket SELECT to_hex(n) FROM generate_series(0, 14) n;
            CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, bucket text {BUCKET.format('user_id')})"""
    )
    for n in range(8):
        app_user(db, f"user{n}@example.com", uuid.UUID(int=n + 1))
        auth_user(db, f"user{n}@example.com", uuid.UUID(int=(2 * n + 1) << 124))
        db.sql(f"INSERT INTO notes VALUES ({n}, '{uuid.UUID(int=n + 1)}')")
    foretold = {row["email"]: row["outcome"] for row in fix(db, None, False)}
    assert sorted(foretold.values()) == ["planned"] * 7 + ["refused"]
    assert {row["email"]: row["outcome"].replace("done", "planned") for row in fix(db, None)} == foretold


@pytest.mark.parametrize("column", ["id", "email"])
def test_a_user_refers_by_a_generated_column(db, column):
    value = "id::text" if column == "id" else "email"
    db.sql(
        f"""CREATE TABLE bucket (name text PRIMARY KEY); INSERT INTO bucket VALUES ('0'), ('a');
            ALTER TABLE onagui.app_users ADD bucket text {BUCKET.format(value)}"""
    )
    if column == "id":
        app_user(db, "ann@example.com", LOW)
        auth_user(db, "ann@example.com", HIGH)
        action = "rekey"
    else:
        app_user(db, "ann@example.com", auth_user(db, "zoe@example.com"))
        action = "update_email"
    both(db, "zoe@example.com" if column == "email" else "ann@example.com", action=action)
    db.sql("INSERT INTO bucket VALUES ('f'), ('z')")
    before = content(db, "onagui.app_users")
    emails = "zoe@example.com" if column == "email" else "ann@example.com"
    assert fix_one(db, emails, False)["outcome"] == "planned"
    row = fix_one(db, emails)
    assert row["outcome"] == "done", row
    undo(db, row["audit_id"])
    assert content(db, "onagui.app_users") == before


def test_the_email_refers_to_a_list(db):
    db.sql(
        """CREATE TABLE allowed (email text PRIMARY KEY); INSERT INTO allowed VALUES ('ann@example.com'), ('bob@example.com');
           ALTER TABLE onagui.app_users ADD FOREIGN KEY (email) REFERENCES allowed"""
    )
    ann, bob = auth_user(db, "bob@example.com"), auth_user(db, "ann@example.com")
    zoe = auth_user(db, "zoe@example.com")
    db.sql("DELETE FROM onagui.app_users")
    app_user(db, "ann@example.com", ann)
    row = fix_one(db, "bob@example.com", False)
    assert (row["action"], row["outcome"]) == ("update_email", "planned"), row
    app_user(db, "bob@example.com", bob)
    # They swap.
    rows = fix(db, None, False)
    assert sorted((row["action"], row["outcome"]) for row in rows) == [("create", "refused")] + [("update_email", "planned")] * 2, rows
    rows = fix(db, None)
    assert sorted((row["action"], row["outcome"]) for row in rows) == [("create", "refused")] + [("update_email", "done")] * 2, rows
    assert [row["details"]["error"]["sqlstate"] for row in rows if row["outcome"] == "refused"] == ["23503"]
    assert db.sql("SELECT email FROM onagui.app_users ORDER BY 1") == [("ann@example.com",), ("bob@example.com",)]
    db.sql(f"UPDATE auth.users SET email = 'nobody@example.com' WHERE id = '{zoe}'")
    both(db, "nobody@example.com", action="create")


@pytest.mark.parametrize("match", ["", "MATCH FULL"])
def test_a_new_user_would_refer_to_nobody(db, match):
    db.sql(
        f"""CREATE TABLE plan (name text, since date, PRIMARY KEY (name, since));
            ALTER TABLE onagui.app_users ADD plan text DEFAULT 'free', ADD since date DEFAULT '2026-02-01', ADD inviter uuid REFERENCES onagui.app_users,
                ADD FOREIGN KEY (plan, since) REFERENCES plan {match}"""
    )
    ann = auth_user(db, "ann@example.com")
    assert db.one("SELECT count(*) FROM onagui.app_users") == 0
    both(db, "ann@example.com", action="create", auth_user_id=ann)
    error = fix_one(db, "ann@example.com", False)["details"]["error"]
    assert error["message"] == "the row cannot be made: it would refer to what is not there"
    assert "in (plan, since) violates its foreign key app_users_plan_since_fkey" in error["detail"]
    assert "Make the row it is to refer to" in error["hint"]
    db.sql("ALTER TABLE onagui.app_users ALTER since SET DEFAULT NULL")
    if match:
        both(db, "ann@example.com", action="create")
    else:
        assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
    db.sql("ALTER TABLE onagui.app_users ALTER since SET DEFAULT '2026-02-01'; INSERT INTO plan VALUES ('free', '2026-02-01')")
    assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "done", row
    undo(db, row["audit_id"])
    assert db.one("SELECT count(*) FROM onagui.app_users") == 0


def test_a_new_user_may_refer_to_itself(db):
    db.sql(
        """ALTER TABLE onagui.app_users ADD boss uuid NOT NULL REFERENCES onagui.app_users;
           INSERT INTO onagui.sync_column (app_column, source, key) VALUES ('boss', 'user_meta', 'boss')"""
    )
    ann = uuid.uuid4()
    auth_user(db, "ann@example.com", ann, raw_user_meta_data=Jsonb({"boss": str(ann)}))
    db.sql("DELETE FROM onagui.app_users")
    assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
    bob = auth_user(db, "bob@example.com", raw_user_meta_data=Jsonb({"boss": str(uuid.uuid4())}))
    both(db, "bob@example.com", action="create", auth_user_id=bob)
    assert fix_one(db, "ann@example.com")["outcome"] == "done"


def test_a_new_user_refers_to_a_table_closed_to_others(db):
    """The server looks there with the rights of its owner."""
    db.sql(
        """CREATE ROLE keeper; GRANT CREATE, USAGE ON SCHEMA public TO keeper; SET ROLE keeper;
           CREATE TABLE plan (name text PRIMARY KEY); INSERT INTO plan VALUES ('free'); GRANT REFERENCES ON plan TO PUBLIC; RESET ROLE;
           ALTER TABLE onagui.app_users ADD plan text DEFAULT 'free' REFERENCES plan""",
        role="supabase_admin",
    )
    auth_user(db, "ann@example.com")
    db.sql("DELETE FROM onagui.app_users")
    assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
    db.sql("DELETE FROM plan", role="supabase_admin")
    both(db, "ann@example.com", action="create")


@pytest.mark.parametrize("name", ["make_plan", "Make plan"])
def test_a_trigger_makes_what_a_new_user_refers_to(db, name):
    """Triggers fire by name; the server's own for foreign keys begin with RI_."""
    db.sql(
        f"""CREATE TABLE plan (name text PRIMARY KEY);
            ALTER TABLE onagui.app_users ADD plan text DEFAULT 'free' REFERENCES plan DEFERRABLE INITIALLY DEFERRED;
            CREATE FUNCTION make_plan() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.plan VALUES (new.plan); RETURN NULL; END $$;
            CREATE TRIGGER "{name}" AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION make_plan()"""
    )
    ann = auth_user(db, "ann@example.com")
    if name == "make_plan":
        both(db, "ann@example.com", action="create")
    else:
        assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
        assert fix_one(db, "ann@example.com")["outcome"] == "done"
        assert db.sql("SELECT id, plan FROM onagui.app_users") == [(ann, "free")]


def test_rows_that_follow_an_email_refer_by_what_is_generated_from_it(db):
    db.sql(
        f"""CREATE TABLE bucket (name text PRIMARY KEY); INSERT INTO bucket VALUES ('a');
            ALTER TABLE onagui.app_users ADD UNIQUE (email);
            CREATE TABLE mails (email text REFERENCES onagui.app_users (email) ON UPDATE CASCADE, bucket text {BUCKET.format('email')})"""
    )
    app_user(db, "ann@example.com", auth_user(db, "zoe@example.com"))
    db.sql("INSERT INTO mails VALUES ('ann@example.com')")
    both(db, "zoe@example.com", "mails", action="update_email")
    db.sql("INSERT INTO bucket VALUES ('z')")
    assert fix_one(db, "zoe@example.com", False)["rows_changed"] == 1
    assert fix_one(db, "zoe@example.com")["outcome"] == "done"
    assert db.sql("SELECT email, bucket FROM mails") == [("zoe@example.com", "z")]


def test_a_generated_column_refers_to_the_same_in_another_spelling(db):
    """1.00 is 1."""
    db.sql(
        """DROP TABLE onagui.app_users;
           CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, number numeric UNIQUE);
           CREATE TABLE notes (user_id uuid, number numeric GENERATED ALWAYS AS (1) STORED REFERENCES onagui.app_users (number))"""
    )
    app_user(db, "Ann@example.com", LOW, number="1.00")
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com"), number=None)
    db.sql("INSERT INTO notes VALUES (NULL)")
    before = content(db, "onagui.app_users", "notes")
    assert fix_one(db, "ann@example.com", False)["outcome"] == "planned"
    row = fix_one(db, "ann@example.com")
    assert (row["action"], row["outcome"]) == ("merge", "done"), row
    undo(db, row["audit_id"])
    assert content(db, "onagui.app_users", "notes") == before
    db.sql("UPDATE onagui.app_users SET number = 2 WHERE number IS NULL")
    both(db, "ann@example.com", "notes", action="merge")
