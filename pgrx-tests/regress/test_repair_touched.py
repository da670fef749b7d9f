"""undo_fix among triggers that set something by themselves whenever a row changes: `updated_at`, most of all."""

import pytest
from auth_server import AuthServer
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, fix_one, log, mismatched, undo
from support import expect_error

TOUCH = """
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.updated_at = now(); RETURN NEW; END$$;
    CREATE TABLE messages (id int PRIMARY KEY, sender uuid REFERENCES onagui.app_users, recipient uuid REFERENCES onagui.app_users,
                           body text, updated_at timestamptz);
    CREATE TRIGGER touch BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE TRIGGER touch BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION touch()"""


@pytest.fixture
def db(db):
    db.install()
    db.sql(TOUCH)
    return db


def written(db):
    """What people wrote."""
    return db.sql("SELECT sender, recipient, body FROM messages ORDER BY id"), db.sql("SELECT id, email, full_name FROM onagui.app_users ORDER BY id")


def change_email(db, auth, email):
    db.sql(f"SET onagui_sync.enabled = off; UPDATE auth.users SET email = '{email}' WHERE id = '{auth}'; RESET onagui_sync.enabled", role=ADMIN)


@pytest.fixture(params=["merge", "rekey", "link"])
def later(db, request):
    """Somebody else, and how their id changes; answers the entry of it."""

    def link():
        AuthServer(db).signup("bob@example.com")
        return log(db, action="link")[-1]["audit_id"]

    def fix():
        return fix_one(db, "bob@example.com")["audit_id"]

    make = {"merge": duplicate, "rekey": mismatched, "link": lambda *bob: [app_user(*bob)]}[request.param]
    return make(db, "bob@example.com")[0], link if request.param == "link" else fix


def test_a_later_fix_that_was_undone_bars_no_undo(db, later):
    other, fix_other = later
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO messages VALUES (1, %s, %s, 'hello'), (2, %s, %s, 'hello')", [app, other, app, auth])
    before = written(db)
    first = fix_one(db, "ann@example.com")["audit_id"]
    after = written(db)
    undo(db, fix_other())
    undo(db, first)
    assert written(db) == before
    undo(db, log(db, action="undo")[-1]["audit_id"])
    assert written(db) == after


def test_what_a_person_changed_since_still_bars_it(db, later):
    other, fix_other = later
    app, _ = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO messages VALUES (1, %s, %s, 'hello')", [app, other])
    first = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("UPDATE messages SET body = 'goodbye'")
    undo(db, fix_other())
    with expect_error("55000", detail="a row of public.messages .id 1. has changed"):
        undo(db, first)


def test_a_later_fix_that_stands_bars_it(db):
    app, _ = duplicate(db, "ann@example.com")
    other, _ = mismatched(db, "bob@example.com")
    db.sql("INSERT INTO messages VALUES (1, %s, %s, 'hello')", [app, other])
    first = fix_one(db, "ann@example.com")["audit_id"]
    later = fix_one(db, "bob@example.com")["audit_id"]
    for _ in range(2):
        with expect_error("55000", detail="a row of public.messages .id 1. has changed"):
            undo(db, first)
        undo(db, later)
        # And does it again.
        later = log(db, action="undo")[-1]["audit_id"]
        undo(db, later)
        later = log(db, action="undo")[-1]["audit_id"]
    undo(db, later)
    undo(db, first)


def test_a_touch_of_somebody_else_bars_it(db):
    """Nobody can tell what it was for."""
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO messages VALUES (1, %s, %s, 'hello')", [app, auth])
    first = fix_one(db, "ann@example.com")["audit_id"]
    mismatched(db, "bob@example.com")
    undo(db, fix_one(db, "bob@example.com")["audit_id"])
    db.sql("UPDATE messages SET body = body")
    with expect_error("55000", detail="a row of public.messages .id 1. has changed"):
        undo(db, first)


def test_a_column_that_no_trigger_sets_bars_it(db):
    """Here it is the application that says when."""
    db.sql("DROP TRIGGER touch ON messages")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO messages VALUES (1, %s, %s, 'hello')", [app, auth])
    first = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("UPDATE messages SET updated_at = now()")
    with expect_error("55000", detail="a row of public.messages .id 1. has changed"):
        undo(db, first)


def test_the_users_own_row(db):
    app, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET full_name = 'Ann' WHERE id = %s", [app])
    before = written(db)
    first = fix_one(db, "ann@example.com")["audit_id"]
    change_email(db, auth, "ann2@example.com")
    undo(db, fix_one(db, "ann2@example.com")["audit_id"])
    undo(db, first)
    assert written(db) == before


