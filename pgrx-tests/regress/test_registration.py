"""onagui.sync_user_registration(): who may call it, what it does, what it says."""

import json
import random
import uuid

import psycopg
import pytest
from repairs import content, mismatched, undo
from support import audit, expect_error

CALL = "SELECT onagui.sync_user_registration(%s::jsonb)"


def register(db, body, role="service_role", connection=None, **claims):
    connection = connection or db.session("authenticator")
    with connection.acting_as(role, **claims):
        return connection.one(CALL, [body if isinstance(body, str) else json.dumps(body, default=str)])


def as_user(db, user, body, **more):
    return register(db, body, "authenticated", sub=user, **more)


def app_user(db, id):
    rows = db.rows("SELECT * FROM onagui.app_users WHERE id = %s", [id], role="supabase_admin")
    return rows[0] if rows else None


def without_a_row(db, email="ann@example.com", **more):
    """An auth user who has no app user, as after a bulk import with sync switched off."""
    db.sql("SELECT onagui.disable_sync()")
    id = db.auth.signup(email, **more)
    db.sql("SELECT onagui.enable_sync()")
    return id


def snapshot(db):
    return (
        db.sql("SELECT a::text FROM onagui.app_users a ORDER BY 1", role="supabase_admin"),
        db.one("SELECT count(*) FROM onagui.sync_audit_log", role="supabase_admin"),
    )


def test_created(db):
    db.install()
    id = without_a_row(db, meta={"username": "ann", "theme": "dark"})
    answer = register(db, {"userId": id, "email": "ann@example.com"})
    assert (answer["success"], answer["message"], answer["data"]["action"]) == (True, "User created successfully", "created")
    row = app_user(db, id)
    assert answer["data"]["user"] == {**answer["data"]["user"], "id": str(id), "email": "ann@example.com", "username": "ann"}
    assert set(answer["data"]["user"]) == set(row)
    assert row["metadata"] == {"theme": "dark", "username": "ann", "email_verified": True}


def test_created_with_what_the_body_says(db):
    db.install()
    id = without_a_row(db, meta={"username": "ann"})
    body = {"userId": str(id).upper(), "email": " ANN@Example.com ", "username": "Ann O'Nym", "metadata": {"plan": "pro"}, "role": "admin"}
    assert as_user(db, id, body)["data"]["action"] == "created"
    row = app_user(db, id)
    assert (row["email"], row["username"], row["metadata"]) == ("ann@example.com", "Ann O'Nym", {"plan": "pro"})


def test_a_second_call_updates_and_overwrites_only_what_it_names(db):
    db.install()
    id = db.auth.signup("ann@example.com", {"username": "ann", "full_name": "Ann"})
    db.sql("UPDATE onagui.app_users SET full_name = 'Dr Ann', metadata = '{\"by\": \"app\"}'")
    answer = as_user(db, id, {"userId": id, "email": "ann@example.com"})
    assert (answer["message"], answer["data"]["action"]) == ("User updated successfully", "updated")
    row = app_user(db, id)
    assert (row["username"], row["full_name"], row["metadata"]) == ("ann", "Dr Ann", {"by": "app"})
    as_user(db, id, {"userId": id, "email": "ann@example.com", "metadata": {"by": "user"}, "username": "annie"})
    row = app_user(db, id)
    assert (row["username"], row["full_name"], row["metadata"]) == ("annie", "Dr Ann", {"by": "user"})


def test_the_same_call_again_writes_nothing(db):
    db.install()
    id = db.auth.signup("ann@example.com")
    body = {"userId": id, "email": "ann@example.com", "username": "ann", "metadata": {"a": 1}}
    as_user(db, id, body)
    before = db.sql("SELECT xmin::text FROM onagui.app_users", role="supabase_admin")
    assert as_user(db, id, body)["data"]["action"] == "updated"
    assert db.sql("SELECT xmin::text FROM onagui.app_users", role="supabase_admin") == before


