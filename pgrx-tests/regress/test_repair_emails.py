"""Rows that refer to users by their e-mails follow when auth's e-mail is taken over, and go back when that is undone."""

import uuid

import pytest
from repairs import app_user, auth_user, content, fix, fix_one, log, undo
from support import expect_error

TABLES = "onagui.app_users", "profiles", "notes"


@pytest.fixture
def db(db):
    return db.install()


def stale(db, old, new, notes=2):
    """A user whose e-mail has changed in auth, with a profile and notes that go by the old one."""
    id = app_user(db, old, auth_user(db, new))
    db.sql("INSERT INTO profiles VALUES (%s)", [old])
    db.sql("INSERT INTO notes (email) SELECT %s FROM generate_series(1, %s)", [old, notes])
    return id


def tables(db, kind="text", action=""):
    if kind != "text":
        db.sql(f"ALTER TABLE onagui.app_users ALTER email TYPE {kind}")
    db.sql(
        f"""ALTER TABLE onagui.app_users ADD UNIQUE (email);
            CREATE TABLE profiles (email {kind} PRIMARY KEY REFERENCES onagui.app_users (email) {action});
            CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY, email {kind} REFERENCES profiles {action})"""
    )


def done_and_undone(db, **emails):
    """The rehearsal foretells it, it is done, and all of it can be taken back."""
    before = content(db, *TABLES)
    plan = fix(db, None, apply=False)
    assert content(db, *TABLES) == before
    done = fix(db, None)
    assert {row["outcome"] for row in plan} == {"planned"} and {row["outcome"] for row in done} == {"done"}, (plan, done)
    for a, b in zip(plan, done, strict=True):
        assert (a["email"], a["action"], a["rows_changed"], a["details"].get("references")) == (
            b["email"], "update_email", b["rows_changed"], b["details"].get("references"),
        )  # fmt: skip
    assert dict(db.sql("SELECT email::text, count(*) FROM notes GROUP BY 1")) == emails
    after = content(db, *TABLES)
    # From the last one on; those who exchanged their e-mails take them back together.
    exchanged = set()
    for row in sorted(done, key=lambda row: -row["audit_id"]):
        if (exchange := row["details"].get("exchange")) not in exchanged:
            undo(db, row["audit_id"])
        exchanged |= {exchange} - {None}
    assert content(db, *TABLES) == before
    return done, after


@pytest.mark.parametrize("action", ["", "ON UPDATE CASCADE", "ON UPDATE RESTRICT", "ON UPDATE SET NULL", "DEFERRABLE INITIALLY DEFERRED"])
def test_they_follow(db, action):
    tables(db, action=action)
    stale(db, "old@example.com", "new@example.com", 3)
    (row,), _ = done_and_undone(db, **{"new@example.com": 3})
    assert row["rows_changed"] == 4
    assert row["details"]["references"] == [
        {"table": "public.profiles", "columns": ["email"], "rows": 1},
        {"table": "public.notes", "columns": ["email"], "rows": 3},
    ]


def test_in_another_case(db):
    db.require("citext")
    tables(db, kind="citext")
    stale(db, "old@example.com", "New@example.com")
    db.sql("INSERT INTO notes (email) VALUES ('OLD@example.com')")
    done_and_undone(db, **{"New@example.com": 3})


@pytest.mark.parametrize("null", ["", " NOT NULL"])
def test_exchanged(db, null):
    """Each one's profile, of which there can be one only, goes along."""
    db.sql(f"ALTER TABLE onagui.app_users ALTER email {'SET' if null else 'DROP'} NOT NULL")
    tables(db)
    stale(db, "a@example.com", "b@example.com", 1)
    stale(db, "b@example.com", "c@example.com", 2)
    stale(db, "c@example.com", "a@example.com", 3)
    done_and_undone(db, **{"b@example.com": 1, "c@example.com": 2, "a@example.com": 3})


def test_chained(db):
    """Recorded in the order in which it was done: whoever takes it back from the last one on meets nobody."""
    tables(db)
    for number in range(8):
        stale(db, f"u{number}@example.com", f"u{number + 1}@example.com", number + 1)
    done_and_undone(db, **{f"u{number + 1}@example.com": number + 1 for number in range(8)})


