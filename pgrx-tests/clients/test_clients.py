"""The README's calls with the real supabase-js, through the real PostgREST, after sign-ups at an Auth server."""

import uuid

import pytest
from support import audit

SERVICE = {"role": "service_role"}
OWN_ROW = """
    ALTER TABLE onagui.app_users ENABLE ROW LEVEL SECURITY;
    GRANT SELECT ON onagui.app_users TO authenticated;
    CREATE POLICY own_row ON onagui.app_users FOR SELECT TO authenticated USING (id = (SELECT auth.uid()));
"""


@pytest.fixture
def api(gateway, remote):
    remote.install()
    remote.sql(OWN_ROW)
    return gateway()


def app_users(db):
    return db.rows("SELECT * FROM onagui.app_users ORDER BY email", role="supabase_admin")


def state(db):
    return db.one("SELECT array_agg(a::text ORDER BY a.id) FROM onagui.app_users a", role="supabase_admin"), len(audit(db))


def needs(db, function):
    if not db.one("SELECT to_regproc(%s) IS NOT NULL", [f"onagui.{function}"]):
        pytest.skip(f"there is no onagui.{function}() yet")


def test_sign_up_alone_is_enough(api, remote):
    ann = api.sign_up("Ann@Example.com", "ann")
    (row,) = app_users(remote)
    assert (str(row["id"]), row["email"], row["username"], row["full_name"]) == (ann["user"]["id"], "ann@example.com", "ann", "Ann Example")
    assert row["metadata"]["username"] == "ann"
    answer = api.snippet("Read one's own row", session=ann["session"])
    assert answer["data"] == {"id": ann["user"]["id"], "email": "ann@example.com", "username": "ann"}


def test_only_ones_own_row_is_seen(api, remote):
    ann, bob = api.sign_up("ann@example.com"), api.sign_up("bob@example.com")
    answer = api.call("supabase.from('app_users').select('id')", session=bob["session"])
    assert answer["data"] == [{"id": bob["user"]["id"]}]
    answer = api.call("supabase.from('app_users').select('id')")
    assert answer["error"]["code"] == "42501"
    assert ann["user"]["id"] != bob["user"]["id"]


def test_an_existing_app_user_is_linked_once_the_mail_is_confirmed(api, remote):
    old = uuid.uuid4()
    remote.sql("CREATE TABLE onagui.roles (user_id uuid REFERENCES onagui.app_users, role text)")
    remote.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'Boss@Example.com', 'boss')", [old])
    remote.sql("INSERT INTO onagui.roles VALUES (%s, 'admin')", [old])
    ann = api.sign_up("boss@example.com", "stranger", waits=True)
    id = uuid.UUID(ann["user"]["id"])
    assert remote.sql("SELECT user_id FROM onagui.roles") == [(old,)]
    assert [entry["action"] for entry in audit(remote)] == ["pending"]
    answer = api.snippet("Register anybody, on a server", user={"id": id, "email": "boss@example.com"})
    assert answer["data"]["data"] == {"action": "pending", "user": None}
    assert remote.sql("SELECT user_id FROM onagui.roles") == [(old,)]
    api.confirm("boss@example.com")
    assert remote.sql("SELECT user_id FROM onagui.roles") == [(id,)]
    (row,) = app_users(remote)
    assert (row["id"], row["username"]) == (id, "boss")


def test_a_changed_email_is_followed(api, remote):
    ann = api.sign_up("ann@example.com")
    answer = api.snippet("Change the e-mail", session=ann["session"], newEmail="ann@example.org", waits=True)
    assert not answer["error"], answer
    assert app_users(remote)[0]["email"] == "ann@example.com"
    api.confirm("ann@example.org")
    (row,) = app_users(remote)
    assert (str(row["id"]), row["email"]) == (ann["user"]["id"], "ann@example.org")


def test_a_taken_username(api, remote):
    api.sign_up("ann@example.com", "ann")
    other = api.sign_up("ann@example.org", "ann")
    assert [row["username"] for row in app_users(remote)] == ["ann", f"ann_{other['user']['id'][:8]}"]
    answer = api.snippet("Register oneself", session=other["session"], user=other["user"], username="ann")
    assert (answer["error"]["code"], answer["data"]) == ("23505", None)
    status, body = api.raw("/rpc/sync_user_registration", {"userId": other["user"]["id"], "email": "ann@example.org", "username": "ann"}, **SERVICE)
    assert (status, body["code"]) == (409, "23505") and body["hint"] and body["details"]


