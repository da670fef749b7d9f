"""What a backend keeps of the catalog is never out of date: one session repairs, signs up and reads between changes."""

import pytest
from psycopg.types.json import Jsonb
from repairs import ADMIN, app_user, auth_user, content, fix_one, mismatched, statuses


@pytest.fixture
def db(db):
    db.install()
    return db


class Desk:
    """A session that stays, and somebody else who changes the database."""

    def __init__(self, db):
        self.db = db
        self.session = db.connect(ADMIN)
        self.users = 0

    def fix(self):
        """Fixes a new user and answers what moved, and the user's ids."""
        app, auth = self.out_of_step()
        return self.fix_these(app, auth)

    def out_of_step(self):
        self.users += 1
        return mismatched(self.db, f"u{self.users}@example.com")

    def fix_these(self, app, auth):
        row = self.session.execute(
            "SELECT outcome, details -> 'references' FROM onagui.fix_user_ids(ARRAY[%s], true)", [f"u{self.users}@example.com"]
        ).fetchone()
        assert row[0] == "done"
        return {reference["table"]: reference["rows"] for reference in row[1]}


@pytest.fixture
def desk(db):
    desk = Desk(db)
    assert desk.fix() == {}
    return desk


def referring(desk, table, column="user_id", insert="INSERT INTO {} ({}) VALUES (%s)"):
    app, auth = desk.out_of_step()
    desk.db.sql(insert.format(table, column), [app], role=ADMIN)
    moved = desk.fix_these(app, auth)
    assert desk.db.one(f"SELECT count(*) FROM {table} WHERE {column}::text = %s", [str(auth)], role=ADMIN) == 1
    return moved


def test_a_new_foreign_key(desk):
    desk.db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)", role=ADMIN)
    assert referring(desk, "public.notes") == {"public.notes": 1}
    desk.db.sql("CREATE TABLE plans (user_id uuid)", role=ADMIN)
    desk.db.sql("ALTER TABLE plans ADD CONSTRAINT later FOREIGN KEY (user_id) REFERENCES onagui.app_users NOT VALID", role=ADMIN)
    assert referring(desk, "public.plans") == {"public.plans": 1}


def test_a_key_to_a_key(desk):
    desk.db.sql("CREATE TABLE profiles (user_id uuid PRIMARY KEY REFERENCES onagui.app_users)", role=ADMIN)
    assert referring(desk, "public.profiles") == {"public.profiles": 1}
    desk.db.sql("CREATE TABLE pictures (user_id uuid REFERENCES profiles)", role=ADMIN)
    app, auth = desk.out_of_step()
    desk.db.sql("INSERT INTO profiles VALUES (%(id)s); INSERT INTO pictures VALUES (%(id)s)".replace("%(id)s", f"'{app}'"), role=ADMIN)
    assert desk.fix_these(app, auth) == {"public.profiles": 1, "public.pictures": 1}


def test_a_column_is_renamed_and_a_table_moves(desk):
    desk.db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)", role=ADMIN)
    assert referring(desk, "public.notes") == {"public.notes": 1}
    desk.db.sql('ALTER TABLE notes RENAME user_id TO "Who"', role=ADMIN)
    assert referring(desk, "public.notes", '"Who"') == {"public.notes": 1}
    desk.db.sql("CREATE SCHEMA elsewhere", role=ADMIN)
    desk.db.sql("ALTER TABLE notes SET SCHEMA elsewhere", role=ADMIN)
    assert referring(desk, "elsewhere.notes", '"Who"') == {"elsewhere.notes": 1}
    desk.db.sql("ALTER SCHEMA elsewhere RENAME TO here", role=ADMIN)
    assert referring(desk, "here.notes", '"Who"') == {"here.notes": 1}


def test_a_dropped_key_and_a_dropped_table(desk):
    desk.db.sql("CREATE TABLE notes (user_id uuid CONSTRAINT tie REFERENCES onagui.app_users)", role=ADMIN)
    assert referring(desk, "public.notes") == {"public.notes": 1}
    desk.db.sql("ALTER TABLE notes DROP CONSTRAINT tie", role=ADMIN)
    app, auth = desk.out_of_step()
    desk.db.sql("INSERT INTO notes VALUES (%s)", [app], role=ADMIN)
    assert desk.fix_these(app, auth) == {}
    desk.db.sql("DROP TABLE notes", role=ADMIN)
    assert desk.fix() == {}


