"""What is written is what was meant, to the last character, and can be taken back: narrow columns, triggers that go on, decisions."""

import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, fix_one, log, mismatched, undo
from support import expect_error


@pytest.fixture
def db(db):
    return db.install()


def table(db, columns):
    """app_users of the application's own making."""
    db.sql(f"DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users ({columns})")


@pytest.mark.parametrize("kind", ["varchar(20)", "public.short"])
def test_an_email_is_not_cut(db, kind):
    db.sql("CREATE DOMAIN public.short AS varchar(20)")
    table(db, f"id uuid PRIMARY KEY, email {kind}")
    app_user(db, "old@e.com", auth_user(db, "a.very.long.address@example.com"))
    for apply in False, True:
        row = fix_one(db, None, apply)
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) in (("refused", "22001"), ("failed", "22001")), row
        assert row["details"]["error"]["hint"]
    assert db.one("SELECT email FROM onagui.app_users") == "old@e.com"


@pytest.mark.parametrize(
    "kind, there, staying, leaving, stranger",
    [("varchar(5)", "text", "annie-the-first", "ann", "annie"), ("numeric(6,1)", "numeric", "2.04", "1.0", "2.0")],
)
def test_a_row_does_not_come_to_refer_to_a_stranger(db, kind, there, staying, leaving, stranger):
    """The key that the child takes over does not fit into its column; cut or rounded it is somebody else's."""
    table(db, f"id uuid PRIMARY KEY, email text, username {there} UNIQUE")
    db.sql(f"CREATE TABLE notes (name {kind} REFERENCES onagui.app_users (username))")
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth, username=staying)
    app_user(db, "Ann@example.com", username=leaving)
    app_user(db, "third@example.com", username=stranger)
    db.sql(f"INSERT INTO notes VALUES ('{leaving}')")
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply)
        assert (row["action"], row["outcome"], row["details"]["error"]["sqlstate"]) == ("merge", "refused", "22001"), row
    assert db.one("SELECT name::text FROM notes") == leaving


def test_a_number_of_another_scale_fits(db):
    table(db, "id uuid PRIMARY KEY, email text, number numeric UNIQUE")
    db.sql("CREATE TABLE notes (number numeric(6,1) REFERENCES onagui.app_users (number))")
    auth = auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com", auth, number="2.00")
    app_user(db, "Ann@example.com", number="1.0")
    db.sql("INSERT INTO notes VALUES (1.0)")
    assert fix_one(db, "ann@example.com")["outcome"] == "done"
    assert db.one("SELECT number::text FROM notes") == "2.0"


DEFERRED = """
    CREATE TABLE kinds (kind text PRIMARY KEY); INSERT INTO kinds VALUES ('UPDATE');
    CREATE TABLE history (what text REFERENCES kinds DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.history VALUES (tg_op); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION note()"""


def test_a_trigger_that_writes_where_a_constraint_is_deferred(db):
    db.sql(DEFERRED)
    mismatched(db, "ann@example.com")
    app_user(db, "old@example.com", auth_user(db, "new@example.com"))
    audit_ids = [row["audit_id"] for row in fix(db, None) if row["outcome"] == "done"]
    assert len(audit_ids) == 2
    for audit_id in audit_ids:
        undo(db, audit_id)
    assert db.one("SELECT count(*) FROM history") == 4
    app, auth = mismatched(db, "bob@example.com", confirmed=False)
    db.sql("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [auth], role="supabase_auth_admin")
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [auth]) == 1