def test_rows_that_were_changed_in_several_steps(db):
    """What a trigger sets it sets in the first of them; now() is the same in all."""
    db.sql(
        """CREATE TABLE desks (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, room int, seat int, helper uuid REFERENCES onagui.app_users,
                               updated_at timestamptz, UNIQUE (user_id, seat), UNIQUE (user_id, room));
           CREATE TABLE lamps (id int PRIMARY KEY, user_id uuid, room int, helper uuid REFERENCES onagui.app_users, updated_at timestamptz,
                               FOREIGN KEY (user_id, room) REFERENCES desks (user_id, room) ON DELETE CASCADE ON UPDATE CASCADE);
           CREATE TRIGGER touch BEFORE UPDATE ON desks FOR EACH ROW EXECUTE FUNCTION touch();
           CREATE TRIGGER touch BEFORE UPDATE ON lamps FOR EACH ROW EXECUTE FUNCTION touch()"""
    )
    app, auth = duplicate(db, "ann@example.com")
    bob, _ = mismatched(db, "bob@example.com")
    db.sql(f"INSERT INTO desks VALUES (1, '{app}', 1, 9, '{bob}'), (2, '{app}', 2, 5, '{bob}'), (3, '{auth}', 2, 9, '{bob}')")
    db.sql(f"INSERT INTO lamps VALUES (1, '{app}', 1, '{bob}'), (2, '{app}', 2, '{bob}'), (3, '{auth}', 2, '{bob}')")
    rows = [f"SELECT to_jsonb(t) - 'updated_at' FROM {table} t ORDER BY id" for table in ("desks", "lamps")]
    before = [db.sql(query) for query in rows]
    row = fix_one(db, "ann@example.com", policy="keep_app")
    assert row["outcome"] == "done", row
    [entry] = log(db, action="merge")
    assert '"number": 0' in str(entry["details"]).replace("'", '"')
    undo(db, fix_one(db, "bob@example.com")["audit_id"])
    undo(db, row["audit_id"])
    assert [db.sql(query) for query in rows] == before


@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
def test_a_counter_beside_it(db, policy):
    db.sql(
        """ALTER TABLE onagui.app_users ADD posts_count int NOT NULL DEFAULT 0;
           CREATE TABLE posts (id int PRIMARY KEY, author uuid REFERENCES onagui.app_users, slug text, UNIQUE (author, slug));
           CREATE FUNCTION count_posts() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               IF TG_OP <> 'INSERT' THEN UPDATE onagui.app_users SET posts_count = posts_count - 1 WHERE id = OLD.author; END IF;
               IF TG_OP <> 'DELETE' THEN UPDATE onagui.app_users SET posts_count = posts_count + 1 WHERE id = NEW.author; END IF;
               RETURN NULL; END$$;
           CREATE TRIGGER count AFTER INSERT OR DELETE OR UPDATE OF author ON posts FOR EACH ROW EXECUTE FUNCTION count_posts()"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO posts VALUES (1, %s, 'hello'), (2, %s, 'hello'), (3, %s, 'other')", [app, auth, app])
    counts = "SELECT id, posts_count FROM onagui.app_users ORDER BY id"
    before = written(db), content(db, "posts"), db.sql(counts)
    audit_id = fix_one(db, "ann@example.com", policy=policy)["audit_id"]
    after = written(db), content(db, "posts"), db.sql(counts)
    undo(db, audit_id)
    assert (written(db), content(db, "posts"), db.sql(counts)) == before
    undo(db, log(db, action="undo")[-1]["audit_id"])
    assert (written(db), content(db, "posts"), db.sql(counts)) == after


def test_what_no_trigger_sets_anew_comes_back_to_the_byte(db):
    """Also beside a column that one does."""
    db.sql(
        """CREATE FUNCTION slug() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN UPDATE onagui.app_users SET full_name = 'auto' WHERE id = NEW.id AND full_name <> 'auto'; RETURN NULL; END $$"""
    )
    app, _ = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET full_name = 'mine' WHERE id = %s", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("CREATE TRIGGER slug AFTER INSERT OR UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION slug()")
    with expect_error("55000", detail="come back to onagui.app_users as something else: a trigger"):
        undo(db, audit_id)


@pytest.mark.parametrize("unique", [True, False])
def test_an_exchange_of_emails(db, unique):
    """Each row is changed twice, and touched each time."""
    db.sql("DROP INDEX onagui.app_users_email_key", role=ADMIN)
    if unique:
        db.sql("CREATE UNIQUE INDEX ON onagui.app_users (lower(btrim(email)))", role=ADMIN)
    db.sql(
        """CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END$$;
           CREATE TRIGGER set_updated_at BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION set_updated_at()"""
    )
    for email, held in ("ann", "bob"), ("bob", "ann"):
        app_user(db, f"{held}@example.com", auth_user(db, f"{email}@example.com"))
    emails = "SELECT id, email FROM onagui.app_users ORDER BY id"
    before = db.sql(emails)
    rows = fix(db, None)
    assert [row["outcome"] for row in rows] == ["done", "done"]
    after = db.sql(emails)
    for wanted in before, after, before:
        undo(db, db.one("SELECT max(audit_id) FROM onagui.sync_audit_log", role=ADMIN))
        assert db.sql(emails) == wanted


def test_a_counter_that_a_before_trigger_keeps(db):
    db.sql(
        """ALTER TABLE onagui.app_users ADD n int NOT NULL DEFAULT 0;
           CREATE TABLE profiles (id int PRIMARY KEY, user_id uuid NOT NULL UNIQUE REFERENCES onagui.app_users);
           CREATE FUNCTION count_them() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               IF TG_OP <> 'INSERT' THEN UPDATE onagui.app_users SET n = n - 1 WHERE id = OLD.user_id; END IF;
               IF TG_OP <> 'DELETE' THEN UPDATE onagui.app_users SET n = n + 1 WHERE id = NEW.user_id; END IF;
               RETURN coalesce(NEW, OLD); END$$;
           CREATE TRIGGER counted BEFORE INSERT OR UPDATE OR DELETE ON profiles FOR EACH ROW EXECUTE FUNCTION count_them()"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO profiles VALUES (1, %s), (2, %s)", [app, auth])
    counted = "SELECT id, n FROM onagui.app_users ORDER BY id"
    before = db.sql(counted)
    fix_one(db, "ann@example.com", policy="keep_auth")
    after = db.sql(counted)
    for wanted in before, after, before:
        undo(db, db.one("SELECT max(audit_id) FROM onagui.sync_audit_log", role=ADMIN))
        assert db.sql(counted) == wanted