def test_metadata_keeps_every_digit_and_any_depth(db):
    db.install()
    id = db.auth.signup("ann@example.com")
    deep = "[" * 3000 + "]" * 3000
    body = f'{{"userId": "{id}", "email": "ann@example.com", "metadata": {{"n": 123456789012345678901234567890.5, "big": 1e400, "deep": {deep}}}, "other": {deep}}}'
    connection = db.session("authenticator")
    with connection.acting_as("authenticated", sub=id):
        assert connection.one("SELECT (onagui.sync_user_registration(%s::jsonb) -> 'data' ->> 'action')", [body]) == "updated"
    assert db.one("SELECT metadata ->> 'n' FROM onagui.app_users", role="supabase_admin") == "123456789012345678901234567890.5"
    assert db.one("SELECT length(metadata ->> 'big') FROM onagui.app_users", role="supabase_admin") == 401


def test_linked(db):
    db.install()
    old = uuid.uuid4()
    db.sql("CREATE TABLE onagui.roles (user_id uuid REFERENCES onagui.app_users, role text)")
    id = without_a_row(db)
    db.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'Ann@Example.com', 'boss')", [old])
    db.sql("INSERT INTO onagui.roles VALUES (%s, 'admin')", [old])
    answer = as_user(db, id, {"userId": id, "email": "ann@example.com"})
    assert answer["data"]["action"] == "linked" and answer["data"]["user"]["id"] == str(id)
    assert answer["data"]["user"]["username"] == "boss"
    assert db.sql("SELECT user_id, role FROM onagui.roles") == [(id, "admin")]
    (entry,) = audit(db, action="link")
    assert (entry["old_app_user_id"], entry["new_app_user_id"], entry["rows_changed"], entry["actor"]) == (old, id, 1, "authenticated")
    assert db.one("SELECT onagui.undo_fix(%s)", [entry["audit_id"]]).startswith("UNDONE:")
    assert app_user(db, old)["email"] == "Ann@Example.com"


def test_pending(db):
    db.install()
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [uuid.uuid4()])
    id = db.auth.signup("ann@example.com", confirmed=False)
    assert len(audit(db, action="pending")) == 1
    before = snapshot(db)
    for _ in range(3):
        answer = as_user(db, id, {"userId": id, "email": "ann@example.com", "username": "mine"})
        assert answer["data"] == {"action": "pending", "user": None}
        assert answer["success"] is True
    assert snapshot(db) == before
    db.auth.confirm(id)
    assert as_user(db, id, {"userId": id, "email": "ann@example.com"})["data"]["action"] == "updated"


def test_conflicts_name_nobody(db):
    db.install()
    old = db.auth.signup("ann@example.com")
    db.auth.delete(old)
    id = db.auth.signup("ann@example.com")
    with expect_error("21000", detail="belongs, or once belonged") as caught:
        as_user(db, id, {"userId": id, "email": "ann@example.com"})
    said = " ".join(filter(None, [caught.diag.message_primary, caught.diag.message_detail, caught.diag.message_hint]))
    assert str(old) not in said and str(id) not in said
    assert app_user(db, id) is None


def test_a_taken_username(db):
    db.install()
    db.auth.signup("bob@example.com", {"username": "bob"})
    id = db.auth.signup("ann@example.com")
    with expect_error("23505", "taken", detail='"bob"'):
        as_user(db, id, {"userId": id, "email": "ann@example.com", "username": "bob"})
    assert app_user(db, id)["username"] == "ann"
    other = without_a_row(db, "cid@example.com")
    with expect_error("23505", "taken", detail='"bob"'):
        as_user(db, other, {"userId": other, "email": "cid@example.com", "username": "bob"})
    assert app_user(db, other) is None
    third = without_a_row(db, "bob@example.org")
    answer = as_user(db, third, {"userId": third, "email": "bob@example.org"})
    assert answer["data"]["user"]["username"] == f"bob_{third.hex[:8]}"


def test_users_are_held_to_their_own_id(db):
    db.install()
    id, other = db.auth.signup("ann@example.com"), db.auth.signup("bob@example.com")
    nobody = uuid.uuid4()
    before = snapshot(db)
    said = []
    for whom in (other, nobody):
        for body in ({"userId": whom, "email": "bob@example.com"}, {"userId": whom}, {"userId": whom, "email": 5, "role": "service_role"}):
            with expect_error("42501") as caught:
                as_user(db, id, body)
            said.append((caught.diag.message_primary, caught.diag.message_detail, caught.diag.message_hint))
    assert len(set(said)) == 1
    assert snapshot(db) == before