def test_a_trigger_that_goes_on_changing_a_row(db):
    """It is recorded as the trigger has left it, so that taking it back finds it unchanged."""
    db.sql(
        """CREATE TABLE posts (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, touched int DEFAULT 0);
           CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN UPDATE public.posts SET touched = touched + 1 WHERE id = new.id; RETURN NULL; END $$;
           CREATE TRIGGER touch AFTER UPDATE OF user_id ON posts FOR EACH ROW EXECUTE FUNCTION touch()"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO posts VALUES (1, %s)", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    assert db.sql("SELECT user_id, touched FROM posts") == [(auth, 1)]
    undo(db, audit_id)
    assert db.sql("SELECT user_id, touched FROM posts") == [(app, 2)]
    db.sql("UPDATE posts SET touched = 0")
    with expect_error("55000", detail="posts"):
        undo(db, log(db, action="undo")[-1]["audit_id"])


@pytest.mark.parametrize("when", ["INSERT", "INSERT OR UPDATE"])
def test_a_trigger_that_changes_what_is_put_back(db, when):
    """What it makes of a new row is set right; what it makes of every change cannot be."""
    table(db, "id uuid PRIMARY KEY, email text, slug text")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET slug = 'mine'")
    before = content(db, "onagui.app_users")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    merged = content(db, "onagui.app_users")
    db.sql(
        f"""CREATE FUNCTION slug() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN UPDATE onagui.app_users SET slug = 'auto' WHERE id = new.id AND slug <> 'auto'; RETURN NULL; END $$;
            CREATE TRIGGER slug AFTER {when} ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION slug()"""
    )
    if when == "INSERT":
        undo(db, audit_id)
        assert content(db, "onagui.app_users") == before
        return
    with expect_error("55000", detail="come back to onagui.app_users as something else: a trigger"):
        undo(db, audit_id)
    assert content(db, "onagui.app_users") == merged


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("deleted", [False, True])
def test_a_decision_about_an_auth_users_row_can_be_taken_back(db, merge, deleted):
    """The row had another auth user's id before, who may have been deleted since."""
    db.sql("DROP INDEX onagui.app_users_email_key; CREATE TABLE posts (user_id uuid REFERENCES onagui.app_users)")
    other = auth_user(db, "ann@example.com" if deleted else "other@example.com")
    app_user(db, "ann@example.com", other)
    if deleted:
        db.sql("UPDATE auth.users SET deleted_at = now(), email = 'gone' WHERE id = %s", [other], role="supabase_auth_admin")
    auth = auth_user(db, "ann@example.com")
    if merge:
        app_user(db, "ann@example.com", auth)
    db.sql("INSERT INTO posts VALUES (%s)", [other])
    before = content(db, "onagui.app_users", "posts")
    (row,) = db.rows("SELECT * FROM onagui.fix_user_id(%s, %s, true)", [other, auth])
    assert (row["action"], row["outcome"]) == ("merge" if merge else "rekey", "done")
    undo(db, row["audit_id"])
    assert content(db, "onagui.app_users", "posts") == before
    undo(db, log(db, action="undo")[-1]["audit_id"])
    assert db.sql("SELECT user_id FROM posts") == [(auth,)]


@pytest.mark.parametrize("same_email", [True, False], ids=["rekey", "merge"])
def test_a_decision_is_undone_and_done_again_any_number_of_times(db, same_email):
    """The id that was left is an auth user's all the time."""
    other, auth = auth_user(db, "bob@example.com"), auth_user(db, "ann@example.com")
    app_user(db, "ann@example.com" if same_email else "bob@example.com", other)
    if not same_email:
        app_user(db, "ann@example.com", auth)
    there = content(db, "onagui.app_users")
    (row,) = db.rows("SELECT * FROM onagui.fix_user_id(%s, %s, true)", [other, auth])
    assert row["outcome"] == "done" and row["action"] == ("rekey" if same_email else "merge")
    fixed, audit_id = content(db, "onagui.app_users"), row["audit_id"]
    for wanted in [there, fixed] * 3:
        undo(db, audit_id)
        assert content(db, "onagui.app_users") == wanted
        audit_id = log(db, audit_id=audit_id)[0]["undone_by"]


@pytest.mark.parametrize("end", ["ALTER TABLE posts DROP CONSTRAINT posts_user_id_fkey", "SELECT onagui.unregister_reference('files', 'owner')"])
def test_rows_that_would_stay_behind(db, end):
    db.sql(
        """CREATE TABLE posts (user_id uuid REFERENCES onagui.app_users); CREATE TABLE files (owner text);
           SELECT onagui.register_reference('files', 'owner')"""
    )
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO posts VALUES ('{app}'); INSERT INTO files VALUES ('{str(app).upper()}')")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql(end)
    with expect_error("55000", detail="does not refer to users any more"):
        undo(db, audit_id)
    db.sql("DELETE FROM posts; DELETE FROM files")
    undo(db, audit_id)
    assert db.one("SELECT id FROM onagui.app_users") == app


def test_what_is_registered_is_named_as_sql_names_it(db):
    db.sql('CREATE TABLE "F s" ("J k" uuid)')
    for call, says in [
        ("register_reference", "is registered; fixes move it along"),
        ("register_reference", "was registered already"),
        ("unregister_reference", "is not registered any more; fixes leave it alone"),
        ("unregister_reference", "was not registered"),
    ]:
        assert db.one(f"""SELECT onagui.{call}('"F s"', 'J k')""") == f'OK: public."F s"."J k" {says}'


def test_what_cannot_be_registered(db):
    db.sql("CREATE TABLE files (meta jsonb, owner text GENERATED ALWAYS AS (meta ->> 'owner') STORED)")
    with expect_error("22023", detail="generated"):
        db.sql("SELECT onagui.register_reference('files', 'owner')")
    with expect_error("42703"):
        db.sql("SELECT onagui.register_reference('files', 'nobody')")
    session = db.session()
    session.execute("CREATE TEMP TABLE scratch (owner uuid)")
    with expect_error("22023", detail="temporary"):
        session.execute("SELECT onagui.register_reference('scratch', 'owner')")


def test_a_primary_key_whose_type_has_its_operators_elsewhere(db):
    db.require("ltree")
    db.sql("CREATE SCHEMA kinds; ALTER EXTENSION ltree SET SCHEMA kinds; GRANT USAGE ON SCHEMA kinds TO PUBLIC", role=ADMIN)
    db.sql("CREATE TABLE trees (path kinds.ltree PRIMARY KEY, user_id uuid REFERENCES onagui.app_users)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO trees VALUES ('a.b', %s)", [app])
    before = content(db, "trees", "onagui.app_users")
    undo(db, fix_one(db, "ann@example.com")["audit_id"])
    assert content(db, "trees", "onagui.app_users") == before


@pytest.mark.parametrize(
    "column",
    ["text NOT NULL UNIQUE CHECK (email LIKE '%@%')", "text UNIQUE CHECK (email IS NOT NULL)", "text NOT NULL CHECK (email LIKE 'u%')", "varchar(64) UNIQUE"],
)
def test_emails_are_exchanged_in_spite_of_checks(db, column):
    table(db, f"id uuid PRIMARY KEY, email {column}")
    ids = [auth_user(db, f"u{i}@example.com") for i in range(2)]
    for i, id in enumerate(ids):
        app_user(db, f"u{1 - i}@example.com", id)
    before = content(db, "onagui.app_users")
    rows = fix(db, None)
    assert [row["outcome"] for row in rows] == ["done"] * 2, rows
    undo(db, rows[0]["audit_id"])
    assert content(db, "onagui.app_users") == before


def test_an_entry_of_long_ago(db):
    with expect_error("22023", detail="100000 years"):
        db.sql("SELECT onagui.prune_audit('100000 years')")
    assert db.one("SELECT onagui.prune_audit('4000 years')") == 0


def test_a_column_that_came_since(db):
    """A row that comes back has its default there. One whose column is gone cannot come back whole."""
    app, auth = duplicate(db, "ann@example.com")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("ALTER TABLE onagui.app_users ADD plan text NOT NULL DEFAULT 'free', ALTER full_name SET DEFAULT 'nobody'")
    undo(db, audit_id)
    assert db.sql("SELECT id, plan, full_name FROM onagui.app_users WHERE id = %s", [app]) == [(app, "free", None)]
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("ALTER TABLE onagui.app_users DROP plan")
    with expect_error("55000", detail="lost the column plan"):
        undo(db, audit_id)


def test_after_triggers_see_the_settings_of_the_caller(db):
    """In merges, e-mail changes and their undos."""
    db.sql("CREATE TABLE seen (zone text, style text)")
    db.sql("GRANT INSERT ON seen TO PUBLIC")
    db.sql(
        """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS
           $$BEGIN INSERT INTO seen VALUES (current_setting('TimeZone'), current_setting('DateStyle')); RETURN NULL; END$$"""
    )
    db.sql("CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION note()")
    duplicate(db, "ann@example.com")
    app_user(db, "old@example.com", auth_user(db, "new@example.com"))
    db.sql("TRUNCATE seen")
    db.sql("SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German, DMY'")
    for row in fix(db, None):
        undo(db, row["audit_id"])
    assert set(db.sql("SELECT zone, style FROM seen")) == {("Asia/Kathmandu", "German, DMY")}
    assert db.one("SELECT count(*) FROM seen") >= 4


def test_columns_that_came_since_do_not_stand_in_the_way(db):
    """Of rows that moved, of an e-mail, of a row that was made; whatever has been written there since."""
    db.sql("CREATE TABLE orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users)")
    db.sql("CREATE TABLE visits (user_id uuid REFERENCES onagui.app_users)")  # no key: found again by its content
    app, _ = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    db.sql("INSERT INTO visits VALUES (%s)", [app])
    mail = auth_user(db, "new@example.com")
    app_user(db, "old@example.com", mail)
    made = auth_user(db, "bob@example.com")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [made])
    before = content(db, "orders", "visits", "onagui.app_users")
    audit_ids = [row["audit_id"] for row in fix(db, None)]
    assert len(audit_ids) == 3
    for table in ("orders", "visits", "onagui.app_users"):
        db.sql(f"ALTER TABLE {table} ADD came text, ADD plan text NOT NULL DEFAULT 'free'")
    db.sql("UPDATE orders SET came = 'x'; UPDATE visits SET came = 'x'")
    db.sql("UPDATE onagui.app_users SET came = 'x' WHERE id <> %s", [made])
    for audit_id in audit_ids:
        undo(db, audit_id)
    assert db.sql("SELECT came, plan FROM orders UNION ALL SELECT came, plan FROM visits") == [("x", "free")] * 2
    for table in ("orders", "visits", "onagui.app_users"):
        db.sql(f"ALTER TABLE {table} DROP came, DROP plan")
    assert content(db, "orders", "visits", "onagui.app_users") == before


