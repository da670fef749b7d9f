"""Everything of contract section 4 on a hot standby."""

import pytest

import support
from support import wait_until

CALLS = [
    "SELECT * FROM onagui.user_sync_status",
    "SELECT * FROM onagui.sync_status(ARRAY['MISMATCHED', 'CONFLICT'])",
    "SELECT * FROM onagui.sync_status(p_email => 'ada@x.org', p_limit => 3)",
    "SELECT * FROM onagui.sync_summary()",
    "SELECT * FROM onagui.sync_health()",
]


@pytest.fixture(scope="module")
def primary():
    server = support.Server(settings={"autovacuum": "off"}).start()
    server.make_template()
    yield server
    assert server.remove() == []


@pytest.fixture(scope="module")
def standby(primary):
    server = support.Server(primary.major, settings={"hot_standby": "on"})
    primary.run("pg_basebackup", "--pgdata", server.folder / "data", "--host", primary.environment["PGHOST"],
                "--port", primary.environment["PGPORT"], "--username", "supabase_admin", "--write-recovery-conf", "--checkpoint=fast")
    server.start()
    yield server
    assert server.remove() == []


def test_all_of_it_reads_on_a_hot_standby(primary, standby):
    db = primary.database()
    db.install()
    db.sql("SELECT onagui.disable_sync()")
    db.sql("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), n || '@x.org' FROM unnest('{ada,bob,eve}'::text[]) n")
    for name in ("ada", "bob", "dan"):
        db.auth.signup(f"{name}@x.org")
    here = {call: db.sql(call) for call in CALLS}
    assert dict(here[CALLS[3]])["MISMATCHED"] == 2

    end = db.one("SELECT pg_current_wal_insert_lsn()", role="supabase_admin")
    with standby.connect() as connection:
        wait_until(lambda: connection.one("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [end]), "the standby has caught up")
    with standby.connect(db.name, "postgres") as connection:
        assert connection.one("SELECT pg_is_in_recovery()")
        for call in CALLS:
            for _ in range(2):
                assert sorted(map(str, connection.execute(call).fetchall())) == sorted(map(str, here[call]))
        assert "MISMATCHED (2)" in connection.one("SELECT onagui.sync_report()")
    db.drop()
