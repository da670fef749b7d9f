"""Where the columns of app_users come from, and values that do not fit."""

import uuid

import pytest

from support import audit

A = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
B = uuid.UUID("bbbbbbbb-0000-4000-8000-000000000002")


@pytest.fixture
def app(db):
    return db.install()


def only(db, columns):
    [row] = db.sql(f"SELECT {columns} FROM onagui.app_users")
    return row


def map_column(db, app_column, source, key):
    db.sql("INSERT INTO onagui.sync_column (app_column, source, key) VALUES (%s, %s, %s)", [app_column, source, key])


def test_half_a_pair_is_a_value(app):
    app.sql("CREATE TYPE pair AS (a int, b int)", role="supabase_admin")
    app.sql("ALTER TABLE onagui.app_users ADD pair public.pair")
    map_column(app, "pair", "user_meta", "pair")
    id = uuid.uuid4()
    app.sql("INSERT INTO onagui.app_users (id, email, username, full_name) VALUES (%s, 'ann@example.com', 'ann', 'Ann')", [id])
    app.auth.signup("ann@example.com", {"pair": "(1,)"}, id=id)
    assert only(app, "pair::text") == ("(1,)",)


def test_a_mapping_of_ones_own(app):
    app.sql("ALTER TABLE onagui.app_users ADD plan text, ADD provider varchar(20), ADD age int, ADD prefs jsonb, ADD signed_up date, ADD everything jsonb")
    map_column(app, "plan", "user_meta", "plan")
    map_column(app, "provider", "app_meta", "provider")
    map_column(app, "age", "user_meta", "age")
    map_column(app, "prefs", "user_meta", "prefs")
    map_column(app, "signed_up", "column", "created_at")
    map_column(app, "everything", "app_meta", None)
    map_column(app, "nowhere", "user_meta", "x")
    app.auth.signup("a@example.com", {"plan": "pro", "age": 41, "prefs": {"dark": True}}, app_meta={"provider": "email"})
    assert only(app, "plan, provider, age, prefs, signed_up = current_date, everything") == (
        "pro", "email", 41, {"dark": True}, True, {"provider": "email"},
    )
    assert app.warnings == []


def test_a_mapping_overrides_what_is_built_in(app):
    map_column(app, "username", "user_meta", "nick")
    app.auth.signup("a@example.com", {"username": "built in", "nick": "mine"})
    assert only(app, "username") == ("mine",)
    # Without the key the column's default is left, and nothing falls back to the e-mail.
    app.sql("DELETE FROM onagui.app_users")
    app.auth.signup("b@example.com", {"username": "built in"})
    assert only(app, "username") == (None,)


def test_a_changed_mapping_reaches_other_sessions(app):
    app.auth.signup("a@example.com", {"nick": "a"})
    map_column(app, "full_name", "user_meta", "nick")
    app.auth.signup("b@example.com", {"nick": "b"})
    app.sql("TRUNCATE onagui.sync_column", role="supabase_admin")
    app.auth.signup("c@example.com", {"nick": "c"})
    assert app.sql("SELECT full_name FROM onagui.app_users ORDER BY email") == [(None,), ("b",), (None,)]


def test_bad_mappings_are_refused(app):
    for row in (("id", "column", "id"), ("email", "column", "email"), ("x", "elsewhere", "x"), ("x", "column", None)):
        with pytest.raises(Exception, match="check constraint"):
            map_column(app, *row)


@pytest.mark.parametrize("kind", ["uuid", "int", "point", "text[]", "inet", "boolean"])
def test_a_column_that_no_cast_fits_never_costs_the_row(app, kind):
    app.sql(f"ALTER TABLE onagui.app_users ADD odd {kind}")
    map_column(app, "odd", "column", "created_at")
    app.auth.signup("a@example.com", {"username": "ann"}, id=A)
    assert only(app, "id, username, odd") == (A, "ann", None)
    [entry] = audit(app)
    assert (entry["action"], entry["outcome"], entry["details"]["left_out"]) == ("signup", "done", ["odd"])