def test_a_profile_that_is_there_already(db):
    """No app user has the e-mail; a profile that no foreign key looks after does."""
    tables(db)
    db.sql("ALTER TABLE profiles DROP CONSTRAINT profiles_email_fkey, ADD FOREIGN KEY (email) REFERENCES onagui.app_users (email) NOT VALID")
    stale(db, "old@example.com", "new@example.com")
    db.sql("ALTER TABLE profiles DROP CONSTRAINT profiles_email_fkey")
    db.sql("INSERT INTO profiles VALUES ('new@example.com')")
    db.sql("ALTER TABLE profiles ADD FOREIGN KEY (email) REFERENCES onagui.app_users (email) NOT VALID")
    before = content(db, *TABLES)
    plan, done = fix_one(db, None, apply=False), fix_one(db, None)
    assert content(db, *TABLES) == before
    assert plan["outcome"] == done["outcome"] == "refused" and plan["details"] == done["details"], (plan, done)
    assert done["details"]["conflicts"] == [{"table": "public.profiles", "constraint": "profiles_pkey", "rows": 1}]
    error = done["details"]["error"]
    assert error["sqlstate"] == "23505" and "public.profiles" in error["detail"] and error["hint"]


def test_a_check_of_those_who_follow(db):
    tables(db)
    stale(db, "old@example.com", "new@example.org")
    db.sql("ALTER TABLE notes ADD CONSTRAINT ours CHECK (email LIKE '%@example.com')")
    plan, done = fix_one(db, None, apply=False), fix_one(db, None)
    assert plan["outcome"] == done["outcome"] == "refused" and plan["details"] == done["details"], (plan, done)
    assert done["details"]["error"]["sqlstate"] == "23514"


def test_who_came_since_follows_the_undo(db):
    tables(db)
    stale(db, "old@example.com", "new@example.com")
    row = fix_one(db, None)
    db.sql("INSERT INTO notes (email) VALUES ('new@example.com')")
    undo(db, row["audit_id"])
    assert db.sql("SELECT DISTINCT email FROM notes") == [("old@example.com",)]


def test_another_user_has_the_old_one_by_now(db):
    tables(db)
    stale(db, "old@example.com", "new@example.com")
    row = fix_one(db, None)
    app_user(db, "old@example.com")
    with expect_error("55000"):
        undo(db, row["audit_id"])


@pytest.mark.parametrize("act", ["ON UPDATE CASCADE", "ON DELETE CASCADE", "ON UPDATE RESTRICT", ""])
@pytest.mark.parametrize("users, is_ring", [(3, False), (2, True), (3, True)])
def test_the_rehearsal_of_emails_that_pass_through_a_key_that_acts(db, act, users, is_ring):
    """They pass in steps; it foretells what the fix does."""
    db.sql("DROP INDEX onagui.app_users_email_key; CREATE UNIQUE INDEX ON onagui.app_users (email)")
    for i in range(users):
        holds = (i + 1) % users if is_ring else i + 1
        app_user(db, f"u{holds}@example.com", auth_user(db, f"u{i}@example.com"))
    db.sql(f"CREATE TABLE letters (recipient text REFERENCES onagui.app_users (email) {act})")
    db.sql("INSERT INTO letters SELECT email FROM onagui.app_users")
    told = [[(row["email"], row["rows_changed"]) for row in fix(db, None, apply) if row["outcome"] == said] for apply, said in ((False, "planned"), (True, "done"))]
    assert sorted(told[0]) == sorted(told[1]) and len(told[0]) == users


def test_exchanged_where_two_without_an_email_are_alike(db):
    db.sql(
        """DROP TABLE onagui.app_users;
           CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, tenant int DEFAULT 1, email text, UNIQUE NULLS NOT DISTINCT (tenant, email))"""
    )
    app_user(db, "b@example.com", auth_user(db, "a@example.com"))
    app_user(db, "a@example.com", auth_user(db, "b@example.com"))
    rows = fix(db, None)
    assert [row["outcome"] for row in rows] == ["done", "done"], rows


def test_exchanged_where_there_is_little_room(db):
    db.sql(
        """DROP TABLE onagui.app_users;
           CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email varchar(40) NOT NULL UNIQUE)"""
    )
    app_user(db, "b@example.com", auth_user(db, "a@example.com"))
    app_user(db, "a@example.com", auth_user(db, "b@example.com"))
    rows = fix(db, None)
    assert [row["outcome"] for row in rows] == ["done", "done"], rows


