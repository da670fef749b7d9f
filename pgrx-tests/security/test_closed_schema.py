"""Everything works where the application's own migration has made the schema, and PUBLIC may not use it."""

import json

import pytest
from repairs import app_user, auth_user, duplicate, mismatched


@pytest.fixture
def db(db):
    db.sql("CREATE SCHEMA onagui; GRANT USAGE ON SCHEMA onagui TO anon, authenticated, service_role")
    db.sql("CREATE EXTENSION onagui_sync; SELECT onagui.create_app_users()")
    assert not db.one("SELECT has_schema_privilege('public', 'onagui', 'USAGE')")
    return db


def acting_as(db, role, **claims):
    return db.session("postgres" if role == "postgres" else "authenticator").acting_as(role, **claims)


@pytest.mark.parametrize("role", ["service_role", "postgres", "authenticated"])
def test_registrations(db, role):
    id = auth_user(db, "ann@example.com")
    body = json.dumps({"userId": str(id), "email": "ann@example.com", "username": "ann"})
    with acting_as(db, role, sub=id) as caller:
        answers = [caller.one("SELECT onagui.sync_user_registration(%s)", [body]) for _ in range(2)]
    assert [answer["data"]["action"] for answer in answers] == ["created", "updated"]


@pytest.mark.parametrize("role", ["service_role", "postgres"])
def test_what_an_operator_calls(db, role):
    db.sql(
        """CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE, whose text, UNIQUE (user_id, whose));
           SELECT onagui.register_reference('notes', 'whose')"""
    )
    ann, bob = mismatched(db, "ann@example.com"), duplicate(db, "bob@example.com")
    auth_user(db, "cid@example.com")
    dan = auth_user(db, "dan@example.com")
    app_user(db, "old.dan@example.com", dan)
    db.sql("INSERT INTO notes VALUES (1, %s, %s), (2, %s, 'x'), (3, %s, 'x')", [ann[0], ann[0], *bob])
    with acting_as(db, role) as operator:
        for query in (
            "SELECT * FROM onagui.user_sync_status",
            "SELECT * FROM onagui.sync_status(p_email => 'ann@example.com')",
            "SELECT * FROM onagui.sync_summary()",
            "SELECT onagui.sync_report()",
            "SELECT * FROM onagui.sync_health()",
            "SELECT onagui.sync_ping()",
        ):
            assert operator.execute(query).fetchall(), query
        call = "SELECT action, outcome, audit_id FROM onagui.fix_user_ids(NULL, %s, 'keep_auth')"
        assert {outcome for _, outcome, _ in operator.execute(call, [False])} == {"planned"}
        done = operator.execute(call, [True]).fetchall()
        assert sorted(row[:2] for row in done) == [(action, "done") for action in ("create", "merge", "rekey", "update_email")]
        for audit_id in sorted((id for _, _, id in done), reverse=True):
            operator.execute("SELECT onagui.undo_fix(%s)", [audit_id])
        assert operator.one("SELECT outcome FROM onagui.fix_user_id(%s, %s)", ann) == "planned"
    # Outside a transaction, as it wants to be called.
    session = db.session("supabase_admin")
    session.execute(f"SET ROLE {role}")
    session.execute("CALL onagui.fix_all_user_ids(p_on_conflict => 'keep_app')")
    assert not session.execute("SELECT FROM onagui.user_sync_status WHERE sync_status <> 'SYNCED'").fetchall()


def test_sign_ups_and_what_configures(db):
    app = app_user(db, "ann@example.com")
    id = db.auth.signup("ann@example.com")
    assert db.sql("SELECT id FROM onagui.app_users") == [(id,)] and id != app
    for call in (
        "SELECT onagui.disable_sync()",
        "SELECT onagui.enable_sync(true)",
        "SELECT onagui.register_reference('onagui.app_users', 'username')",
        "SELECT onagui.unregister_reference('onagui.app_users', 'username')",
        "SELECT onagui.create_app_users()",
        "SELECT onagui.prune_audit('1 day')",
        "DROP EXTENSION onagui_sync",
    ):
        db.sql(call)