@pytest.mark.parametrize("column", ["code", "code_of_code", "code DEFAULT 'y'", "code_without", "number DEFAULT 7"])
def test_a_new_column_holds_the_default_of_its_domain(db, column):
    made = auth_user(db, "bob@example.com")
    audit_id = fix_one(db, "bob@example.com")["audit_id"]
    db.sql(
        """CREATE DOMAIN code AS text DEFAULT 'x'; CREATE DOMAIN code_of_code AS code;
           CREATE DOMAIN code_without AS code; ALTER DOMAIN code_without DROP DEFAULT;
           CREATE DOMAIN number AS int DEFAULT random()"""
    )
    db.sql(f"ALTER TABLE onagui.app_users ADD came {column}")
    undo(db, audit_id)
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [made]) == 0


def test_what_a_new_column_holds_is_not_deleted(db):
    made = auth_user(db, "bob@example.com")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [made])
    audit_id = fix_one(db, "bob@example.com")["audit_id"]
    db.sql("ALTER TABLE onagui.app_users ADD plan text NOT NULL DEFAULT 'free'")
    db.sql("UPDATE onagui.app_users SET plan = 'paid'")
    with expect_error("55000", detail="a row of onagui.app_users .* has changed"):
        undo(db, audit_id)


def test_a_lost_column_is_named(db):
    """Whether the rest of a row is as it was left cannot be told without it."""
    db.sql("CREATE TABLE orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, note text)")
    app, _ = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    db.sql("ALTER TABLE orders DROP note")
    with expect_error("55000", detail="public.orders has lost the column note"):
        undo(db, audit_id)