def test_registration_as_the_user(api, remote):
    ann = api.sign_up("ann@example.com", "ann")
    answer = api.snippet("Register oneself", session=ann["session"], user=ann["user"], username="annie")
    assert answer["error"] is None
    assert (answer["data"]["success"], answer["data"]["data"]["action"]) == (True, "updated")
    user = answer["data"]["data"]["user"]
    assert (user["id"], user["username"], user["metadata"]) == (ann["user"]["id"], "annie", {"theme": "dark"})


def test_registration_as_service_role(api, remote):
    remote.sql("SELECT onagui.disable_sync()")
    ann = api.sign_up("ann@example.com", "ann")
    assert app_users(remote) == []
    answer = api.snippet("Register anybody, on a server", user=ann["user"])
    assert answer["data"]["message"] == "User created successfully"
    assert answer["data"]["data"]["action"] == "created"
    assert str(app_users(remote)[0]["id"]) == ann["user"]["id"]
    answer = api.snippet("Register anybody, on a server", user=ann["user"])
    assert answer["data"]["data"]["action"] == "updated"


def test_registration_is_refused(api, remote):
    ann, bob = api.sign_up("ann@example.com"), api.sign_up("bob@example.com")
    before = state(remote)
    body = {"userId": ann["user"]["id"], "email": "ann@example.com"}
    bobs = {"role": "authenticated", "sub": bob["user"]["id"]}
    answer = api.snippet("Register oneself", session=bob["session"], user=ann["user"], username="mine")
    assert answer["error"]["code"] == "42501"
    refused = [
        api.raw("/rpc/sync_user_registration", body, **bobs),
        api.raw("/rpc/sync_user_registration", {**body, "userId": uuid.uuid4()}, **bobs),
    ]
    assert refused[0] == refused[1] and refused[0][0] == 403 and refused[0][1]["code"] == "42501"
    # Without a token nobody is let in at all.
    status, said = api.raw("/rpc/sync_user_registration", body)
    assert (status, said["code"]) == (401, "42501")
    status, said = api.raw("/rpc/sync_user_registration", body, role="authenticated")
    assert (status, said["code"]) == (403, "42501")
    answer = api.snippet("Register oneself", user=ann["user"], username="mine")
    assert answer["error"]["code"] == "42501"
    assert state(remote) == before


@pytest.mark.parametrize(
    "body",
    ["{}", "[]", '"x"', "5", "null", '{"userId": "{id}"}', '{"userId": "x", "email": "ann@example.com"}', '{"userId": "{id}", "email": "other@example.com"}',
     '{"userId": "{id}", "email": "ann@example.com", "metadata": 5}', '{"userId": "00000000-0000-4000-8000-000000000000", "email": "ann@example.com"}'],
)  # fmt: skip
def test_bad_bodies(api, remote, body):
    ann = api.sign_up("ann@example.com")
    before = state(remote)
    status, said = api.raw("/rpc/sync_user_registration", body.replace("{id}", ann["user"]["id"]), **SERVICE)
    assert status in (400, 404), said
    # What is no JSON object PostgREST may refuse by itself.
    assert said["code"] == "22023" and said["message"] and said["details"] and said["hint"], said
    assert state(remote) == before


def test_body_that_is_no_json(api, remote):
    status, said = api.raw("/rpc/sync_user_registration", "{", **SERVICE)
    assert status in (400, 404), said


def test_ping(api):
    for claims in ({}, {"role": "authenticated"}, SERVICE):
        assert api.raw("/rpc/sync_ping", {}, **claims)[1]["message"] == "User sync service is running"
    assert api.snippet("Is it there")["data"]["version"]
    assert api.raw("/rpc/sync_ping", method="GET")[0] == 200


