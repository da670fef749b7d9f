"""Everything that reads, on a hot standby; what writes gets the server's own answer there."""

import psycopg
import pytest
from standbys import wait_for_replay

from support import Database, expect_error, wait_until

READS = [
    "SELECT * FROM onagui.user_sync_status",
    "SELECT * FROM onagui.user_sync_status WHERE email LIKE 'a%%' ORDER BY email",
    "SELECT * FROM onagui.sync_status(ARRAY['MISMATCHED', 'CONFLICT'])",
    "SELECT * FROM onagui.sync_status(p_email => 'ada@x.org', p_limit => 3)",
    "SELECT * FROM onagui.sync_summary()",
    # Without the time in its head.
    "SELECT regexp_replace(onagui.sync_report(), '[0-9]{2}:[0-9]{2}', '')",
    "SELECT * FROM onagui.sync_health()",
    "SELECT * FROM onagui.fix_user_ids()",
    "SELECT onagui.fix_user_id_mismatch('ada@x.org', false)",
    "SELECT * FROM onagui.sync_audit_log",
    "SELECT onagui.sync_ping() ->> 'version'",
]

WRITES = [
    "INSERT INTO auth.users (id) VALUES (gen_random_uuid())",
    "SELECT * FROM onagui.fix_user_ids(NULL, true)",
    "SELECT onagui.fix_user_id_mismatch('ada@x.org')",
    "SELECT * FROM onagui.fix_user_id(%(app)s, %(auth)s, true)",
    "CALL onagui.fix_all_user_ids()",
    "SELECT onagui.undo_fix(1)",
    "SELECT onagui.prune_audit('1 day')",
    "SELECT onagui.register_reference('public.notes', 'owner')",
    "SELECT onagui.enable_sync()",
    "SELECT onagui.enable_sync(p_always => true)",
    "SELECT onagui.sync_user_registration(jsonb_build_object('userId', %(auth)s::text, 'email', 'ada@x.org'))",
]

#: Here the table is there already, and the triggers are not.
NOTHING_TO_WRITE = ["SELECT onagui.create_app_users()", "SELECT onagui.disable_sync()"]


@pytest.fixture
def town(primary):
    """Some in step, some not; ada's two ids."""
    db = primary.database()
    db.install()
    db.sql("SELECT onagui.disable_sync(); CREATE TABLE public.notes (owner uuid)")
    db.sql("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), n || '@x.org' FROM unnest('{ada,bob,eve}'::text[]) n")
    for name in ("ada", "bob", "dan"):
        db.auth.signup(f"{name}@x.org")
    yield db
    db.drop()


def there(town, standby):
    wait_for_replay(town, standby)
    return Database(standby, town.name)


def answers(connection):
    return {call: sorted(map(str, connection.execute(call).fetchall())) for call in READS}


def test_all_that_reads(town, standby):
    here = answers(town.session())
    assert dict(town.sql(READS[4]))["MISMATCHED"] == 2
    db = there(town, standby)
    assert db.one("SELECT pg_is_in_recovery()")
    session = db.session()
    for _ in range(2):
        assert answers(session) == here
    for transaction in "READ ONLY", "ISOLATION LEVEL REPEATABLE READ READ ONLY":
        session.execute(f"BEGIN TRANSACTION {transaction}")
        assert answers(session) == here
        session.execute("COMMIT")
    assert "MISMATCHED (2)" in db.one("SELECT onagui.sync_report()", role="postgres")
    # And as those who come through the API.
    with db.session("authenticator").acting_as("service_role") as api:
        assert answers(api) == here
    with db.session("authenticator").acting_as("anon") as api:
        assert api.one("SELECT onagui.sync_ping() ->> 'message'") == "User sync service is running"
    db.disconnect()


def test_what_writes_is_refused_by_the_server(town, standby):
    db = there(town, standby)
    ids = {"app": town.one("SELECT id FROM onagui.app_users WHERE email = 'ada@x.org'")}
    ids["auth"] = town.one("SELECT id FROM auth.users WHERE email = 'ada@x.org'")
    session = db.session("supabase_admin")
    before = answers(session)
    for call in WRITES:
        with expect_error("25006", "^cannot execute .* (in a read-only transaction|during recovery)$", detail=False, hint=False):
            session.execute(call, ids)
    for call in NOTHING_TO_WRITE:
        assert session.one(call).startswith("OK")
    # In the middle of a transaction that has read.
    with expect_error("25006", detail=False, hint=False):
        with session.transaction():
            assert session.execute(READS[0]).fetchall()
            session.execute(WRITES[1])
    assert answers(session) == before
    assert session.warnings == []
    db.disconnect()


def test_a_table_that_changes_under_a_session_of_the_standby(town, standby):
    db = there(town, standby)
    before = db.one("SELECT count(*) FROM onagui.sync_status()")
    town.sql("ALTER TABLE onagui.app_users RENAME TO others; ALTER TABLE public.notes ADD FOREIGN KEY (owner) REFERENCES onagui.others")
    wait_for_replay(town, standby)
    for call in READS[:6] + READS[7:9]:
        with expect_error("42P01"):
            db.sql(call)
    assert ("tables", "fail") in db.sql("SELECT check_name, status FROM onagui.sync_health()")
    town.sql("ALTER TABLE onagui.others RENAME TO app_users")
    id = town.one("SELECT id FROM onagui.app_users WHERE email = 'ada@x.org'")
    town.sql("INSERT INTO public.notes VALUES (%s)", [id])
    wait_for_replay(town, standby)
    assert db.one("SELECT count(*) FROM onagui.sync_status()") == before
    assert db.rows("SELECT * FROM onagui.fix_user_ids(ARRAY['ada@x.org'])")[0]["rows_changed"] == 1
    db.disconnect()


def test_a_read_in_the_way_of_the_replay_ends_as_any_other(town, standby):
    with standby.connect() as admin:
        admin.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")
        admin.execute("SELECT pg_reload_conf()")
    db = there(town, standby)
    session = db.session()
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute(READS[0])
    town.sql("ALTER TABLE onagui.app_users ADD extra int")

    def cancelled():
        try:
            session.execute(READS[0])
        except psycopg.Error as error:
            return str(error)

    try:
        assert "conflict with recovery" in wait_until(cancelled, "the replay cancels it")
    finally:
        # Other tests read on this standby, too.
        with standby.connect() as admin:
            admin.execute("ALTER SYSTEM RESET max_standby_streaming_delay")
            admin.execute("SELECT pg_reload_conf()")
    db.disconnect()
    assert db.sql(READS[4])
    db.disconnect()


def test_a_standby_that_becomes_the_primary(primary, new_standby, town):
    db = there(town, new_standby)
    session = db.session("supabase_admin")
    answers(session)
    session.execute("SELECT pg_promote()")
    # The session that has read goes on to write.
    session.execute("SELECT onagui.enable_sync()")
    zoe = db.auth.signup("zoe@x.org")
    assert session.one("SELECT email FROM onagui.app_users WHERE id = %s", [zoe]) == "zoe@x.org"
    rows = session.execute("SELECT outcome FROM onagui.fix_user_ids(NULL, true)").fetchall()
    assert rows == [("done",)] * 3
    db.disconnect()
