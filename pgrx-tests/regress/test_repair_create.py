"""A row that a fix or a registration makes is the one that a sign-up would have made, and the rehearsal knows."""

import pytest
from psycopg.types.json import Jsonb
from repairs import app_user, auth_user, content, fix, fix_one, log, undo
from support import audit, expect_error
from test_registration import register

NOTED = ("cut", "left_out", "username")


@pytest.fixture
def db(db):
    return db.install()


def noted(details):
    return {part: details[part] for part in NOTED if part in details}


def both_make(db, columns, **meta):
    """A sign-up and a fix of the same: what the row has in `columns`, and the fix's details."""
    signed_up = db.auth.signup("ann@example.com", meta)
    row = db.sql(f"SELECT {columns} FROM onagui.app_users WHERE id = %s", [signed_up])
    entries = audit(db, action="signup")
    db.sql("DELETE FROM onagui.app_users WHERE id = %s", [signed_up])
    plan, done = fix_one(db, "ann@example.com", False), fix_one(db, "ann@example.com")
    assert (plan["action"], plan["outcome"], done["outcome"]) == ("create", "planned", "done"), (plan, done)
    assert noted(plan["details"]) == noted(done["details"])
    for part in (noted, lambda details: details.get("error", {}).get("message")):
        entry = log(db, action="create")[0]["details"]
        assert part(done["details"]) == part(entry) == part(entries[0]["details"] if entries else {})
    assert db.sql(f"SELECT {columns} FROM onagui.app_users WHERE id = %s", [signed_up]) == row
    undo(db, done["audit_id"])
    assert fix_one(db, "ann@example.com")["outcome"] == "done"
    return row[0], done["details"]