@pytest.mark.parametrize("claims", [None, "", "{}", "[]", "{", '{"sub": null}', '{"sub": 1}', '{"sub": "me"}', '{"sub": ["{id}"]}', '["{id}"]'])
def test_without_a_token_nothing_goes(db, claims):
    db.install()
    id = db.auth.signup("ann@example.com")
    connection = db.connect("authenticator")
    with expect_error("42501"):
        with connection.transaction():
            connection.execute("SET LOCAL ROLE authenticated")
            if claims is not None:
                connection.execute("SELECT set_config('request.jwt.claims', %s, true)", [claims.replace("{id}", str(id))])
            connection.execute(CALL, [json.dumps({"userId": str(id), "email": "ann@example.com"})])


def test_who_inherits_from_authenticated_is_held_to_their_own_id(db):
    db.install()
    id, other = db.auth.signup("ann@example.com"), db.auth.signup("bob@example.com")
    role = f"member_{uuid.uuid4().hex[:8]}"
    db.sql(f"CREATE ROLE {role} IN ROLE authenticated, service_role", role="supabase_admin")
    try:
        with expect_error("42501"):
            register(db, {"userId": other, "email": "bob@example.com"}, role, db.connect("supabase_admin"), sub=id)
        assert register(db, {"userId": id, "email": "ann@example.com"}, role, db.connect("supabase_admin"), sub=id)["success"]
    finally:
        db.sql(f"DROP ROLE {role}", role="supabase_admin")


def test_operators_sync_anybody(db):
    db.install()
    id = db.auth.signup("ann@example.com")
    body = json.dumps({"userId": str(id), "email": "ann@example.com"})
    for role in ("postgres", "supabase_admin"):
        assert db.one(CALL, [body], role=role)["data"]["action"] == "updated"


def test_who_is_an_installer(db):
    """A restore makes somebody else the extension's owner; what was granted tells who configures. Clients are clients whatever they
    were granted, and nobody inherits it."""
    db.install()
    ann, bob = db.auth.signup("ann@example.com"), db.auth.signup("bob@example.com")
    body = {"userId": bob, "email": "bob@example.com"}
    role = f"heir_{uuid.uuid4().hex[:8]}"
    db.sql(f"CREATE ROLE {role} IN ROLE postgres, authenticated; UPDATE pg_extension SET extowner = 10 WHERE extname = 'onagui_sync'", role="supabase_admin")
    db.sql("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA onagui TO anon, authenticated", role="supabase_admin")
    try:
        assert db.one(CALL, [json.dumps(body, default=str)])["success"]
        for client in (role, "authenticated", "anon"):
            with expect_error("42501"):
                register(db, body, client, db.connect("supabase_admin"), sub=ann)
    finally:
        db.sql(f"DROP ROLE {role}", role="supabase_admin")


def test_anon_has_no_execute(db):
    db.install()
    with expect_error("42501", detail=False, hint=False):
        register(db, {"userId": uuid.uuid4(), "email": "a@b"}, "anon")
    assert not db.one("SELECT has_function_privilege('anon', 'onagui.sync_user_registration(jsonb)', 'EXECUTE')")


@pytest.mark.parametrize(
    "body",
    [
        "null", "[]", "1", '"x"', "true", "{}",
        '{"userId": null, "email": "ann@example.com"}',
        '{"userId": 5, "email": "ann@example.com"}',
        '{"userId": "me", "email": "ann@example.com"}',
        '{"userId": "{id}"}',
        '{"userId": "{id}", "email": null}',
        '{"userId": "{id}", "email": ""}',
        '{"userId": "{id}", "email": "bob@example.com"}',
        '{"userId": "{id}", "email": ["ann@example.com"]}',
        '{"userId": "{id}", "email": "ann@example.com", "username": 5}',
        '{"userId": "{id}", "email": "ann@example.com", "metadata": []}',
        '{"userId": "{id}", "email": "ann@example.com", "metadata": "x"}',
        '{"userid": "{id}", "EMAIL": "ann@example.com"}',
        '{"userId": "00000000-0000-0000-0000-000000000000", "email": "ann@example.com"}',
    ],
)  # fmt: skip
def test_bad_input(db, body):
    db.install()
    id = db.auth.signup("ann@example.com")
    before = snapshot(db)
    with expect_error("22023"):
        register(db, body.replace("{id}", str(id)))
    assert snapshot(db) == before


