"""undo_fix: what it refuses, and what it puts back."""

import re

import psycopg
import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, fix_one, log, mismatched, new_id, undo
from support import expect_error


@pytest.fixture
def db(db):
    db.install()
    db.sql("CREATE TABLE orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, note text)")
    return db


def merged(db):
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s, 'x'), (2, %s, 'y')", [app, auth])
    return app, auth, fix_one(db, "ann@example.com")["audit_id"]


def refused(db, audit_id, detail):
    before = content(db, "onagui.app_users", "onagui.sync_audit_log")
    with expect_error("55000", detail=detail):
        undo(db, audit_id)
    assert content(db, "onagui.app_users", "onagui.sync_audit_log") == before


def test_unknown_and_second(db):
    with expect_error("P0002", detail="4711"):
        undo(db, 4711)
    mismatched(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    undo(db, audit_id)
    refused(db, audit_id, "audit_id")


def test_nothing_to_undo(db):
    mismatched(db, "ann@example.com", confirmed=False)
    fix_one(db, "ann@example.com")
    db.sql("INSERT INTO onagui.sync_audit_log (action, outcome, actor) VALUES ('pending', 'done', 'x')", role=ADMIN)
    refused(db, db.one("SELECT max(audit_id) FROM onagui.sync_audit_log", role=ADMIN), "pending")


def test_old_id_in_use(db):
    app, auth = mismatched(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    app_user(db, "new@example.com", app)
    refused(db, audit_id, str(app))
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [app])
    auth_user(db, "new@example.com", app)
    refused(db, audit_id, str(app))


def test_user_is_gone(db):
    app, auth = mismatched(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("DELETE FROM onagui.app_users")
    refused(db, audit_id, str(auth))


@pytest.mark.parametrize("change, detail", [
    ("UPDATE orders SET note = 'z' WHERE id = 1", r"public.orders \(id 1\) has changed"),
    ("DELETE FROM orders WHERE id = 1", r"public.orders \(id 1\) is gone"),
    ("DROP TABLE orders", "public.orders is not there"),
    ("ALTER TABLE orders DROP COLUMN user_id", "user_id"),
    ("UPDATE onagui.app_users SET full_name = 'z'", "onagui.app_users"),
])  # fmt: skip
def test_what_was_moved_has_changed(db, change, detail):
    app, auth, audit_id = merged(db)
    db.sql("UPDATE onagui.app_users SET metadata = '{}' WHERE false")
    db.sql(change, role=ADMIN)
    if "app_users" in change:
        # The staying user's own row is the application's to change, unless the merge had changed it too.
        undo(db, audit_id)
        return
    refused(db, audit_id, detail)


def test_more_than_ten_changed_rows_are_not_all_named(db):
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO orders SELECT g, %s FROM generate_series(1, 30) g", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("UPDATE orders SET note = 'z'")
    with expect_error("55000", detail="and more") as caught:
        undo(db, audit_id)
    assert caught.diag.message_detail.count("public.orders") == 10


def test_creation(db):
    auth = auth_user(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("INSERT INTO orders VALUES (1, %s)", [auth])
    refused(db, audit_id, "1 row refers from public.orders")
    db.sql("DELETE FROM orders")
    undo(db, audit_id)
    assert db.one("SELECT count(*) FROM onagui.app_users") == 0
    undo(db, log(db, action="undo")[0]["audit_id"])
    assert db.one("SELECT id FROM onagui.app_users") == auth


def test_link_made_by_a_confirmation(db):
    app = app_user(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    before = content(db, "onagui.app_users", "orders")
    auth = new_id()
    db.sql("INSERT INTO auth.users (id, email, is_sso_user, raw_user_meta_data) VALUES (%s, 'ann@example.com', false, '{\"full_name\": \"Ann\"}')", [auth], role=ADMIN)
    db.sql("UPDATE auth.users SET email_confirmed_at = now()", role=ADMIN)
    assert db.one("SELECT user_id FROM orders") == auth
    (link,) = log(db, action="link")
    assert link["rows_changed"] == 1
    after = content(db, "onagui.app_users", "orders")
    undo(db, link["audit_id"])
    assert content(db, "onagui.app_users", "orders") == before
    undo(db, log(db, action="undo")[0]["audit_id"])
    assert content(db, "onagui.app_users", "orders") == after


def test_soft_rows_that_had_the_id_already_stay(db):
    db.sql("CREATE TABLE files (owner text, user_id uuid REFERENCES onagui.app_users); SELECT onagui.register_reference('files', 'owner')")
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO files VALUES ('{auth}', '{app}'), ('{app}', '{app}'), ('{auth}', NULL)")
    before = content(db, "files")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    undo(db, audit_id)
    assert content(db, "files") == before


def test_soft_rows_that_had_the_id_already_and_cannot_be_told_apart(db):
    """Which of the two had the id before? One has changed since, and there is no key to know it by."""
    db.sql("CREATE TABLE files (owner text, name text); SELECT onagui.register_reference('files', 'owner')")
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO files VALUES ('{auth}', 'a'), ('{app}', 'b')")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("UPDATE files SET name = name || '2'")
    refused(db, audit_id, "rows of public.files had the id before, have changed, and cannot be told apart")


@pytest.fixture(params=["uuid", "text"])
def visits(db, request):
    """Registered, without a foreign key: nobody but the undo itself can see to it that nothing is left behind."""
    db.sql(f"CREATE TABLE visits (id int, user_id {request.param}); SELECT onagui.register_reference('visits', 'user_id')")
    return lambda id: db.sql("INSERT INTO visits VALUES (1, %s)", [str(id) if request.param == "text" else id])


def test_soft_rows_that_came_since_hold_a_creation(db, visits):
    auth = auth_user(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    visits(auth)
    refused(db, audit_id, "1 row refers from public.visits to a row of onagui.app_users that would not be there any more")
    db.sql("DELETE FROM visits")
    undo(db, audit_id)


def test_soft_rows_that_came_since_hold_a_merge_done_again(db, visits):
    app, auth, audit_id = merged(db)
    undo(db, audit_id)
    visits(app)
    refused(db, log(db, action="undo")[0]["audit_id"], "1 row refers from public.visits")


def test_trigger_that_changes_what_is_put_back(db):
    app, auth, audit_id = merged(db)
    db.sql("CREATE FUNCTION up() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.full_name = 'changed'; RETURN NEW; END$$;"
           "CREATE TRIGGER up BEFORE INSERT OR UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION up()")  # fmt: skip
    refused(db, audit_id, "come back to onagui.app_users as something else: a trigger, of that table or of another one")


@pytest.mark.parametrize("step", ['{"changes": 1}', '{"rekey": {"from": 1}}', '{"unknown": []}', "7"])
def test_an_entry_that_somebody_has_spoilt(db, step):
    app, auth, audit_id = merged(db)
    db.sql("UPDATE onagui.sync_audit_log SET details = jsonb_set(details, '{undo,0}', %s)", [step], role=ADMIN)
    refused(db, audit_id, f"audit_id {audit_id}: the entry is not whole.$")


COUNTERS = """
    ALTER TABLE onagui.app_users ADD post_count int NOT NULL DEFAULT 0, ADD like_count int NOT NULL DEFAULT 0, ADD is_known bool DEFAULT true;
    CREATE TABLE posts (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, likes int NOT NULL DEFAULT 0, slug text, UNIQUE (user_id, slug));
    CREATE TABLE likes (post_id int REFERENCES posts, who text, PRIMARY KEY (post_id, who));
    CREATE FUNCTION count_posts() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
        IF TG_OP <> 'INSERT' THEN UPDATE onagui.app_users SET post_count = post_count - 1 WHERE id = OLD.user_id; END IF;
        IF TG_OP <> 'DELETE' THEN UPDATE onagui.app_users SET post_count = post_count + 1 WHERE id = NEW.user_id; END IF;
        RETURN NULL; END$$;
    CREATE FUNCTION count_likes() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
        IF TG_OP <> 'INSERT' THEN UPDATE public.posts SET likes = likes - 1 WHERE id = OLD.post_id; END IF;
        IF TG_OP <> 'DELETE' THEN UPDATE public.posts SET likes = likes + 1 WHERE id = NEW.post_id; END IF;
        RETURN NULL; END$$;
    CREATE FUNCTION sum_likes() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
        IF TG_OP <> 'INSERT' THEN UPDATE onagui.app_users SET like_count = like_count - OLD.likes WHERE id = OLD.user_id; END IF;
        IF TG_OP <> 'DELETE' THEN UPDATE onagui.app_users SET like_count = like_count + NEW.likes WHERE id = NEW.user_id; END IF;
        -- Changes nothing, but the row lies elsewhere then.
        UPDATE onagui.app_users SET is_known = true;
        RETURN NULL; END$$;
    CREATE TRIGGER sum AFTER INSERT OR UPDATE OR DELETE ON posts FOR EACH ROW EXECUTE FUNCTION sum_likes();
    CREATE TRIGGER count AFTER INSERT OR UPDATE OF user_id OR DELETE ON posts FOR EACH ROW EXECUTE FUNCTION count_posts();
    CREATE TRIGGER count AFTER INSERT OR UPDATE OF post_id OR DELETE ON likes FOR EACH ROW EXECUTE FUNCTION count_likes()"""


@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
def test_triggers_that_count_what_moves_back(db, policy):
    """A row that gave way comes back with what it had counted, not with what comes to it besides counted again; likewise with what
    counts that."""
    db.sql(COUNTERS)
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO posts (id, user_id, slug) VALUES (1, %s, 'a'), (2, %s, 'b'), (3, %s, 'a'), (4, %s, 'c')", [app, app, auth, auth])
    db.sql("INSERT INTO likes VALUES (1, 'x'), (1, 'y'), (2, 'x'), (3, 'x'), (3, 'z')")
    before = content(db, "onagui.app_users", "posts", "likes")
    row = fix_one(db, "ann@example.com", policy=policy)
    assert row["outcome"] == "done"
    after = content(db, "onagui.app_users", "posts", "likes")
    undo(db, row["audit_id"])
    assert content(db, "onagui.app_users", "posts", "likes") == before
    undo(db, log(db, action="undo")[-1]["audit_id"])
    assert content(db, "onagui.app_users", "posts", "likes") == after
    undo(db, log(db, action="undo")[-1]["audit_id"])
    assert content(db, "onagui.app_users", "posts", "likes") == before


def test_generated_domain_in_a_partitioned_table(db):
    """The server cannot compute with such a value in RETURNING as the row comes back."""
    db.sql("CREATE DOMAIN public.user_id AS uuid", role=ADMIN)
    db.sql(
        """CREATE TABLE seats (user_id public.user_id PRIMARY KEY REFERENCES onagui.app_users,
                               held_by public.user_id GENERATED ALWAYS AS (user_id) STORED) PARTITION BY HASH (user_id);
           CREATE TABLE seats_0 PARTITION OF seats FOR VALUES WITH (MODULUS 2, REMAINDER 0);
           CREATE TABLE seats_1 PARTITION OF seats FOR VALUES WITH (MODULUS 2, REMAINDER 1)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (%s), (%s)", [app, auth])
    before = content(db, "seats", "onagui.app_users")
    done = fix_one(db, "ann@example.com", policy="keep_auth")
    assert db.sql("SELECT held_by FROM seats") == [(auth,)]
    undo(db, done["audit_id"])
    assert content(db, "seats", "onagui.app_users") == before
    again = db.one("SELECT undone_by FROM onagui.sync_audit_log WHERE audit_id = %s", [done["audit_id"]], role=ADMIN)
    undo(db, again)
    assert db.sql("SELECT held_by FROM seats") == [(auth,)]


def test_rows_that_refer_to_what_is_computed_from_the_id(db):
    """They are moved through a generated column, and hold no id that a foreign key to app_users would tell of."""
    db.sql(
        """CREATE TABLE seats (user_id uuid REFERENCES onagui.app_users, held_by uuid GENERATED ALWAYS AS (user_id) STORED UNIQUE);
           CREATE TABLE notes (seat uuid REFERENCES seats (held_by))"""
    )
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (%s)", [app])
    db.sql("INSERT INTO notes VALUES (%s)", [app])
    done = fix_one(db, "ann@example.com")
    assert db.one("SELECT seat FROM notes") == auth
    undo(db, done["audit_id"])
    assert db.sql("SELECT seat, held_by FROM notes, seats") == [(app, app)]


def test_unique_conflict_since(db):
    app, auth, audit_id = merged(db)
    app_user(db, "someone@example.com", username="w")
    db.sql("ALTER TABLE onagui.app_users ADD CHECK (email = lower(email)) NOT VALID")
    refused(db, audit_id, "check")


CARTS = """
    CREATE TABLE carts (user_id uuid REFERENCES onagui.app_users, n int, note text, PRIMARY KEY (user_id, n));
    CREATE TABLE items (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, cart int, position int, UNIQUE (user_id, cart, position),
                        FOREIGN KEY (user_id, cart) REFERENCES carts ON UPDATE {action} ON DELETE {action});
    CREATE TABLE stamps (id int PRIMARY KEY, owner uuid, cart int, position int,
                         FOREIGN KEY (owner, cart, position) REFERENCES items (user_id, cart, position) ON UPDATE {action})"""


@pytest.mark.parametrize("action", ["CASCADE", "RESTRICT", "SET NULL", "NO ACTION"])
def test_what_refers_to_a_row_that_moves_back_goes_with_it(db, action):
    db.sql(CARTS.format(action=action if action != "SET NULL" else "SET DEFAULT"))
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO carts VALUES (%s, 1), (%s, 2)", [app, auth])
    db.sql("INSERT INTO items VALUES (1, %s, 1, 1)", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    # Rows that came since: in the cart that goes back, and in the one that stays.
    db.sql("INSERT INTO items VALUES (2, %s, 1, 2), (3, %s, 2, 1)", [auth, auth])
    db.sql("INSERT INTO stamps VALUES (1, %s, 1, 1), (2, %s, 1, 2), (3, %s, 2, 1)", [auth, auth, auth])
    merged = content(db, "onagui.app_users", "carts", "items", "stamps")
    undo(db, audit_id)
    assert db.sql("SELECT id, user_id FROM items ORDER BY id") == [(1, app), (2, app), (3, auth)]
    assert db.sql("SELECT id, owner FROM stamps ORDER BY id") == [(1, app), (2, app), (3, auth)]
    (entry,) = log(db, action="undo")
    assert entry["rows_changed"] == 5
    undo(db, entry["audit_id"])
    assert content(db, "onagui.app_users", "carts", "items", "stamps") == merged


def test_what_cannot_go_along_bars_the_undo(db):
    db.sql(CARTS.format(action="NO ACTION"))
    db.sql("CREATE TABLE gifts (id int PRIMARY KEY, user_id uuid, cart int, other int, FOREIGN KEY (user_id, cart) REFERENCES carts, FOREIGN KEY (user_id, other) REFERENCES carts)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO carts VALUES (%s, 1), (%s, 2)", [app, auth])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    # It refers to the cart that goes back and to the one that stays, by one column.
    db.sql("INSERT INTO gifts VALUES (1, %s, 1, 2)", [auth])
    refused(db, audit_id, f"gifts_user_id_other_fkey.*{app}")


def test_children_of_the_row_that_stayed_remain_with_it(db):
    """Cart 1 of the auth user gave way; what was put into the other's since stays where it is, for the key is there again."""
    db.sql(CARTS.format(action="NO ACTION"))
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO carts VALUES (%s, 1, 'app'), (%s, 1, 'auth')", [app, auth])
    db.sql("INSERT INTO items VALUES (1, %s, 1, 1), (2, %s, 1, 2)", [app, auth])
    audit_id = fix_one(db, "ann@example.com", policy="keep_app")["audit_id"]
    assert db.sql("SELECT user_id, note FROM carts") == [(auth, "app")]
    db.sql("INSERT INTO items VALUES (3, %s, 1, 3)", [auth])
    undo(db, audit_id)
    assert sorted(db.sql("SELECT user_id, note FROM carts")) == sorted([(app, "app"), (auth, "auth")])
    assert db.sql("SELECT id, user_id FROM items ORDER BY id") == [(1, app), (2, auth), (3, auth)]


def test_prune(db):
    mismatched(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    assert db.one("SELECT onagui.prune_audit('1 day')") == 0
    db.sql("UPDATE onagui.sync_audit_log SET occurred_at = now() - interval '2 days'", role=ADMIN)
    assert db.one("SELECT onagui.prune_audit('1 day')") == 1
    with expect_error("P0002"):
        undo(db, audit_id)


@pytest.mark.parametrize("statement", ["DELETE FROM onagui.sync_audit_log", "UPDATE onagui.sync_audit_log SET actor = 'x'", "TRUNCATE onagui.sync_audit_log"])
def test_nobody_changes_the_log(db, statement):
    with expect_error("42501", detail=False, hint=False):
        db.sql(statement)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_levels(db, level):
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    one = db.connect()
    one.execute(f"BEGIN ISOLATION LEVEL {level}")
    one.execute("SELECT count(*) FROM orders")
    db.sql("INSERT INTO orders VALUES (2, %s)", [app])
    error = None
    try:
        one.execute("SELECT * FROM onagui.fix_user_ids(NULL, true)")
        rows = one.execute("SELECT outcome, details #>> '{error,sqlstate}' FROM onagui.fix_user_ids(NULL, true)").fetchall()
        one.execute("COMMIT")
        error = rows
    except Exception as caught:
        error = caught
        one.execute("ROLLBACK")
    assert db.one("SELECT count(*) FROM orders o LEFT JOIN onagui.app_users u ON u.id = o.user_id WHERE u.id IS NULL") == 0, error


@pytest.mark.parametrize("mine", [False, True], ids=["as it was", "moved too"])
def test_a_row_that_had_referred_to_nobody_does_not_go_along(db, mine):
    """A NOT VALID key let it in; since the merge it refers to a row that moved, as one that came since would."""
    db.sql(
        """CREATE TABLE teams (n int, user_id uuid REFERENCES onagui.app_users, PRIMARY KEY (n, user_id));
           CREATE TABLE notes (id int PRIMARY KEY, n int, who uuid, mine uuid REFERENCES onagui.app_users)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO notes VALUES (1, 2, %s, %s)", [auth, app if mine else None])
    db.sql("ALTER TABLE notes ADD FOREIGN KEY (n, who) REFERENCES teams ON UPDATE CASCADE NOT VALID")
    db.sql(f"INSERT INTO teams VALUES (2, '{app}')")
    before = content(db, "teams", "notes")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    after = content(db, "teams", "notes")
    refused(db, audit_id, "1 row refers from public.notes by notes_n_who_fkey, which is NOT VALID")
    assert content(db, "teams", "notes") == after
    # As it would have been with the key in force.
    db.sql("UPDATE notes SET n = NULL" if not mine else "ALTER TABLE notes DROP CONSTRAINT notes_n_who_fkey")
    undo(db, audit_id)
    assert content(db, "teams") == {"teams": before["teams"]}
    assert mine is False or content(db, "notes") == {"notes": before["notes"]}


@pytest.mark.parametrize("acts", ["ON UPDATE CASCADE", "ON UPDATE SET NULL", "ON DELETE CASCADE", ""])
def test_no_key_that_acts_draws_rows_along(db, acts):
    """A username that the auth user took over goes back: whoever refers to it since must not be changed, or deleted, by that."""
    db.sql("DROP TABLE orders; DROP TABLE onagui.app_users")
    db.sql("CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text UNIQUE)")
    db.sql(f"CREATE TABLE posts (id int PRIMARY KEY, author text REFERENCES onagui.app_users (username) {acts})")
    app_user(db, "ann@example.com", auth_user(db, "ann@example.com"))
    app_user(db, "Ann@example.com", username="ann")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("INSERT INTO posts VALUES (2, 'ann')")
    steps = 0
    try:
        for _ in range(4):
            answer = undo(db, audit_id)
            audit_id = int(answer.rsplit(" ", 1)[1])
            steps += 1
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        assert "1 row refers from public.posts by posts_author_fkey" in error.diag.message_detail
    assert db.sql("SELECT id, author FROM posts") == [(2, "ann")]
    assert steps == 4 or acts


def trigger(db, table, when, body):
    db.sql(f"CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$")
    db.sql(f"CREATE TRIGGER interfere {when} ON {table} FOR EACH ROW EXECUTE FUNCTION interfere()")


@pytest.mark.parametrize(
    "when, body",
    [
        ("BEFORE UPDATE", "NEW.user_id = OLD.user_id; RETURN NEW;"),
        ("AFTER UPDATE", "DELETE FROM public.orders WHERE id = NEW.id; RETURN NULL;"),
        ("AFTER UPDATE", "UPDATE public.orders SET user_id = OLD.user_id WHERE id = NEW.id AND user_id <> OLD.user_id; RETURN NULL;"),
    ],
)
def test_a_trigger_that_keeps_rows_from_moving_back(db, when, body):
    app, auth, audit_id = merged(db)
    trigger(db, "orders", when, f"IF pg_trigger_depth() > 1 THEN RETURN NEW; END IF; {body}")
    with expect_error("55000", detail="held at least one of them back"):
        undo(db, audit_id)
    assert db.one("SELECT count(*) FROM orders WHERE user_id = %s", [auth]) == 2


@pytest.mark.parametrize("value", ["OLD.email", "lower(NEW.email)"])
def test_a_trigger_that_makes_another_email_of_what_comes_back(db, value):
    app_user(db, "Old@example.com", auth_user(db, "new@example.com"))
    audit_id = fix_one(db, "new@example.com")["audit_id"]
    trigger(db, "onagui.app_users", "BEFORE UPDATE", f"NEW.email = {value}; RETURN NEW;")
    with expect_error("55000", detail="held at least one of them back"):
        undo(db, audit_id)


def test_a_trigger_that_keeps_the_email(db):
    """Nothing that was not done is called done. One that changes nothing but case is no obstacle."""
    app_user(db, "old@example.com", auth_user(db, "New@example.com"))
    trigger(db, "onagui.app_users", "BEFORE UPDATE", "NEW.email = OLD.email; RETURN NEW;")
    assert fix_one(db, "New@example.com")["outcome"] == "failed"
    db.sql("CREATE OR REPLACE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.email = lower(NEW.email); RETURN NEW; END$$")
    assert fix_one(db, "New@example.com")["outcome"] == "done"


def test_rows_without_a_key_that_differ_in_a_new_column(db):
    """Which of them moved cannot be told."""
    db.sql("CREATE TABLE visits (user_id uuid REFERENCES onagui.app_users, day int)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO visits VALUES (%s, 1)", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("ALTER TABLE visits ADD COLUMN note text")
    db.sql("UPDATE visits SET note = 'moved'")
    db.sql("INSERT INTO visits VALUES (%s, 1, 'came since')", [auth])
    with expect_error("55000", detail="a row of public.visits cannot be told from others"):
        undo(db, audit_id)
    db.sql("DELETE FROM visits WHERE note = 'came since'")
    undo(db, audit_id)
    assert db.sql("SELECT user_id FROM visits") == [(app,)]


@pytest.mark.parametrize("change", ["RENAME COLUMN id TO file_id", "DROP CONSTRAINT files_pkey", "DROP CONSTRAINT files_pkey, ADD n serial PRIMARY KEY"])
def test_rows_that_had_the_id_before_and_have_another_key(db, change):
    db.sql("CREATE TABLE files (id int PRIMARY KEY, owner uuid, name text)")
    db.sql("SELECT onagui.register_reference('files', 'owner')")
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO files VALUES (1, %s, 'a'), (2, %s, 'b')", [auth, app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql(f"ALTER TABLE files {change}")
    try:
        undo(db, audit_id)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        assert "RENAME" in change
        return
    assert db.sql("SELECT name, owner FROM files ORDER BY name") == [("a", auth), ("b", app)]


def test_undoing_an_undo_leaves_nothing_behind(db):
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    undo(db, fix_one(db, "ann@example.com")["audit_id"])
    db.sql("ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey")
    refused(db, log(db)[-1]["audit_id"], "which does not refer to users any more")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE seats ALTER COLUMN note TYPE int USING 7",
        "CREATE RULE none AS ON INSERT TO seats DO INSTEAD NOTHING",
    ],
)
def test_a_table_that_is_not_what_it_was(db, change):
    db.sql("CREATE TABLE seats (user_id uuid UNIQUE REFERENCES onagui.app_users, note text)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (%s, 'app'), (%s, 'auth')", [app, auth])
    audit_id = db.one("SELECT audit_id FROM onagui.fix_user_ids(NULL, true, 'keep_auth') WHERE action = 'merge'")
    db.sql(change)
    with expect_error("55000"):
        undo(db, audit_id)


@pytest.mark.parametrize("then", ["", "CREATE VIEW seats AS SELECT * FROM chairs", "CREATE TABLE seats (LIKE chairs INCLUDING ALL)"])
def test_a_table_that_has_another_name(db, then):
    """What gave way comes back to the table it was in, whatever has its name by now."""
    db.sql("CREATE TABLE seats (user_id uuid UNIQUE REFERENCES onagui.app_users, note text)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (%s, 'app'), (%s, 'auth')", [app, auth])
    before = content(db, "onagui.app_users", "seats")
    audit_id = fix_one(db, "ann@example.com", policy="keep_auth")["audit_id"]
    db.sql(f"ALTER TABLE seats RENAME TO chairs; {then}")
    undo(db, audit_id)
    if "TABLE" in then:
        assert db.one("SELECT count(*) FROM seats") == 0
    assert content(db, "onagui.app_users", "chairs")["chairs"] == before["seats"]


@pytest.mark.parametrize("kept", ["", "DELETE FROM seats_old;"])
def test_a_table_that_was_copied(db, kept):
    """As to partition it. Which of the two is the application's now, nobody can tell but people."""
    db.sql("CREATE TABLE seats (user_id uuid UNIQUE REFERENCES onagui.app_users, note text)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (%s, 'app'), (%s, 'auth')", [app, auth])
    before = content(db, "onagui.app_users", "seats")
    audit_id = fix_one(db, "ann@example.com", policy="keep_auth")["audit_id"]
    db.sql(
        f"""ALTER TABLE seats RENAME TO seats_old;
            CREATE TABLE seats (LIKE seats_old INCLUDING ALL, FOREIGN KEY (user_id) REFERENCES onagui.app_users);
            INSERT INTO seats SELECT * FROM seats_old; {kept}"""
    )
    refused(db, audit_id, "public.seats_old")
    db.sql("DROP TABLE seats_old")
    undo(db, audit_id)
    assert content(db, "onagui.app_users", "seats") == before


@pytest.mark.parametrize("how", ["email", "create", "merge", "link"])
def test_app_users_that_was_copied(db, how):
    """The users' table is whatever has its name."""
    db.sql("DROP TABLE orders")
    if how == "create":
        auth_user(db, "ann@example.com")
    elif how == "email":
        id = new_id()
        app_user(db, "old@example.com", id=id)
        auth_user(db, "ann@example.com", id=id)
    elif how == "merge":
        duplicate(db, "ann@example.com")
    else:
        app_user(db, "ann@example.com")
    before = content(db, "onagui.app_users")
    if how == "link":
        db.auth.signup("ann@example.com", {"full_name": "Ann"})
        audit_id = db.one("SELECT audit_id FROM onagui.sync_audit_log WHERE action = 'link'")
    else:
        audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql(
        """ALTER TABLE onagui.app_users RENAME TO app_users_old;
           CREATE TABLE onagui.app_users (LIKE onagui.app_users_old INCLUDING ALL);
           INSERT INTO onagui.app_users SELECT * FROM onagui.app_users_old""",
        role=ADMIN,
    )
    old = content(db, "onagui.app_users_old")
    undo(db, audit_id)
    assert content(db, "onagui.app_users") == before
    assert content(db, "onagui.app_users_old") == old


def test_a_table_that_has_another_number(db):
    """As after a dump, where the number may be that of any other table."""
    db.sql("CREATE TABLE other (note text); CREATE TABLE seats (user_id uuid UNIQUE REFERENCES onagui.app_users, note text)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (%s, 'app'), (%s, 'auth')", [app, auth])
    before = content(db, "onagui.app_users", "seats")
    audit_id = fix_one(db, "ann@example.com", policy="keep_auth")["audit_id"]
    number, other = (f'"oid": {db.one("SELECT %s::regclass::oid", [name])}' for name in ("seats", "other"))
    db.sql("UPDATE onagui.sync_audit_log SET details = replace(details::text, %s, %s)::jsonb", [number, other], role=ADMIN)
    assert db.one("SELECT count(*) FROM onagui.sync_audit_log WHERE details::text LIKE %s", [f"%{other}%"], role=ADMIN) == 1
    undo(db, audit_id)
    assert content(db, "onagui.app_users", "seats") == before


def test_which_entry_to_undo(db):
    app, auth = mismatched(db, "ann@example.com")
    first = fix_one(db, "ann@example.com")["audit_id"]
    second = int(undo(db, first).rsplit(" ", 1)[1])
    with expect_error("55000", detail=f"undone by audit_id {second}.$", hint=rf"To do it again, undo the undo: SELECT onagui.undo_fix\({second}\)"):
        undo(db, first)
    third = int(undo(db, second).rsplit(" ", 1)[1])
    with expect_error("55000", detail=f"undone by audit_id {second}, that by audit_id {third}.$", hint=rf"in force. To undo it: SELECT onagui.undo_fix\({third}\)"):
        undo(db, first)


@pytest.mark.parametrize(
    "change", ["RENAME COLUMN owner TO holder", "RENAME TO papers", "SET SCHEMA auth_shadow", None]
)
@pytest.mark.parametrize("kind", ["uuid", "text"])
def test_a_registered_reference_that_was_renamed_since(db, change, kind):
    """Its rows would be left behind. Registered anew they are moved back."""
    db.sql("CREATE SCHEMA auth_shadow")
    db.sql(f"CREATE TABLE files (owner {kind})")
    db.sql("SELECT onagui.register_reference('files', 'owner')")
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO files VALUES (%s)", [str(app)])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    if change is None:
        db.sql("DROP TABLE files")
        undo(db, audit_id)
        return
    db.sql(f"ALTER TABLE files {change}")
    refused(db, audit_id, f"rows of .* hold {auth} in (owner|holder), which does not refer to users any more")
    [(name, column)] = db.sql(
        "SELECT c.oid::regclass::text, a.attname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1 WHERE c.relname IN ('files', 'papers')"
    )
    db.sql("SELECT onagui.register_reference(%s, %s)", [name, column])
    undo(db, audit_id)
    assert db.sql(f"SELECT {column}::text FROM {name}") == [(str(app),)]


def test_a_schema_that_is_not_open_to_everybody(db):
    db.sql("CREATE SCHEMA closed")
    db.sql("CREATE TABLE closed.seats (id int PRIMARY KEY, user_id uuid UNIQUE REFERENCES onagui.app_users)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO closed.seats VALUES (1, %s), (2, %s)", [app, auth])
    before = content(db, "closed.seats", "onagui.app_users")
    undo(db, db.one("SELECT audit_id FROM onagui.fix_user_ids(NULL, true, 'keep_auth') WHERE action = 'merge'"))
    assert content(db, "closed.seats", "onagui.app_users") == before


LOOK_UP = """
    CREATE TABLE accounts (user_id uuid REFERENCES onagui.app_users, no int, owner_name text, PRIMARY KEY (user_id, no));
    CREATE TABLE entries (id int PRIMARY KEY, user_id uuid, no int, owner_name text, FOREIGN KEY (user_id, no) REFERENCES accounts);
    CREATE TABLE posts (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, owner_name text);
    CREATE FUNCTION look_up() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
        EXECUTE pg_catalog.format('SELECT %s FROM %s WHERE %s', TG_ARGV[0], TG_ARGV[1], TG_ARGV[2]) INTO NEW.owner_name USING NEW;
        IF NEW.owner_name IS NULL AND TG_ARGV[3] = 'raise' THEN RAISE 'whose is it?'; END IF;
        RETURN NEW; END$$;
    CREATE TRIGGER look_up BEFORE INSERT OR UPDATE ON accounts FOR EACH ROW
        EXECUTE FUNCTION look_up('username', 'onagui.app_users', 'id = $1.user_id', '{0}');
    CREATE TRIGGER look_up BEFORE INSERT OR UPDATE ON posts FOR EACH ROW
        EXECUTE FUNCTION look_up('username', 'onagui.app_users', 'id = $1.user_id', '{0}');
    CREATE TRIGGER look_up BEFORE INSERT OR UPDATE ON entries FOR EACH ROW
        EXECUTE FUNCTION look_up('owner_name', 'public.accounts', '(user_id, no) = ($1.user_id, $1.no)', '{0}')"""


@pytest.mark.parametrize("otherwise", ["null", "raise"])
@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
def test_a_before_trigger_finds_what_the_row_refers_to(db, policy, otherwise):
    db.sql(LOOK_UP.format(otherwise))
    app, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET username = CASE id WHEN %s THEN 'own' ELSE 'spare' END", [auth])
    for n, id in enumerate([app, auth]):
        db.sql(f"INSERT INTO accounts VALUES ('{id}', 1); INSERT INTO entries VALUES ({n}, '{id}', 1); INSERT INTO posts VALUES ({n}, '{id}')")
    tables = ["onagui.app_users", "accounts", "entries", "posts"]
    before = content(db, *tables)
    audit_id = fix_one(db, "ann@example.com", policy=policy)["audit_id"]
    after = content(db, *tables)
    assert db.sql("SELECT DISTINCT owner_name FROM posts") == [("own",)]
    for wanted in before, after, before:
        undo(db, audit_id)
        assert content(db, *tables) == wanted
        audit_id = log(db, action="undo")[-1]["audit_id"]


@pytest.mark.parametrize("called", [True, False])
def test_a_log_whose_numbers_lag_behind(db, called):
    """Restored table by table, or replicated: entries come without their sequence."""
    for email in "ann@example.com", "bob@example.com":
        mismatched(db, email)
    first = fix_one(db, "ann@example.com")["audit_id"]
    app_user(db, "eve@example.com")
    db.sql("SELECT setval('onagui.sync_audit_log_audit_id_seq', 1, %s)", [called], role=ADMIN)
    second = fix_one(db, "bob@example.com")["audit_id"]
    assert second == first + 1
    db.sql("SELECT setval('onagui.sync_audit_log_audit_id_seq', 1, %s)", [called], role=ADMIN)
    db.auth.signup("eve@example.com")
    assert [entry["action"] for entry in log(db)][-2:] == ["pending", "link"]
    undo(db, first)
    assert db.one("SELECT undone_by FROM onagui.sync_audit_log WHERE audit_id = %s", [first]) == second + 3


def test_nobody_holds_up_a_log_that_catches_up(db):
    """Advisory locks are for everybody to take."""
    mismatched(db, "ann@example.com")
    first = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("SELECT setval('onagui.sync_audit_log_audit_id_seq', 1)", role=ADMIN)
    other = db.connect("supabase_auth_admin")
    other.execute("SELECT pg_advisory_lock(oid::bigint) FROM pg_class WHERE relname = 'sync_audit_log_audit_id_seq'")
    mismatched(db, "bob@example.com")
    db.sql("SET lock_timeout = '2s'")
    assert fix_one(db, "bob@example.com")["audit_id"] == first + 1


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_a_foreign_key_that_did_not_hold_before(db, make):
    """Nothing has changed since, and the way out is told."""
    db.sql("GRANT REFERENCES ON auth.users TO postgres", role=ADMIN)
    make(db, "ann@example.com")
    key = "ALTER TABLE onagui.app_users ADD CONSTRAINT of_auth FOREIGN KEY (id) REFERENCES auth.users (id) ON DELETE CASCADE NOT VALID"
    db.sql(key)
    before = content(db, "onagui.app_users")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    with expect_error("55000", "cannot be undone as things are now", detail="of_auth", hint="must be dropped first; it can be added again NOT VALID"):
        undo(db, audit_id)
    db.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT of_auth")
    undo(db, audit_id)
    db.sql(key)
    assert content(db, "onagui.app_users") == before


def test_a_table_that_was_published_since(db):
    app, _ = mismatched(db, "ann@example.com")
    db.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users)")
    db.sql("INSERT INTO public.notes VALUES (%s)", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("CREATE PUBLICATION p FOR TABLE public.notes", role=ADMIN)
    with expect_error("55000", "cannot be undone", detail=f'audit_id {audit_id}: cannot update table "notes" because.+REPLICA IDENTITY'):
        undo(db, audit_id)


@pytest.mark.parametrize("then", ["another's row", "a new row", "a new row after a deletion"])
def test_a_rekey_whose_id_has_passed_to_another_row(db, then):
    """Who has the id now is not who was given it: their row must not get the old id."""
    app, auth = mismatched(db, "ann@example.com")
    first = fix_one(db, "ann@example.com")["audit_id"]
    later = []
    if then == "a new row after a deletion":
        db.sql("DELETE FROM onagui.app_users WHERE id = %s", [auth])
    else:
        carl = auth_user(db, "carl@example.com")
        later += db.rows("SELECT * FROM onagui.fix_user_id(%s, %s, true)", [auth, carl])
        later += [row for row in fix(db, ["carl@example.com"]) if row["outcome"] == "done"]
    if then == "another's row":
        dora = app_user(db, "dora@example.com")
        later += db.rows("SELECT * FROM onagui.fix_user_id(%s, %s, true)", [dora, auth])
    else:
        later.append(fix_one(db, "ann@example.com"))
    db.sql("INSERT INTO orders VALUES (1, %s, 'new')", [auth])
    refused(db, first, f"another app user has the id {auth} now, by audit_id {later[-1]['audit_id']}")
    if then == "a new row after a deletion":
        return
    db.sql("DELETE FROM orders")
    for row in reversed(later):
        undo(db, row["audit_id"])
    undo(db, first)
    assert db.sql("SELECT id FROM onagui.app_users WHERE email = 'ann@example.com'") == [(app,)]


def test_an_undone_detour_is_no_obstacle(db):
    app, auth = mismatched(db, "ann@example.com")
    first = fix_one(db, "ann@example.com")["audit_id"]
    carl = auth_user(db, "carl@example.com")
    [detour] = db.rows("SELECT * FROM onagui.fix_user_id(%s, %s, true)", [auth, carl])
    for _ in range(3):  # the undo, the undo of that, and the undo of that
        undo(db, db.one("SELECT max(audit_id) FROM onagui.sync_audit_log", role=ADMIN))
    assert db.sql("SELECT id FROM onagui.app_users") == [(auth,)] and detour["audit_id"] < log(db)[-1]["audit_id"]
    undo(db, first)
    assert db.sql("SELECT id FROM onagui.app_users") == [(app,)]


@pytest.mark.parametrize("kind", ["uuid", "text"])
def test_a_creation_where_registered_rows_held_the_id_already(db, kind):
    auth = auth_user(db, "ann@example.com")
    db.sql(f"CREATE TABLE files (id int PRIMARY KEY, owner {kind}); SELECT onagui.register_reference('files', 'owner')")
    db.sql("INSERT INTO files VALUES (1, %s), (2, %s)", [str(auth), str(auth)])
    before = content(db, "onagui.app_users", "files")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    undo(db, audit_id)
    assert content(db, "onagui.app_users", "files") == before
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("INSERT INTO files VALUES (3, %s)", [str(auth)])
    refused(db, audit_id, "1 row refers from public.files")
    db.sql("DELETE FROM files WHERE id IN (1, 3)")
    undo(db, audit_id)
    assert db.sql("SELECT id FROM onagui.app_users") == []
    # Done again, and taken back again.
    for there in True, False:
        undo(db, log(db, action="undo")[-1]["audit_id"])
        assert (db.sql("SELECT id FROM onagui.app_users") == [(auth,)]) == there


@pytest.mark.parametrize("change", ["DELETE FROM files", "UPDATE files SET note = 'x'", "ALTER TABLE files ADD k int"])
def test_a_creation_where_rows_without_a_key_held_the_id(db, change):
    auth = auth_user(db, "ann@example.com")
    db.sql("CREATE TABLE files (owner text, note text); SELECT onagui.register_reference('files', 'owner')")
    db.sql("INSERT INTO files SELECT %s FROM generate_series(1, 3)", [str(auth).upper()])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql(change)
    undo(db, audit_id)
    assert db.sql("SELECT id FROM onagui.app_users") == []


def test_a_creation_waits_for_no_row_that_holds_the_id(db):
    auth = auth_user(db, "ann@example.com")
    db.sql("CREATE TABLE files (id int PRIMARY KEY, owner uuid); SELECT onagui.register_reference('files', 'owner')")
    db.sql("INSERT INTO files VALUES (1, %s)", [auth])
    other = db.connect()
    with other.transaction():
        other.execute("UPDATE files SET id = 2")
        session = db.connect()
        session.execute("SET lock_timeout = '300ms'")
        assert session.execute("SELECT outcome FROM onagui.fix_user_ids(p_apply => true)").fetchall() == [("done",)]


@pytest.mark.parametrize("whose", ["own", "another's"])
def test_what_a_person_has_written_is_no_triggers(db, whose):
    """A trigger writes into a column that people write into, too."""
    db.sql(
        """ALTER TABLE onagui.app_users ADD note text;
           CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN IF NEW.email IS DISTINCT FROM OLD.email THEN NEW.note = 'had ' || OLD.email; END IF; RETURN NEW; END $$;
           CREATE TRIGGER note BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION note()"""
    )
    ann, carl = auth_user(db, "ann@example.com"), auth_user(db, "carl@example.com")
    created = {row["email"]: row["audit_id"] for row in fix(db, None)}
    changed = ann if whose == "own" else carl
    session = db.session(ADMIN)
    with session.transaction():
        session.execute("SET LOCAL onagui_sync.enabled = off")
        session.execute("UPDATE auth.users SET email = 'new@example.com' WHERE id = %s", [changed])
    later = fix_one(db, "new@example.com")["audit_id"]
    if whose == "another's":
        db.sql("UPDATE onagui.app_users SET note = 'VIP' WHERE id = %s", [ann])
    undo(db, later)
    if whose == "own":
        db.sql("UPDATE onagui.app_users SET note = 'VIP' WHERE id = %s", [ann])
    refused(db, created["ann@example.com"], "has changed")
    if whose == "another's":
        undo(db, created["carl@example.com"])


@pytest.mark.parametrize("then", ["email", "merge", "a person"])
def test_a_creation_after_a_later_fix_was_undone(db, then):
    """A trigger dates each change: that is no obstacle, what a person has changed is."""
    db.sql(
        """CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END';
           CREATE TRIGGER touch BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION touch()"""
    )
    auth = auth_user(db, "ann@example.com", raw_user_meta_data=None)
    created = fix_one(db, "ann@example.com")["audit_id"]
    if then != "merge":
        with db.session(ADMIN).transaction():
            db.session(ADMIN).execute("SET LOCAL onagui_sync.enabled = off")
            db.session(ADMIN).execute("UPDATE auth.users SET email = 'anna@example.com'")
        later = fix_one(db, "anna@example.com")["audit_id"]
    else:
        db.sql("DROP INDEX onagui.app_users_email_key")
        app_user(db, "Ann@example.com", full_name="Ann Example")
        later = fix_one(db, "ann@example.com")["audit_id"]
    undo(db, later)
    if then == "a person":
        db.sql("UPDATE onagui.app_users SET full_name = 'Ann' WHERE id = %s", [auth])
        return refused(db, created, "has changed")
    undo(db, created)
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [auth]) == 0


def test_the_hint_names_entries_that_can_be_undone(db):
    """That the e-mail has followed auth.users is in the log, but not for undo_fix() to take back."""
    app_user(db, "Ann@Example.com")
    auth = db.auth.signup("ann@example.com")
    link = log(db, action="link")[0]["audit_id"]
    db.auth.change_email(auth, "anna@example.org")
    with pytest.raises(psycopg.Error) as refusal:
        undo(db, link)
    hint = refusal.value.diag.message_hint
    [query] = re.findall(r"\((SELECT .*?;)\)", hint)
    assert db.sql(query) == [] and "followed auth.users" in hint