def test_metadata_columns_of_other_types(app):
    app.sql("ALTER TABLE onagui.app_users ALTER metadata DROP DEFAULT, ALTER metadata TYPE json USING metadata::json")
    app.auth.signup("a@example.com", {"a": 1})
    assert only(app, "metadata") == ({"a": 1},)
    app.sql("TRUNCATE onagui.app_users")
    app.sql("ALTER TABLE onagui.app_users ALTER metadata TYPE text")
    app.auth.signup("b@example.com", {"a": 1})
    assert only(app, "metadata") == ('{"a": 1}',)


def test_auth_metadata_as_json(app):
    app.sql("ALTER TABLE auth.users ALTER raw_user_meta_data TYPE json", role="supabase_auth_admin")
    insert = "INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES (%s, %s, %s)"
    app.sql(insert, [A, "a@example.com", '{"username": "ann"}'], role="supabase_auth_admin")
    assert only(app, "username, metadata") == ("ann", {"username": "ann"})


def test_bad_json_costs_nobody_else_theirs(app):
    app.sql("ALTER TABLE auth.users ALTER raw_user_meta_data TYPE json", role="supabase_auth_admin")
    app.sql(
        """INSERT INTO auth.users (id, email, raw_user_meta_data)
           SELECT gen_random_uuid(), 'u' || i || '@example.com', CASE i WHEN 7 THEN '{"username": "\\u0000"}' ELSE '{}' END::json
             FROM generate_series(1, 20) i""",
        role="supabase_auth_admin",
    )
    assert app.one("SELECT count(*) FROM onagui.app_users") == 19
    [entry] = audit(app)
    assert (entry["action"], entry["email"], entry["details"]["error"]["sqlstate"]) == ("failure", "u7@example.com", "22P05")


def test_a_null_source_keeps_the_default(app):
    app.sql("CREATE DOMAIN public.shade AS text DEFAULT 'grey'")
    app.sql("ALTER TABLE onagui.app_users ADD colour text DEFAULT 'blue', ADD shade public.shade, ADD number int DEFAULT 3")
    for column in ("colour", "shade", "number"):
        map_column(app, column, "user_meta", column)
    app.auth.signup("a@example.com", {"colour": None})
    assert only(app, "colour, shade, number") == ("blue", "grey", 3)


def test_a_domain_without_a_default_does_not_take_that_of_the_domain_below(app):
    app.sql("CREATE DOMAIN public.shade AS text DEFAULT 'grey'; CREATE DOMAIN public.hue AS public.shade; CREATE DOMAIN public.tint AS public.shade")
    app.sql("ALTER DOMAIN public.hue DROP DEFAULT; ALTER DOMAIN public.shade SET DEFAULT 'black'")
    app.sql("ALTER TABLE onagui.app_users ADD hue public.hue, ADD tint public.tint")
    for column in ("hue", "tint"):
        map_column(app, column, "user_meta", column)
    app.auth.signup("a@example.com")
    app.sql("INSERT INTO onagui.app_users (id, email) VALUES (gen_random_uuid(), 'b@example.com')")
    assert app.sql("SELECT hue, tint FROM onagui.app_users") == [(None, "grey")] * 2


def test_generated_and_identity_columns_are_left_alone(app):
    app.sql(
        """ALTER TABLE onagui.app_users DROP full_name, DROP created_at,
           ADD full_name text GENERATED ALWAYS AS (upper(username)) STORED,
           ADD created_at bigint GENERATED ALWAYS AS IDENTITY,
           ADD number bigint GENERATED BY DEFAULT AS IDENTITY"""
    )
    map_column(app, "number", "user_meta", "number")
    app.auth.signup("a@example.com", {"username": "ann", "full_name": "x", "number": 77})
    assert only(app, "full_name, created_at, number") == ("ANN", 1, 77)
    app.sql("DELETE FROM onagui.app_users")
    app.auth.signup("b@example.com")
    assert only(app, "number") == (1,)


@pytest.mark.parametrize(
    "kind, wanted, made, cut",
    [
        ("varchar(20)", "x" * 21, "x" * 20, True),
        ("varchar(20)", "ä" * 20, "ä" * 20, False),
        ("char(5)", "abcdefg", "abcde", True),
    ],
)
def test_a_username_that_is_too_long_is_cut(app, kind, wanted, made, cut):
    app.sql(f"ALTER TABLE onagui.app_users ALTER username TYPE {kind}")
    id = app.auth.signup("a@example.com", {"username": wanted})
    assert only(app, "username") == (made,)
    assert [(e["action"], e["new_app_user_id"], e["details"]["cut"]) for e in audit(app)] == ([("signup", id, ["username"])] if cut else [])