def test_nothing_for_ids_that_auth_has_deleted(db):
    db.install()
    for delete in (db.auth.soft_delete, db.auth.delete):
        id = without_a_row(db, f"{delete.__name__}@example.com")
        delete(id)
        with expect_error("22023", "not the id of an auth user"):
            register(db, {"userId": id, "email": f"{delete.__name__}@example.com"})
        assert app_user(db, id) is None


def test_a_phone_user_has_no_email_to_give(db):
    db.install()
    id = db.auth.signup(phone="4912345")
    with expect_error("22023", "not the auth user's e-mail"):
        as_user(db, id, {"userId": id, "email": "mine@example.com"})


def test_null_body(db):
    db.install()
    with expect_error("22023"):
        db.sql("SELECT onagui.sync_user_registration(NULL)")


def test_table_without_username_and_metadata(db):
    db.install(app_users=False)
    db.sql("CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text NOT NULL)")
    id = db.auth.signup("ann@example.com")
    answer = as_user(db, id, {"userId": id, "email": "ann@example.com", "username": "x", "metadata": {"a": 1}})
    assert answer["data"]["user"] == {"id": str(id), "email": "ann@example.com"}


def test_a_metadata_column_that_takes_no_json(db):
    """It is what a sign-up makes of it."""
    db.install(app_users=False)
    db.sql("CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text, metadata text[])")
    id = db.auth.signup("ann@example.com")
    for metadata in app_user(db, id)["metadata"], None:
        as_user(db, id, {"userId": id, "email": "ann@example.com", "username": "annie", "metadata": {"a": 1}})
        assert (app_user(db, id)["username"], app_user(db, id)["metadata"]) == ("annie", metadata)
        db.sql("DELETE FROM onagui.app_users")


def test_a_username_that_is_too_long(db):
    db.install(app_users=False)
    db.sql("CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username varchar(5) UNIQUE, metadata text)")
    id = db.auth.signup("ann@example.com")
    with expect_error("22023", detail="more than 5 characters"):
        as_user(db, id, {"userId": id, "email": "ann@example.com", "username": "annabel"})
    as_user(db, id, {"userId": id, "email": "ann@example.com", "username": "annie", "metadata": {"a": 1}})
    assert (app_user(db, id)["username"], app_user(db, id)["metadata"]) == ("annie", '{"a": 1}')


@pytest.mark.parametrize("bytes_", [3_000, 60_000])
def test_a_username_that_is_too_long_for_the_index(db, bytes_):
    db.install()
    signed_up, missing = db.auth.signup("ann@example.com"), without_a_row(db, "bob@example.com")
    for id, email in ((signed_up, "ann@example.com"), (missing, "bob@example.com")):
        with expect_error("22023", "username in the body does not fit", detail=f"{2 * bytes_} characters"):
            as_user(db, id, {"userId": id, "email": email, "username": random.randbytes(bytes_).hex()})
    # A limit that something else has met is none of the username's.
    db.sql("CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '54000'; END $$")
    db.sql("CREATE TRIGGER no BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.no()")
    with expect_error("54000"):
        as_user(db, signed_up, {"userId": signed_up, "email": "ann@example.com", "username": "annie"})


@pytest.mark.parametrize("bytes_", [2_000, 9_000])
def test_an_index_of_something_else_is_too_short(db, bytes_):
    db.install()
    id = db.auth.signup("ann@example.com")
    db.sql("CREATE INDEX ON onagui.app_users ((metadata::text))")
    body = {"userId": id, "email": "ann@example.com", "username": "u" * 1100}
    with expect_error("54000"):
        as_user(db, id, body | {"metadata": {"x": random.randbytes(bytes_).hex()}})
    as_user(db, id, body | {"metadata": {"x": 1}})
    assert app_user(db, id)["username"] == "u" * 1100