UNFIT = {
    "a check": ("ADD CHECK (length(username) > 2)", (None, "Ann A.")),
    "a domain": ("ALTER username TYPE public.handle", (None, "Ann A.")),
    "a default": ("ALTER username SET DEFAULT 'nobody', ALTER username SET NOT NULL, ADD CHECK (length(username) > 2)", ("nobody", "Ann A.")),
    "two": ("ADD CHECK (length(username) > 2), ADD CHECK (full_name <> 'Ann A.')", (None, None)),
    "too long": ("ALTER username TYPE varchar(1), ALTER full_name TYPE varchar(3)", ("a", "Ann")),
    "too long, and a check": ("ALTER full_name TYPE varchar(3), ADD CHECK (length(username) > 2)", (None, "Ann")),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_cut_or_left_out(db, case):
    ddl, row = UNFIT[case]
    db.sql("CREATE DOMAIN public.handle AS text CHECK (length(VALUE) > 2)")
    db.sql(f"ALTER TABLE onagui.app_users {ddl}")
    made, details = both_make(db, "username, full_name", username="an", full_name="Ann A.")
    assert made == row
    assert details["cut"] or details["left_out"]
    if details["left_out"]:
        assert details["error"]["sqlstate"] == "23514"


@pytest.mark.parametrize("unique", ["UNIQUE (username)", "UNIQUE (tenant, username)"])
def test_a_username_that_is_taken(db, unique):
    db.sql(f"ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_username_key, ADD tenant int DEFAULT 1, ADD {unique}, ADD CHECK (full_name <> 'Ann')")
    app_user(db, "bob@example.com", username="ann")
    (username, full_name), _ = both_make(db, "username, full_name", username="ann")
    assert username.startswith("ann_") and full_name is None
    db.sql("DELETE FROM onagui.app_users WHERE email LIKE 'ann%'")
    db.sql("ALTER TABLE onagui.app_users ADD CHECK (username !~ '_')")
    made, details = both_make_again(db)
    assert made == [(None,)] and details["left_out"] == ["username"]


def both_make_again(db):
    plan, done = fix_one(db, "ann@example.com", False), fix_one(db, "ann@example.com")
    assert (plan["outcome"], done["outcome"]) == ("planned", "done"), (plan, done)
    assert noted(plan["details"]) == noted(done["details"])
    return db.sql("SELECT username FROM onagui.app_users WHERE email = 'ann@example.com'"), done["details"]


def test_a_value_that_another_has_or_that_refers_to_nobody(db):
    db.sql(
        """ALTER TABLE onagui.app_users ADD phone text UNIQUE, ADD boss uuid REFERENCES onagui.app_users;
           INSERT INTO onagui.sync_column (app_column, source, key) VALUES ('boss', 'user_meta', 'boss')"""
    )
    app_user(db, "bob@example.com", phone="123")
    auth_user(db, "ann@example.com", phone="123")
    auth_user(db, "eve@example.com", raw_user_meta_data=Jsonb({"boss": "aaaaaaaa-0000-4000-8000-000000000001"}))
    auth_user(db, "zoe@example.com", raw_user_meta_data=Jsonb({"boss": "nobody"}))
    for email, column in ("ann@example.com", "phone"), ("eve@example.com", "boss"), ("zoe@example.com", "boss"):
        plan, done = fix_one(db, email, False), fix_one(db, email)
        assert (plan["outcome"], done["outcome"]) == ("planned", "done"), (plan, done)
        assert plan["details"]["left_out"] == done["details"]["left_out"] == [column]


@pytest.mark.parametrize(
    "ddl, outcome, sqlstate",
    [
        ("ALTER username SET NOT NULL, ADD CHECK (username NOT LIKE 'ann%')", "refused", "23514"),
        ("ADD CHECK (email NOT LIKE 'ann%'), ADD CHECK (length(username) > 3)", "refused", "23514"),
        ("ALTER email TYPE varchar(5)", "refused", "22001"),
        ("ALTER email TYPE public.short", "failed", "23514"),
    ],
)
def test_what_not_even_the_least_row_meets(db, ddl, outcome, sqlstate):
    db.sql("CREATE DOMAIN public.short AS text CHECK (length(VALUE) < 5)")
    db.sql(f"ALTER TABLE onagui.app_users {ddl}")
    auth_user(db, "ann@example.com")
    before = content(db, "onagui.app_users")
    plan, done = fix_one(db, "ann@example.com", False), fix_one(db, "ann@example.com")
    assert (plan["outcome"], done["outcome"], done["details"]["error"]["sqlstate"]) == (outcome, outcome, sqlstate), (plan, done)
    assert plan["details"] == done["details"]
    assert content(db, "onagui.app_users") == before


def test_who_has_no_email_where_one_is_wanted(db):
    """The hint is one that can be followed."""
    db.sql("ALTER TABLE onagui.app_users ALTER email SET NOT NULL")
    auth_user(db, None, phone="4912345")
    for apply in False, True:
        [row] = [row for row in fix(db, None, apply) if row["action"] == "create"]
        assert row["outcome"] == "refused" and row["details"]["error"]["sqlstate"] == "23502", row
        hint = row["details"]["error"]["hint"]
        assert "sync_column" not in hint, hint
    db.sql(hint[hint.index("ALTER TABLE") :])
    assert [row["outcome"] for row in fix(db, None) if row["action"] == "create"] == ["done"]


@pytest.mark.parametrize(
    ("default", "suits"), [("''", True), ("gen_random_uuid() || '@x.org'", True), ("repeat('x', 30)", True), ("repeat('x', 50)", False)]
)
def test_the_columns_default_where_an_email_is_wanted(db, default, suits):
    db.sql("DROP INDEX IF EXISTS onagui.app_users_email_key")
    db.sql(f"ALTER TABLE onagui.app_users ALTER email TYPE varchar(42), ALTER email SET NOT NULL, ALTER email SET DEFAULT {default}")
    ids = [auth_user(db, None, phone="4912345"), auth_user(db, "ann@example.com"), auth_user(db, f"{'x' * 40}@example.com")]
    outcomes = [
        {row["auth_user_id"]: row["outcome"] for row in fix(db, None, apply) if row["action"] == "create"} for apply in (False, True)
    ]
    assert outcomes == [dict(zip(ids, [made if suits else "refused", made, "refused"])) for made in ("planned", "done")]


def test_many_at_once(db):
    """A row of the set's may do with less, or not at all; the others get all they bring."""
    db.sql("ALTER TABLE onagui.app_users ADD phone text CHECK (phone <> '3'), ADD CHECK (email <> 'u5@example.com')")
    app_user(db, "bob@example.com", username="u7")
    for number in range(10):
        auth_user(db, f"u{number}@example.com", phone=str(number))
    told = {}
    for apply in False, True:
        rows = fix(db, None, apply)
        told[apply] = {row["email"]: (row["outcome"].replace("done", "planned"), noted(row["details"])) for row in rows if row["action"] == "create"}
    assert told[False] == told[True]
    assert len(told[False]) == 10
    assert told[True].pop("u3@example.com") == ("planned", {"cut": [], "left_out": ["phone"], "username": "u3"})
    assert told[True].pop("u5@example.com")[0] == "refused"
    assert set(map(str, told[True].values())) == {"('planned', {})"}


def test_a_registration_makes_the_row_too(db):
    db.sql("ALTER TABLE onagui.app_users ADD CHECK (length(username) > 2), ADD CHECK (full_name <> 'Ann')")
    meta = Jsonb({"username": "an", "full_name": "Ann"})
    ann, bob = (auth_user(db, f"{name}@example.com", raw_user_meta_data=meta) for name in ("ann", "bob"))
    user = register(db, {"userId": ann, "email": "ann@example.com"})["data"]["user"]
    assert (user["username"], user["full_name"]) == (None, None)
    assert audit(db, action="signup")[0]["details"]["error"]["sqlstate"] == "23514"
    with expect_error("23514", hint=False):
        register(db, {"userId": bob, "email": "bob@example.com", "username": "bo"})
    user = register(db, {"userId": bob, "email": "bob@example.com", "username": "bob"})["data"]["user"]
    assert (user["username"], user["full_name"]) == ("bob", None)
    assert audit(db, action="signup")[1]["details"]["left_out"] == ["full_name"]