def test_soft_references_come_and_go(desk):
    desk.db.sql("CREATE TABLE notes (user_id text)", role=ADMIN)
    desk.db.sql("SELECT onagui.register_reference('notes', 'user_id')", role=ADMIN)
    assert referring(desk, "public.notes") == {"public.notes": 1}
    desk.db.sql("DELETE FROM onagui.sync_reference", role=ADMIN)
    assert desk.fix() == {}
    # In the session's own transaction, and taken back with it.
    app, auth = desk.out_of_step()
    desk.db.sql("INSERT INTO notes VALUES (%s)", [str(app)], role=ADMIN)
    with desk.session.transaction(force_rollback=True):
        desk.session.execute("SELECT onagui.register_reference('notes', 'user_id')")
        assert desk.fix_these(app, auth) == {"public.notes": 1}
    assert desk.fix_these(app, auth) == {}


def test_another_owner(desk):
    desk.db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)", role=ADMIN)
    assert referring(desk, "public.notes") == {"public.notes": 1}
    desk.db.sql(
        """CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'as %', current_user; RETURN NEW; END$$;
           CREATE TRIGGER who BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION who();
           ALTER TABLE notes OWNER TO postgres"""
        , role=ADMIN)
    said = []
    desk.session.add_notice_handler(lambda notice: said.append(notice.message_primary))
    referring(desk, "public.notes")
    assert "as postgres" in said


def test_its_own_changes_within_a_transaction(desk):
    app, auth = desk.out_of_step()
    with desk.session.transaction():
        desk.session.execute("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)")
        desk.session.execute("INSERT INTO notes VALUES (%s)", [app])
        assert desk.fix_these(app, auth) == {"public.notes": 1}


def test_changes_of_others_within_a_transaction(desk):
    with desk.session.transaction():
        assert desk.fix() == {}
        desk.db.sql("CREATE TABLE notes (user_id uuid)", role=ADMIN)
        app, auth = desk.out_of_step()
        desk.db.sql("INSERT INTO notes VALUES (%s)", [app], role=ADMIN)
        desk.db.sql("SELECT onagui.register_reference('notes', 'user_id')", role=ADMIN)
        assert desk.fix_these(app, auth) == {"public.notes": 1}


def test_an_old_snapshot_teaches_nothing(desk):
    """A transaction that sees the database as it was learns of tables as they were, and the next one looks again."""
    session = desk.session
    app, auth = desk.out_of_step()
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT 1")
        desk.db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)", role=ADMIN)
        desk.db.sql("ALTER TABLE onagui.app_users ADD phone text", role=ADMIN)
        desk.db.sql("CREATE INDEX ON onagui.app_users (lower(email))", role=ADMIN)
        session.execute("SELECT * FROM onagui.fix_user_ids(ARRAY['u2@example.com'])")
        session.execute("SELECT count(*) FROM onagui.user_sync_status")
        session.execute("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'early@example.com')")
    desk.db.sql("INSERT INTO notes VALUES (%s)", [app], role=ADMIN)
    assert desk.fix_these(app, auth) == {"public.notes": 1}
    session.execute("INSERT INTO auth.users (id, email, phone) VALUES (gen_random_uuid(), 'late@example.com', '4930123456')")
    assert desk.db.one("SELECT phone FROM onagui.app_users WHERE email = 'late@example.com'", role=ADMIN) == "4930123456"
    assert statuses(desk.db) == {"SYNCED": 4}


def test_the_table_of_users_is_replaced(desk):
    db = desk.db
    db.sql("ALTER TABLE onagui.app_users RENAME TO old_users", role=ADMIN)
    db.sql("SELECT onagui.create_app_users()", role=ADMIN)
    db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)", role=ADMIN)
    assert referring(desk, "public.notes") == {"public.notes": 1}


def test_the_link_policy_counts_at_once(desk):
    session = desk.session
    auth_user(desk.db, "p@example.com", confirmed=False)
    app_user(desk.db, "p@example.com")
    call = "SELECT action FROM onagui.fix_user_ids(ARRAY['p@example.com'])"
    assert session.execute(call).fetchone() == ("refuse",)
    session.execute("SET onagui_sync.link_by_email = always")
    assert session.execute(call).fetchone() == ("rekey",)
    session.execute("RESET onagui_sync.link_by_email")
    assert session.execute(call).fetchone() == ("refuse",)