@pytest.fixture
def out_of_step(api, remote):
    """One auth user and one app user with the same e-mail and different ids."""
    remote.sql("SELECT onagui.disable_sync()")
    ann = api.sign_up("ann@example.com")
    remote.sql("SELECT onagui.enable_sync()")
    remote.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [uuid.uuid4()])
    return ann


def test_operators_calls(api, remote, out_of_step):
    id = out_of_step["user"]["id"]
    (row,) = api.snippet("Who is out of step")["data"]
    assert (row["sync_status"], row["auth_user_id"]) == ("MISMATCHED", id)
    assert list(row)[:7] == ["email", "auth_user_id", "app_user_id", "sync_status", "auth_created_at", "app_created_at", "detail"]
    (plan,) = api.snippet("What would be done", email="ann@example.com")["data"]
    assert (plan["action"], plan["outcome"]) == ("rekey", "planned")
    (done,) = api.snippet("Fix some", email="ann@example.com")["data"]
    assert (done["outcome"], done["new_app_user_id"]) == ("done", id)
    assert api.snippet("Who is out of step")["data"] == []
    assert api.snippet("Fix one", email="ann@example.com")["data"].startswith("OK:")


def test_fix_one(api, remote, out_of_step):
    assert api.snippet("Fix one", email="ann@example.com")["data"].startswith("FIXED:")
    answer = api.snippet("Fix one", email="nobody@example.com")
    assert answer["error"]["code"] == "P0002" and answer["error"]["hint"]
    assert api.raw("/rpc/fix_user_id_mismatch", {"p_email": "nobody@example.com"}, **SERVICE)[0] == 500


def test_report(api, remote, out_of_step):
    needs(remote, "sync_report")
    assert "ann@example.com" in api.snippet("The report")["data"]


def test_health(api, remote, out_of_step):
    needs(remote, "sync_health")
    rows = api.snippet("Is all well")["data"]
    assert rows and set(rows[0]) >= {"check_name", "status", "detail", "remedy"}


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_operators_calls_are_refused_to_users(api, remote, out_of_step, role):
    claims = {"role": "authenticated", "sub": out_of_step["user"]["id"]} if role == "authenticated" else {}
    before = state(remote)
    wanted = 403 if claims else 401
    for path in ("/user_sync_status", "/sync_audit_log", "/sync_known_id", "/sync_column", "/sync_reference"):
        status, said = api.raw(path, method="GET", **claims)
        assert (status, said["code"]) == (wanted, "42501"), path
    calls = {
        "fix_user_id_mismatch": {"p_email": "ann@example.com", "p_use_auth_id": True},
        "fix_user_ids": {"p_emails": ["ann@example.com"], "p_apply": True},
        "fix_user_id": {"p_app_user_id": uuid.uuid4(), "p_auth_user_id": uuid.uuid4()},
        "undo_fix": {"p_audit_id": 1},
        "sync_status": {},
        "sync_summary": {},
        "sync_report": {},
        "sync_health": {},
        "enable_sync": {},
        "disable_sync": {},
        "create_app_users": {},
        "prune_audit": {"p_older_than": "0"},
        "register_reference": {"p_table": "onagui.app_users", "p_column": "username"},
        "unregister_reference": {"p_table": "onagui.app_users", "p_column": "username"},
    }
    for name, args in calls.items():
        if remote.one("SELECT to_regproc(%s) IS NOT NULL", [f"onagui.{name}"]):
            status, said = api.raw(f"/rpc/{name}", args, **claims)
            assert (status, said["code"]) == (wanted, "42501"), name
    assert state(remote) == before


def test_service_role_does_not_configure(api, remote):
    for name, args in {
        "enable_sync": {},
        "disable_sync": {},
        "create_app_users": {},
        "prune_audit": {"p_older_than": "0"},
        "register_reference": {"p_table": "onagui.app_users", "p_column": "username"},
        "unregister_reference": {"p_table": "onagui.app_users", "p_column": "username"},
    }.items():
        assert api.raw(f"/rpc/{name}", args, **SERVICE)[0] == 403, name


def test_every_block_of_the_readme_is_run_here(api):
    text = (__import__("pathlib").Path(__file__)).read_text() + "Sign up Clients"
    missing = [title for title in api.tell(titles=True) if title not in text]
    assert not missing, missing