def test_an_entry_of_version_0_1_0_names_no_columns(db):
    db.sql("CREATE TABLE orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users)")
    app, _ = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    before = content(db, "orders", "onagui.app_users")
    audit_id = fix_one(db, "ann@example.com")["audit_id"]
    names = "SELECT count(*) FROM jsonb_path_query((SELECT details FROM onagui.sync_audit_log WHERE audit_id = %s), '$.undo[*].changes[*].columns')"
    assert db.one(names, [audit_id], role=ADMIN) > 0
    without = """
        UPDATE onagui.sync_audit_log SET details = jsonb_set(details, '{undo}', (
            SELECT jsonb_agg(jsonb_build_object('changes', (SELECT jsonb_agg(t - 'columns') FROM jsonb_array_elements(s -> 'changes') t)))
              FROM jsonb_array_elements(details -> 'undo') s))
         WHERE audit_id = %s"""
    db.sql(without, [audit_id], role=ADMIN)
    assert db.one(names, [audit_id], role=ADMIN) == 0
    undo(db, audit_id)
    assert content(db, "orders", "onagui.app_users") == before


def test_a_report_of_an_email_with_blanks_can_be_pasted(db):
    email = '"john ronald reuel tolkien and others"@example.com'
    auth_user(db, email)
    report = db.one("SELECT onagui.sync_report()")
    call = report[report.index("SELECT * FROM onagui.fix_user_ids") :].split(";")[0]
    assert [row["outcome"] for row in db.rows(call)] == ["done"], call


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
@pytest.mark.parametrize("columns", ["author uuid REFERENCES onagui.app_users", "author uuid REFERENCES onagui.app_users, editor uuid REFERENCES onagui.app_users"])
@pytest.mark.parametrize("users", [1, 6])
def test_a_trigger_that_makes_somebody_elses_of_what_moves(db, when, columns, users):
    """As one that sets the author from auth.uid(), which is NULL here."""
    author = "new.author = NULL; RETURN new" if when == "BEFORE" else "UPDATE public.posts SET author = NULL WHERE id = new.id; RETURN new"
    db.sql(
        f"""CREATE TABLE posts (id int PRIMARY KEY, {columns});
            CREATE FUNCTION set_author() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {author}; END $$"""
    )
    for i in range(users):
        app, _ = mismatched(db, f"u{i}@example.com")
        db.sql(f"INSERT INTO posts (id, author) VALUES ({i}, '{app}')")
    db.sql(f"CREATE TRIGGER set_author {when} UPDATE ON posts FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION set_author()")
    before = content(db, "posts", "onagui.app_users")
    rows = fix(db, None)
    assert [(row["action"], row["outcome"]) for row in rows] == [("rekey", "failed")] * users, rows
    assert content(db, "posts", "onagui.app_users") == before