def test_the_extension_is_dropped_and_made_again(desk):
    db = desk.db
    db.sql("DROP EXTENSION onagui_sync", role=ADMIN)
    db.sql("CREATE EXTENSION onagui_sync", role=ADMIN)
    db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users)", role=ADMIN)
    assert referring(desk, "public.notes") == {"public.notes": 1}
    before = content(db, "onagui.app_users")
    app, auth = mismatched(db, "z@example.com")
    row = fix_one(db, "z@example.com", role=ADMIN)
    assert row["outcome"] == "done" and (row["old_app_user_id"], row["new_app_user_id"]) == (app, auth)
    assert len(content(db, "onagui.app_users")["onagui.app_users"]) == len(before["onagui.app_users"]) + 1


TOUCH = """
    CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';
    CREATE TRIGGER touch BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.touch()"""
ORDERS = """
    CREATE TABLE products (id int PRIMARY KEY);
    CREATE TABLE orders (id int, product int CONSTRAINT of_product REFERENCES products DEFERRABLE INITIALLY DEFERRED)"""
NOTES = "CREATE TABLE notes (user_id uuid CONSTRAINT of_user REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED)"
STOCK = """
    CREATE TABLE products (id int PRIMARY KEY);
    CREATE TABLE stock (product int);
    CREATE FUNCTION public.sell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.stock VALUES (NULL), (1); RETURN NULL; END';
    CREATE TRIGGER sell AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.sell()"""


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (TOUCH + ";" + ORDERS, "ALTER TABLE orders DROP CONSTRAINT of_product"),
        (TOUCH + ";" + ORDERS, "DROP TABLE orders"),
        (TOUCH + ";" + ORDERS, "ALTER TABLE orders RENAME CONSTRAINT of_product TO of_products"),
        (TOUCH + ";" + ORDERS, "CREATE SCHEMA shop; ALTER TABLE orders SET SCHEMA shop"),
        (NOTES, "ALTER TABLE notes RENAME CONSTRAINT of_user TO of_whom"),
        (NOTES, "DROP TABLE notes"),
        (STOCK, "INSERT INTO products VALUES (1); ALTER TABLE stock ADD FOREIGN KEY (product) REFERENCES products DEFERRABLE INITIALLY DEFERRED"),
        (STOCK, "INSERT INTO products VALUES (1); ALTER TABLE stock ADD FOREIGN KEY (product) REFERENCES products DEFERRABLE INITIALLY DEFERRED;"
                " ALTER FUNCTION public.sell() SECURITY DEFINER"),
    ],
)
def test_constraints_that_may_wait_come_and_go(db, before, change):
    """Also those of tables that are neither auth's nor the users': a session of the Auth server's stays for days."""
    db.sql(before)
    auth, caller = db.connect("supabase_auth_admin"), db.connect(ADMIN)

    def live(name):
        id = auth.execute(
            "INSERT INTO auth.users (id, email, email_confirmed_at) VALUES (gen_random_uuid(), %s, now()) RETURNING id", [f"{name}@x.org"]
        ).fetchone()[0]
        auth.execute("UPDATE auth.users SET email = %s WHERE id = %s", [f"{name}@y.org", id])
        body = {"userId": str(id), "email": f"{name}@y.org", "username": f"the_{name}"}
        caller.execute("SELECT onagui.sync_user_registration(%s)", [Jsonb(body)])
        return id

    ids = [live("ann")]
    db.sql(change)
    ids += [live("bob"), live("cid")]
    assert auth.warnings == []
    rows = db.sql("SELECT id, email, username FROM onagui.app_users ORDER BY email", role=ADMIN)
    assert rows == [(id, f"{name}@y.org", f"the_{name}") for id, name in zip(ids, ["ann", "bob", "cid"])]


def test_a_table_that_changes_hands(db):
    """What one does about a deferred trigger of another role's table counts at once."""
    db.sql("CREATE TABLE public.seen (id uuid); GRANT INSERT ON public.seen TO postgres", role=ADMIN)
    db.sql("CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    db.sql("CREATE CONSTRAINT TRIGGER later AFTER INSERT ON public.seen DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nothing()", role=ADMIN)
    db.sql("CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.seen VALUES (NEW.id); RETURN NULL; END'")
    db.sql("CREATE TRIGGER see AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION see()")
    auth = db.connect("supabase_auth_admin")
    sign_up = "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), %s)"
    auth.execute(sign_up, ["ann@example.com"])
    assert [warning.sqlstate for warning in auth.warnings] == ["42501"]
    db.sql("ALTER TABLE public.seen OWNER TO postgres", role=ADMIN)
    auth.execute(sign_up, ["bob@example.com"])
    assert len(auth.warnings) == 1 and db.one("SELECT count(*) FROM public.seen") == 1
