"""Nothing is resolved through the caller's search_path or from pg_temp, whoever calls."""

import json
import uuid

import pytest

from decoys import Decoys

CALLS = (
    "SELECT onagui.enable_sync(), onagui.enable_sync(true)",
    "SELECT onagui.create_app_users()",
    "SELECT onagui.sync_ping()",
    "SELECT * FROM onagui.sync_status()",
    "SELECT * FROM onagui.sync_status(ARRAY['MISMATCHED', 'SYNCED'], 'ann@example.com', 5)",
    "SELECT * FROM onagui.user_sync_status",
    "SELECT * FROM onagui.sync_summary()",
    "SELECT onagui.sync_report()",
    "SELECT * FROM onagui.sync_health()",
    "SELECT onagui.register_reference('public.soft'::pg_catalog.regclass, 'user_id')",
    "SELECT onagui.fix_user_id_mismatch('ann@example.com', false)",
    "SELECT * FROM onagui.fix_user_ids()",
    "SELECT * FROM onagui.fix_user_ids(NULL, true, 'keep_auth', NULL)",
    "SELECT onagui.undo_fix((SELECT pg_catalog.max(audit_id) FROM onagui.sync_audit_log))",
    "CALL onagui.fix_all_user_ids(1, 'keep_app')",
    "SELECT * FROM onagui.fix_user_id((SELECT id FROM onagui.app_users LIMIT 1), (SELECT id FROM onagui.app_users LIMIT 1), true)",
    "SELECT onagui.prune_audit('0'::pg_catalog.interval)",
    "SELECT onagui.unregister_reference('public.soft'::pg_catalog.regclass, 'user_id')",
    "SELECT onagui.unregister_reference('public', 'soft', 'user_id')",
    "SELECT onagui.disable_sync(), onagui.enable_sync()",
)


def prepared(db):
    db.install()
    db.sql("CREATE TABLE public.child (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED, note text, UNIQUE (user_id, note))")
    db.sql("CREATE TABLE public.soft (id int PRIMARY KEY, user_id text)")
    db.sql("SELECT onagui.disable_sync()")
    for name in ("ann", "bob", "cid"):
        db.auth.signup(f"{name}@example.com", {"username": name})
    bob = db.one("SELECT id FROM auth.users WHERE email = 'bob@example.com'")
    db.sql("SELECT onagui.enable_sync()")
    old, second = uuid.uuid4(), uuid.uuid4()
    db.sql(
        """INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com');""",
        [old],
    )
    db.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_username_key; DROP INDEX onagui.app_users_email_key")
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'bob@example.com'), (%s, 'bob@example.com')", [bob, second])
    db.sql("INSERT INTO public.child VALUES (1, %s, 'x'), (2, %s, 'x')", [bob, second])
    return bob


def hostile(connection, schema):
    connection.execute(f"SET search_path = {schema}, pg_temp, pg_catalog")


def temp_decoys(connection):
    """Tables and types that a statement could take for what it means."""
    names = "new_users old_users app_users users sync_audit_log sync_known_id sync_column sync_reference pg_class pg_constraint pg_trigger pg_index pg_attribute pg_extension apart wanted n"
    for name in names.split():
        connection.execute(f"CREATE TEMP TABLE {name} (id pg_catalog.int4, email pg_catalog.int4, auth_user_id pg_catalog.int4)")
    for name in ("uuid", "text", "jsonb", "oid", "timestamptz", "regclass", "name"):
        connection.execute(f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.bool")


@pytest.mark.parametrize("temporary", [False, True], ids=["schema", "pg_temp"])
def test_every_function(db, plain, temporary):
    bob = prepared(db)
    mallory = plain("mallory")
    db.sql(f"CREATE SCHEMA evil AUTHORIZATION {mallory}; GRANT USAGE ON SCHEMA evil TO PUBLIC", role="supabase_admin")
    decoys = Decoys(db, "evil", mallory)
    connection = db.connect("supabase_admin")
    # Seen before and after: with and without the plans of this session.
    if temporary:
        temp_decoys(connection)
    hostile(connection, "evil")
    for query in CALLS:
        name = query.partition("onagui.")[2].partition("(")[0].partition(" ")[0]
        if not db.one("SELECT to_regclass(%s) IS NOT NULL OR to_regproc(%s) IS NOT NULL", [f"onagui.{name}"] * 2):
            continue
        before = decoys.calls()
        connection.execute(query)
        assert decoys.calls() == before, query
    body = json.dumps({"userId": str(bob), "email": "bob@example.com", "username": "bobby", "metadata": {"a": 1}})
    before = decoys.calls()
    # The argument itself is the caller's affair.
    connection.execute("SELECT onagui.sync_user_registration(%s::pg_catalog.jsonb)", [body])
    with connection.transaction():
        connection.execute("SET LOCAL ROLE authenticated")
        connection.execute("SELECT pg_catalog.set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": str(bob)})])
        connection.execute("SELECT onagui.sync_user_registration(%s::pg_catalog.jsonb)", [body])
    assert decoys.calls() == before


@pytest.mark.parametrize("temporary", [False, True], ids=["schema", "pg_temp"])
def test_signups(db, plain, temporary):
    prepared(db)
    mallory = plain("mallory")
    db.sql(f"CREATE SCHEMA evil AUTHORIZATION {mallory}; GRANT USAGE ON SCHEMA evil TO PUBLIC", role="supabase_admin")
    decoys = Decoys(db, "evil", mallory)
    auth = db.connect("supabase_auth_admin")
    if temporary:
        temp_decoys(auth)
    hostile(auth, "evil")
    ids = [uuid.uuid4() for _ in range(4)]
    before = decoys.calls()
    auth.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'new@example.com')", [ids[0]])
    auth.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'a@b.c'), (%s, 'a@b.d'), (%s, NULL)", ids[1:])
    assert decoys.calls() == before
    # Comparisons of these statements' own are resolved by the caller; what the triggers do is not.
    auth.execute("UPDATE auth.users SET email_confirmed_at = pg_catalog.now() WHERE id OPERATOR(pg_catalog.=) %s", [ids[0]])
    auth.execute("UPDATE auth.users SET email = 'new@example.org' WHERE id OPERATOR(pg_catalog.=) %s", [ids[0]])
    auth.execute("DELETE FROM auth.users WHERE id OPERATOR(pg_catalog.=) %s", [ids[1]])
    assert decoys.calls() == before
    assert db.one("SELECT email FROM onagui.app_users WHERE id = %s", [ids[0]]) == "new@example.org"
    assert db.one("SELECT count(*) FROM onagui.sync_audit_log WHERE action = 'failure'") == 0
