"""What the tests on a hot standby share."""

from support import Server, wait_until


def copy_of(primary):
    """A hot standby of it, not yet started."""
    standby = Server(primary.major, settings={"autovacuum": "off", "hot_standby": "on"})
    primary.run(
        "pg_basebackup", "--pgdata", standby.folder / "data", "--host", primary.environment["PGHOST"], "--port", primary.environment["PGPORT"],
        "--username", "supabase_admin", "--write-recovery-conf", "--checkpoint=fast",
    )
    return standby


def wait_for_replay(db, standby):
    """Until the standby has replayed all that the primary's database has committed."""
    position = db.one("SELECT pg_current_wal_insert_lsn()::text", role="supabase_admin")
    with standby.connect() as connection:
        wait_until(lambda: connection.one("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]), "the standby has caught up")