@pytest.mark.parametrize("check", ["email LIKE '%@example.com'", "length(email) < 22 AND email LIKE '%@example.com'"])
@pytest.mark.parametrize("action", [None, "", "ON UPDATE CASCADE", "ON UPDATE RESTRICT", "ON UPDATE SET NULL"])
@pytest.mark.parametrize("users", [2, 3])
def test_exchanged_where_every_email_must_be_the_applications(db, check, action, users):
    db.sql(f"ALTER TABLE onagui.app_users ALTER email SET NOT NULL, ADD UNIQUE (email), ADD CHECK ({check})")
    # As ids that are ordered by time are, alike at their start.
    ids = [uuid.UUID(int=(0x0190_0000_0000_7 << 76) + i) for i in range(users)]
    for i, id in enumerate(ids):
        app_user(db, f"u{(i + 1) % users}@example.com", auth_user(db, f"u{i}@example.com", id))
    db.sql("CREATE TABLE letters (email text)")
    if action is not None:
        db.sql(f"ALTER TABLE letters ADD FOREIGN KEY (email) REFERENCES onagui.app_users (email) {action}")
    db.sql("INSERT INTO letters SELECT email FROM onagui.app_users")
    before = content(db, "onagui.app_users", "letters")
    plan, done = fix(db, None, apply=False), fix(db, None)
    assert [row["outcome"] for row in plan] == ["planned"] * users, plan
    assert [row["outcome"] for row in done] == ["done"] * users, done
    undo(db, done[0]["audit_id"])
    assert content(db, "onagui.app_users", "letters") == before


@pytest.mark.parametrize("action", ["", "ON UPDATE CASCADE", "ON UPDATE RESTRICT", "ON UPDATE SET NULL"])
def test_exchanged_where_nothing_else_is_allowed_meanwhile(db, action):
    db.sql("ALTER TABLE onagui.app_users ADD UNIQUE (email), ADD CHECK (email ~ '^[a-z]+@example.com$')")
    app_user(db, "bob@example.com", auth_user(db, "ann@example.com"))
    app_user(db, "ann@example.com", auth_user(db, "bob@example.com"))
    db.sql(f"CREATE TABLE letters (email text REFERENCES onagui.app_users (email) {action}); INSERT INTO letters SELECT email FROM onagui.app_users")
    before = content(db, "onagui.app_users", "letters")
    for apply in (False, True):
        rows = fix(db, None, apply)
        assert {(row["outcome"], row["details"]["error"]["sqlstate"]) for row in rows} == {("refused", "23514")}, rows
    assert content(db, "onagui.app_users", "letters") == before