def test_a_cut_username_that_is_taken(app):
    app.sql("ALTER TABLE onagui.app_users ALTER username TYPE varchar(12)")
    app.auth.signup("a@example.com", {"username": "annabelle"}, id=B)
    app.auth.signup("b@example.com", {"username": "annabelle"}, id=A)
    assert app.sql("SELECT username FROM onagui.app_users ORDER BY email") == [("annabelle",), ("ann_aaaaaaaa",)]


def test_other_columns_that_are_too_long_are_cut(app):
    app.sql("ALTER TABLE onagui.app_users ALTER full_name TYPE varchar(5)")
    app.auth.signup("a@example.com", {"full_name": "Annabelle"})
    assert only(app, "full_name") == ("Annab",)
    assert audit(app)[0]["details"]["cut"] == ["full_name"]


def test_citext(app):
    app.require("citext")
    app.sql("ALTER TABLE onagui.app_users ALTER email TYPE citext, ALTER username TYPE citext")
    app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'ANN@example.com', 'Ann')", [B])
    app.auth.signup("ann@example.com", confirmed=False)
    assert audit(app)[0]["action"] == "pending"
    app.auth.signup("other@example.com", {"username": "ANN"}, id=A)
    assert app.sql("SELECT username FROM onagui.app_users WHERE id = %s", [A]) == [("ANN_aaaaaaaa",)]
    assert app.warnings == []


def test_a_username_unique_by_lower(app):
    app.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_username_key")
    app.sql("CREATE UNIQUE INDEX ON onagui.app_users (lower(username))")
    app.sql(
        """INSERT INTO auth.users (id, email, raw_user_meta_data) VALUES
           (%s, 'a@example.com', '{"username": "Ann"}'), (%s, 'b@example.com', '{"username": "ANN"}')""",
        [B, A],
        role="supabase_auth_admin",
    )
    assert app.sql("SELECT username FROM onagui.app_users ORDER BY email") == [("Ann",), ("ANN_aaaaaaaa",)]
    assert audit(app) == []


def test_a_username_unique_with_another_column(app):
    """The extension does not know such an index: the row tells when it is made."""
    app.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_username_key, ADD tenant int DEFAULT 1, ADD UNIQUE (tenant, username)")
    app.auth.signup("a@example.com", {"username": "ann"}, id=B)
    app.auth.signup("b@example.com", {"username": "ann"}, id=A)
    assert app.sql("SELECT username FROM onagui.app_users ORDER BY email") == [("ann",), ("ann_aaaaaaaa",)]
    assert app.warnings == []


def test_a_username_that_a_check_refuses_is_left_out(app):
    app.sql("ALTER TABLE onagui.app_users ADD CHECK (username ~ '^[a-z]+$')")
    id = app.auth.signup("a@example.com", {"username": "no good", "full_name": "Ann"})
    assert only(app, "id, username, full_name") == (id, None, "Ann")
    [entry] = audit(app)
    assert (entry["action"], entry["outcome"], entry["new_app_user_id"]) == ("signup", "done", id)
    assert entry["details"]["left_out"] == ["username"]
    assert entry["details"]["error"]["sqlstate"] == "23514"
    assert app.warnings == []


@pytest.mark.parametrize("made_by", ["sign-up", "bulk", "fix"])
def test_a_username_that_must_be_there_and_is_too_short(app, made_by):
    app.sql("ALTER TABLE onagui.app_users ALTER username SET NOT NULL, ADD CHECK (char_length(username) >= 3)")
    insert = "INSERT INTO auth.users (id, email, is_sso_user) VALUES ('aaaaaaaa-0000-4000-8000-000000000001', 'ab@example.com', false)"
    if made_by == "bulk":
        insert += ", (gen_random_uuid(), 'ann@example.com', false)"
    if made_by == "fix":
        insert = f"SET onagui_sync.enabled = off; {insert}; RESET onagui_sync.enabled"
    app.sql(insert, role="supabase_admin")
    if made_by == "fix":
        rehearsed, fixed = (app.sql(f"SELECT outcome FROM onagui.fix_user_ids('{{ab@example.com}}', {apply})") for apply in ("false", "true"))
        assert (rehearsed, fixed) == ([("planned",)], [("done",)])
    assert app.one("SELECT username FROM onagui.app_users WHERE email = 'ab@example.com'") == "ab_aaaaaaaa"