@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
def test_a_trigger_that_makes_what_comes_back_stands_aside_meanwhile(db, policy):
    """As README's troubleshooting says."""
    db.sql(
        """CREATE TABLE profiles (id uuid PRIMARY KEY REFERENCES onagui.app_users ON DELETE CASCADE, nick text);
           CREATE FUNCTION make_profile() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               INSERT INTO public.profiles (id) VALUES (NEW.id); RETURN NULL; END$$;
           CREATE TRIGGER make_profile AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION make_profile()"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE profiles SET nick = CASE id WHEN %s THEN 'own' ELSE 'spare' END", [auth])
    before = content(db, "profiles", "onagui.app_users")
    audit_id = fix_one(db, "ann@example.com", policy=policy)["audit_id"]
    after = content(db, "profiles", "onagui.app_users")
    with expect_error("55000", detail="duplicate key value violates unique constraint .profiles_pkey."):
        undo(db, audit_id)
    assert content(db, "profiles", "onagui.app_users") == after
    admin = db.session(ADMIN)
    with admin.transaction():
        admin.execute("ALTER TABLE onagui.app_users DISABLE TRIGGER make_profile")
        admin.execute("SELECT onagui.undo_fix(%s)", [audit_id])
        admin.execute("ALTER TABLE onagui.app_users ENABLE TRIGGER make_profile")
    assert content(db, "profiles") == {"profiles": before["profiles"]}


@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
def test_a_trigger_that_touches_new_rows_too_stands_aside_meanwhile(db, policy):
    """As README's troubleshooting says."""
    db.sql(
        """CREATE TABLE profiles (id uuid PRIMARY KEY REFERENCES onagui.app_users, created_at timestamptz, updated_at timestamptz);
           CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               NEW.updated_at = now();
               IF TG_OP = 'INSERT' THEN NEW.created_at = now(); ELSE NEW.created_at = OLD.created_at; END IF;
               RETURN NEW; END$$;
           CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON profiles FOR EACH ROW EXECUTE FUNCTION stamp()"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO profiles VALUES (%s), (%s)", [app, auth])
    before = db.sql("SELECT id, created_at FROM profiles ORDER BY id")
    audit_id = fix_one(db, "ann@example.com", policy=policy)["audit_id"]
    with expect_error("55000", detail="come back to public.profiles as something else: a trigger", hint="DISABLE TRIGGER"):
        undo(db, audit_id)
    session = db.session()
    with session.transaction():
        session.execute("ALTER TABLE profiles DISABLE TRIGGER stamp")
        session.execute("SELECT onagui.undo_fix(%s)", [audit_id])
        session.execute("ALTER TABLE profiles ENABLE TRIGGER stamp")
    assert db.sql("SELECT id, created_at FROM profiles ORDER BY id") == before