def test_without_the_table(db):
    db.install(app_users=False)
    id = db.auth.signup("ann@example.com")
    with expect_error("42P01"):
        as_user(db, id, {"userId": id, "email": "ann@example.com"})


@pytest.mark.parametrize("own", [True, False])
def test_a_row_that_is_there_is_filled_with_what_fits(db, own):
    db.install()
    id = without_a_row(db, meta={"username": "an", "full_name": "Ann"})
    db.sql("ALTER TABLE onagui.app_users ADD CHECK (length(username) > 2)")
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [id if own else uuid.uuid4()])
    answer = as_user(db, id, {"userId": id, "email": "ann@example.com"})["data"]
    assert (answer["action"], answer["user"]["username"], answer["user"]["full_name"]) == ("updated" if own else "linked", None, "Ann")
    [entry] = audit(db)
    assert (entry["action"], entry["outcome"], entry["details"]["left_out"]) == ("signup" if own else "link", "done", ["username"])


def test_what_never_fits_is_recorded_once_for_each_value(db):
    db.install()
    id = without_a_row(db, meta={"username": "an"})
    db.sql("ALTER TABLE onagui.app_users ADD CHECK (length(username) > 2)")
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [id])
    for _ in range(3):
        assert as_user(db, id, {"userId": id, "email": "ann@example.com"})["data"]["action"] == "updated"
    assert [entry["action"] for entry in audit(db)] == ["signup"]
    db.sql("ALTER TABLE onagui.app_users ADD CONSTRAINT a_longer_one CHECK (length(username) > 3)")
    as_user(db, id, {"userId": id, "email": "ann@example.com"})
    assert len(audit(db)) == 2, "it fails for another reason"


def test_users_do_not_learn_what_the_application_keeps_to_itself(db):
    db.install()
    db.sql("ALTER TABLE onagui.app_users ADD note text DEFAULT 'secret note', ADD CONSTRAINT short CHECK (length(username) < 10)")
    id = db.auth.signup("ann@example.com")
    body = {"userId": id, "email": "ann@example.com", "username": "x" * 20}
    with expect_error("23514", detail='"short"') as caught:
        as_user(db, id, body)
    assert "secret" not in str(caught.error)
    with expect_error("23514", detail="secret note", hint=False):
        register(db, body)
    db.sql("CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'secret %%', NEW USING DETAIL = 'secret'; END $$", [])
    db.sql("CREATE TRIGGER no BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.no()")
    with expect_error("P0001", "could not be written") as caught:
        as_user(db, id, {**body, "username": "new"})
    assert "secret" not in str(caught.error)
    log = (db.server.folder / "server.log").read_text(errors="replace")
    assert "sync_user_registration() could not write the app user: secret" in log


@pytest.mark.parametrize("sqlstate", ["40001", "57P05", "25001", "53400", None])
def test_errors_that_are_passed_on_do_not_tell_either(db, sqlstate):
    """A trigger may raise them, or be running when the server does; the SQLSTATE is what a client needs."""
    does = f"RAISE EXCEPTION 'secret' USING ERRCODE = '{sqlstate}', DETAIL = 'secret', HINT = 'secret', TABLE = 'secret'"
    if sqlstate is None:
        does = "PERFORM pg_sleep(10) WHERE 'secret' <> ''"
    db.install()
    user = without_a_row(db)
    db.sql(
        f"""CREATE FUNCTION public.tells() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {does}; RETURN NEW; END$$;
            CREATE TRIGGER tells BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.tells()"""
    )
    with pytest.raises(psycopg.Error) as failure, db.session("authenticator").acting_as("authenticated", sub=user) as request:
        request.execute("SET LOCAL statement_timeout = '500ms'")
        request.one("SELECT onagui.sync_user_registration(%s)", [json.dumps({"userId": str(user), "email": "ann@example.com"})])
    diagnostic = failure.value.diag
    assert diagnostic.sqlstate == (sqlstate or "57014")
    told = [diagnostic.message_primary, diagnostic.message_detail, diagnostic.message_hint, diagnostic.context, diagnostic.table_name]
    assert "secret" not in str(told)