def test_two_values_that_do_not_fit(app):
    app.sql("ALTER TABLE onagui.app_users ADD CHECK (username <> 'ann'), ADD CHECK (full_name <> 'Ann')")
    app.auth.signup("a@example.com", {"username": "ann", "full_name": "Ann"})
    assert only(app, "email, username, full_name") == ("a@example.com", None, None)


def test_an_enum_and_a_domain(app):
    app.sql("CREATE TYPE public.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN public.nick AS text CHECK (length(VALUE) < 5)")
    app.sql("ALTER TABLE onagui.app_users ADD mood public.mood DEFAULT 'ok', ALTER username TYPE public.nick")
    map_column(app, "mood", "user_meta", "mood")
    app.auth.signup("a@example.com", {"mood": "sad", "username": "ann"})
    app.auth.signup("b@example.com", {"mood": "angry", "username": "bobby"})
    assert app.sql("SELECT mood, username FROM onagui.app_users ORDER BY email") == [("sad", "ann"), ("ok", None)]
    assert audit(app)[0]["details"]["left_out"] == ["username", "full_name", "metadata", "created_at", "updated_at", "mood"]


@pytest.mark.parametrize("unique", [True, False])
def test_a_megabyte_of_a_name(app, unique):
    if not unique:
        app.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_username_key")
    # Random, so that it does not compress to the size of an index entry.
    big = "".join(uuid.uuid4().hex for _ in range(32768))
    app.auth.signup("a@example.com", {"username": big})
    assert only(app, "left(username, 255)") == (big[:255],)
    if unique:
        assert only(app, "length(username)") == (255,)
        assert audit(app)[0]["details"]["cut"] == ["username"]


def test_a_phone_that_is_taken_is_left_out(app):
    app.sql("ALTER TABLE onagui.app_users ADD phone text UNIQUE")
    app.sql("INSERT INTO onagui.app_users (id, phone) VALUES (%s, '4912345')", [B])
    app.auth.signup(phone="4912345", id=A)
    assert app.sql("SELECT phone FROM onagui.app_users WHERE id = %s", [A]) == [(None,)]
    assert audit(app)[0]["details"]["left_out"] == ["phone"]


def test_columns_named_like_ours(app):
    """auth.users belongs to somebody else, who may add any column."""
    app.sql("ALTER TABLE auth.users ADD place int DEFAULT 1, ADD username text, ADD key text, ADD n int, ADD w int", role="supabase_auth_admin")
    app.auth.signup("a@example.com", {"username": "ann"}, id=B)
    app.auth.signup("b@example.com", {"username": "ann"}, id=A)
    assert app.sql("SELECT username FROM onagui.app_users ORDER BY email") == [("ann",), ("ann_aaaaaaaa",)]
    assert app.warnings == []


def test_a_username_that_is_no_text(app):
    app.sql("ALTER TABLE onagui.app_users ALTER username TYPE int USING NULL")
    app.auth.signup("a@example.com", {"username": "7"}, id=B)
    app.auth.signup("b@example.com", {"username": "7"}, id=A)
    app.auth.signup("c@example.com", {"username": "ann"})
    assert app.sql("SELECT username FROM onagui.app_users ORDER BY email") == [(7,), (None,), (None,)]
    assert app.warnings == []


def test_tables_with_little(db):
    """Two columns on either side are enough; every e-mail counts as confirmed then."""
    db.sql("ALTER SCHEMA auth RENAME TO real_auth", role="supabase_admin")
    db.sql("CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY, email text)", role="supabase_admin")
    db.install(app_users=False)
    db.sql("CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email varchar(40))")
    db.sql("INSERT INTO auth.users VALUES (%s, 'a@example.com')", [A], role="supabase_admin")
    db.sql("UPDATE auth.users SET email = 'b@example.com'", role="supabase_admin")
    assert db.sql("SELECT id, email FROM onagui.app_users") == [(A, "b@example.com")]
    db.sql("DELETE FROM auth.users", role="supabase_admin")
    assert [entry["action"] for entry in audit(db)] == ["update_email", "delete"]