def test_a_link_does_not_empty_what_a_trigger_sets(db):
    db.sql(
        """CREATE TABLE posts (id int PRIMARY KEY, author uuid REFERENCES onagui.app_users);
           CREATE FUNCTION set_author() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.author = auth.uid(); RETURN new; END $$"""
    )
    app, auth = app_user(db, "ann@example.com"), auth_user(db, "ann@example.com", confirmed=False)
    db.sql(f"INSERT INTO posts VALUES (1, '{app}')")
    db.sql("CREATE TRIGGER set_author BEFORE INSERT OR UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION set_author()")
    db.sql("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [auth], role="supabase_auth_admin")
    assert db.sql("SELECT author FROM posts") == [(app,)]
    assert [entry["action"] for entry in log(db)] == ["failure"]


def test_a_trigger_that_touches_other_columns_is_in_nobodys_way(db):
    db.sql(
        """CREATE TABLE posts (id int PRIMARY KEY, author uuid REFERENCES onagui.app_users, editor uuid REFERENCES onagui.app_users, at timestamptz);
           CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.at = now(); RETURN new; END $$;
           CREATE TRIGGER touch BEFORE UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION touch()"""
    )
    for i in range(6):
        app, _ = mismatched(db, f"u{i}@example.com")
        db.sql(f"INSERT INTO posts VALUES ({i}, '{app}', '{app}'), ({i + 10}, NULL, '{app}')")
    assert [(row["outcome"], row["rows_changed"]) for row in fix(db, None)] == [("done", 2)] * 6


@pytest.mark.parametrize("other", ["text", "jsonb"])
@pytest.mark.parametrize("key", ["UNIQUE (user_id, kind)", "UNIQUE NULLS NOT DISTINCT (user_id, kind)", "PRIMARY KEY (user_id, kind)"])
def test_an_enum_with_a_cast_of_the_applications_own(db, key, other):
    """The operator of all enums is ambiguous then, but not to an index."""
    db.sql(f"CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE tags (user_id uuid REFERENCES onagui.app_users, kind kind, note text, {key})")
    if other == "text":
        db.sql("CREATE CAST (kind AS text) WITH INOUT AS IMPLICIT")
    else:
        db.sql("CREATE FUNCTION as_json(kind) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.to_jsonb($1::pg_catalog.text)'; CREATE CAST (kind AS jsonb) WITH FUNCTION as_json(kind) AS IMPLICIT")
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO tags VALUES (%s, 'a', 'app'), (%s, 'b', 'app'), (%s, 'a', 'auth')", [app, app, auth])
    if "PRIMARY" not in key:
        db.sql("INSERT INTO tags VALUES (%s, NULL, 'app'), (%s, NULL, 'auth')", [app, auth])
    before = content(db, "tags", "onagui.app_users")
    plan, row = fix_one(db, "ann@example.com", False, policy="keep_auth"), fix_one(db, "ann@example.com", policy="keep_auth")
    assert (plan["outcome"], row["outcome"]) == ("planned", "done"), (plan, row)
    wanted = {("a", "auth"), ("b", "app")} | ({(None, "auth")} if "PRIMARY" not in key else set()) | ({(None, "app")} if key.startswith("UNIQUE (") else set())
    assert set(db.sql("SELECT kind::text, note FROM tags")) == wanted
    undo(db, row["audit_id"])
    assert content(db, "tags", "onagui.app_users") == before