@pytest.mark.parametrize("column", ["username", "metadata"])
def test_what_is_mapped_from_what_users_cannot_write(db, column):
    """An application may read roles there: of their own they say nothing, whoever operates does."""
    db.install()
    db.sql("INSERT INTO onagui.sync_column VALUES ('metadata', 'column', 'raw_app_meta_data'), ('username', 'app_meta', 'handle')")
    user = db.auth.signup("ann@example.com", app_meta={"role": "reader", "handle": "ann"})
    given = {"username": "boss", "metadata": {"role": "admin"}}
    before = app_user(db, user)
    body = {"userId": str(user), "email": "ann@example.com", column: given[column]}
    as_user(db, user, body)
    assert app_user(db, user) == before
    register(db, body)
    assert app_user(db, user)[column] == given[column]
    # What comes from what they say of themselves stays theirs.
    db.sql("UPDATE onagui.sync_column SET source = 'user_meta', key = NULL WHERE app_column = 'metadata'")
    db.sql("UPDATE onagui.sync_column SET source = 'user_meta' WHERE app_column = 'username'")
    as_user(db, user, {"userId": str(user), "email": "ann@example.com", "username": "mine", "metadata": {"a": 1}})
    assert (app_user(db, user)["username"], app_user(db, user)["metadata"]) == ("mine", {"a": 1})


def test_a_row_that_a_trigger_holds_back(db):
    db.install()
    id = db.auth.signup("ann@example.com")
    db.sql("CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    db.sql("CREATE TRIGGER no BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.no()")
    with expect_error("55000"):
        as_user(db, id, {"userId": id, "email": "ann@example.com", "username": "new"})


def test_off_does_not_switch_off_explicit_calls(db):
    db.install()
    id = without_a_row(db)
    connection = db.connect("supabase_admin")
    connection.execute("SET onagui_sync.enabled = off")
    assert register(db, {"userId": id, "email": "ann@example.com"}, "service_role", connection)["data"]["action"] == "created"


def test_ping(db):
    db.install()
    for role in ("anon", "authenticated", "service_role"):
        with db.session("authenticator").acting_as(role) as request:
            answer = request.one("SELECT onagui.sync_ping()")
        assert answer["message"] == "User sync service is running"
        assert answer["version"] == db.one("SELECT extversion FROM pg_extension WHERE extname = 'onagui_sync'")
        assert answer["timestamp"]
    assert not db.one("SELECT has_function_privilege('supabase_auth_admin', 'onagui.sync_ping()', 'EXECUTE')")


def test_two_calls_at_once(db):
    db.install()
    id = without_a_row(db)
    body = json.dumps({"userId": str(id), "email": "ann@example.com", "username": "ann"})
    first = db.connect()
    with first.transaction():
        assert first.one(CALL, [body])["data"]["action"] == "created"
        second = db.in_background(CALL, [body]).wait_blocked(by=first)
    ((answer,),) = second.result()
    assert answer["data"]["action"] == "updated" and answer["data"]["user"]["username"] == "ann"
    assert db.one("SELECT count(*) FROM onagui.app_users", role="supabase_admin") == 1


def test_two_calls_link_at_once(db):
    db.install()
    id = without_a_row(db)
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [uuid.uuid4()])
    body = json.dumps({"userId": str(id), "email": "ann@example.com"})
    first = db.connect()
    with first.transaction():
        assert first.one(CALL, [body])["data"]["action"] == "linked"
        second = db.in_background(CALL, [body]).wait_blocked(by=first)
    ((answer,),) = second.result()
    assert answer["data"]["action"] == "updated"
    assert [entry["action"] for entry in audit(db)] == ["link"]