@pytest.mark.parametrize("check", ["email COLLATE \"C\" LIKE '%@corp.com'", "length(email) < 20"])
@pytest.mark.parametrize("action", ["ON UPDATE SET NULL", "ON UPDATE RESTRICT", "ON UPDATE CASCADE"])
@pytest.mark.parametrize("by", ["auth", "link"])
def test_another_case_where_every_email_must_be_the_applications(db, check, action, by):
    """To the key it is the same e-mail: it takes a step between."""
    db.ignore_case()
    db.sql(
        f"""DROP TABLE onagui.app_users;
            CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text COLLATE insensitive UNIQUE CHECK ({check}));
            CREATE TABLE letters (email text COLLATE insensitive REFERENCES onagui.app_users (email) {action})"""
    )
    if by == "auth":
        ann = db.auth.signup("Ann@corp.com")
    else:
        app_user(db, "Ann@corp.com")
    db.sql("INSERT INTO letters VALUES ('Ann@corp.com')")
    if by == "auth":
        db.sql("UPDATE auth.users SET email = 'ann@corp.com' WHERE id = %s", [ann], role="supabase_auth_admin")
    else:
        ann = db.auth.signup("ann@corp.com")
    assert db.sql("SELECT id, email::text FROM onagui.app_users") == [(ann, "ann@corp.com")], [entry["details"] for entry in log(db)]
    assert db.sql("SELECT email::text FROM letters") == [("ann@corp.com",)]
    if by == "link":
        (entry,) = log(db, action="link")
        undo(db, entry["audit_id"])
        assert db.sql("SELECT l.email::text FROM onagui.app_users u JOIN letters l ON u.email::text = l.email::text") == [("Ann@corp.com",)]


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
@pytest.mark.parametrize("key", ["email", "address"])
def test_a_link_that_takes_auths_spelling(db, action, key):
    db.sql(
        """DROP TABLE onagui.app_users;
           CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text UNIQUE, address text GENERATED ALWAYS AS (email || '!') STORED UNIQUE)"""
    )
    db.sql(f"CREATE TABLE letters (email text REFERENCES onagui.app_users ({key}) ON UPDATE {action})")
    app_user(db, "Ann@Example.com")
    db.sql(f"INSERT INTO letters SELECT {key} FROM onagui.app_users")
    before = content(db, "onagui.app_users", "letters")
    db.auth.signup("ann@example.com")
    assert db.one("SELECT email FROM letters") == ("ann@example.com" if key == "email" else "ann@example.com!")
    (entry,) = log(db, action="link")
    undo(db, entry["audit_id"])
    assert content(db, "onagui.app_users", "letters") == before


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "SET NULL"])
def test_they_follow_auths_own_change(db, action):
    db.sql("ALTER TABLE onagui.app_users ADD UNIQUE (email)")
    db.sql(f"CREATE TABLE letters (email text REFERENCES onagui.app_users (email) ON UPDATE {action})")
    ann = db.auth.signup("ann@example.com")
    db.sql("INSERT INTO letters VALUES ('ann@example.com')")
    db.sql("UPDATE auth.users SET email = 'new@example.com' WHERE id = %s", [ann], role="supabase_auth_admin")
    assert db.sql("SELECT email FROM letters") == [("new@example.com",)], [entry["details"] for entry in log(db)]
    assert [entry["action"] for entry in log(db) if entry["action"] != "signup"] == ["update_email"]


def test_auths_own_change_does_not_move_a_user_whom_others_refer_to_from_their_partition(db):
    db.sql(
        """DROP TABLE onagui.app_users;
           CREATE TABLE onagui.app_users (id uuid, email text) PARTITION BY RANGE (email);
           CREATE TABLE users_a PARTITION OF onagui.app_users FOR VALUES FROM (MINVALUE) TO ('m');
           CREATE TABLE users_m PARTITION OF onagui.app_users DEFAULT;
           ALTER TABLE users_a ADD PRIMARY KEY (id);
           CREATE TABLE notes (user_id uuid REFERENCES users_a ON DELETE CASCADE)"""
    )
    ann = db.auth.signup("ann@example.com")
    db.sql("INSERT INTO notes VALUES (%s)", [ann])
    db.sql("UPDATE auth.users SET email = 'zoe@example.com' WHERE id = %s", [ann], role="supabase_auth_admin")
    assert db.one("SELECT count(*) FROM notes") == 1
    assert db.one("SELECT email FROM onagui.app_users") == "ann@example.com"
    assert [entry["action"] for entry in log(db) if entry["action"] != "signup"] == ["failure"]


@pytest.mark.parametrize("action", ["", "ON UPDATE CASCADE", "ON UPDATE CASCADE ON DELETE SET NULL", "ON UPDATE SET NULL", "ON UPDATE SET DEFAULT"])
@pytest.mark.parametrize("referred", [False, True])
def test_a_link_that_changes_nothing_but_the_case(db, action, referred):
    """To the key it is the same e-mail."""
    db.ignore_case()
    db.sql(
        """DROP TABLE onagui.app_users;
           CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text COLLATE insensitive UNIQUE)"""
    )
    db.sql(f"CREATE TABLE letters (email text COLLATE insensitive REFERENCES onagui.app_users (email) {action})")
    app_user(db, "Ann@Example.com")
    db.sql("INSERT INTO letters SELECT email FROM onagui.app_users WHERE %s", [referred])
    before = content(db, "onagui.app_users", "letters")
    ann = db.auth.signup("ann@example.com")
    assert db.sql("SELECT id, email::text FROM onagui.app_users") == [(ann, "ann@example.com")], [entry["details"] for entry in log(db)]
    assert db.sql("SELECT email::text FROM letters") == [("ann@example.com",)] * referred
    (entry,) = log(db, action="link")
    undo(db, entry["audit_id"])
    assert content(db, "onagui.app_users", "letters") == before