def test_a_call_while_the_confirmation_links(db):
    db.install()
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [uuid.uuid4()])
    id = db.auth.signup("ann@example.com", confirmed=False)
    body = json.dumps({"userId": str(id), "email": "ann@example.com"})
    auth = db.connect("supabase_auth_admin")
    with auth.transaction():
        auth.execute("UPDATE users SET email_confirmed_at = now() WHERE id = %s", [id])
        answer = db.one(CALL, [body])
        assert answer["data"]["action"] == "pending"
    assert db.one(CALL, [body])["data"]["action"] == "updated"


def test_a_confirmation_while_the_call_creates(db):
    db.install()
    db.sql("SELECT onagui.disable_sync()")
    id = db.auth.signup("ann@example.com", confirmed=False)
    db.sql("SELECT onagui.enable_sync()")
    first = db.connect()
    auth = db.connect("supabase_auth_admin")
    with first.transaction():
        assert first.one(CALL, [json.dumps({"userId": str(id), "email": "ann@example.com"})])["data"]["action"] == "created"
        second = db.in_background("UPDATE users SET email_confirmed_at = now() WHERE id = %s", [id], connection=auth).wait_blocked(by=first)
    second.result()
    assert db.one("SELECT count(*) FROM onagui.app_users", role="supabase_admin") == 1
    assert audit(db) == []


def test_a_call_whose_row_is_deleted_meanwhile(db):
    """It finds no row of the user's any more, and makes one."""
    db.install()
    id = db.auth.signup("ann@example.com")
    body = json.dumps({"userId": str(id), "email": "ann@example.com", "username": "annie"})
    other = db.connect()
    with other.transaction():
        other.execute("DELETE FROM onagui.app_users")
        running = db.in_background(CALL, [body]).wait_blocked(by=other)
    ((answer,),) = running.result()
    assert answer["data"]["action"] == "created" and answer["data"]["user"]["username"] == "annie"
    assert db.sql("SELECT id, username FROM onagui.app_users") == [(id, "annie")]


def test_read_only(db):
    db.install()
    id = without_a_row(db)
    connection = db.connect()
    connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute(CALL, [json.dumps({"userId": str(id), "email": "ann@example.com"})])


def test_roles_that_come_after_the_extension(db):
    """Roles belong to the whole cluster: renamed away, they do not exist."""
    admin = db.connect("supabase_admin")
    with pytest.raises(ZeroDivisionError), admin.transaction():
        for role in ("anon", "authenticated", "service_role"):
            admin.execute(f"ALTER ROLE {role} RENAME TO {role}_later")
        admin.execute("CREATE EXTENSION onagui_sync")
        for role in ("anon", "authenticated", "service_role"):
            admin.execute(f"ALTER ROLE {role}_later RENAME TO {role}")
        may = "SELECT has_function_privilege(%s, 'onagui.sync_user_registration(jsonb)', 'EXECUTE')"
        assert not admin.one(may, ["authenticated"])
        admin.execute("SELECT onagui.enable_sync()")
        assert [admin.one(may, [role]) for role in ("anon", "authenticated", "service_role")] == [False, True, True]
        # What has been taken away on purpose stays away.
        admin.execute("REVOKE EXECUTE ON FUNCTION onagui.sync_user_registration(jsonb) FROM authenticated")
        admin.execute("SELECT onagui.enable_sync()")
        assert not admin.one(may, ["authenticated"])
        raise ZeroDivisionError


@pytest.mark.parametrize("given", [{"username": "reggie"}, {"metadata": {"a": 1}}])
def test_a_link_with_what_the_body_gives_can_be_taken_back(db, given):
    db.install()
    app, id = mismatched(db, "reg@example.com")
    db.sql("UPDATE onagui.app_users SET email = 'Reg@example.com'", role="supabase_admin")
    before = content(db, "onagui.app_users")
    assert register(db, {"userId": str(id), "email": "reg@example.com", **given})["data"]["action"] == "linked"
    undo(db, db.one("SELECT max(audit_id) FROM onagui.sync_audit_log WHERE action = 'link'", role="supabase_admin"))
    assert content(db, "onagui.app_users") == before
    assert db.sql("SELECT id FROM onagui.app_users", role="supabase_admin") == [(app,)]
