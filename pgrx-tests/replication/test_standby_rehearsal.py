"""A rehearsal on a hot standby: the same answers as on the primary, and nothing is written."""

import subprocess

import pytest
from repairs import ADMIN, app_user, auth_user, duplicate, fix, mismatched
from support import SCRIPT, Database, Server, expect_error, wait_until


@pytest.fixture(scope="module")
def pair():
    primary = Server(settings={"autovacuum": "off", "wal_level": "replica"}).start()
    standby = Server(settings={"autovacuum": "off", "hot_standby": "on"})
    worries = []
    try:
        primary.make_template()
        copy(primary, standby)
        standby.start()
        yield primary, standby
    finally:
        for server in (standby, primary):
            if server.environment:
                worries += server.remove()
    assert not worries, "\n".join(worries)


def copy(primary, standby):
    target = standby.folder / "data"
    arguments = ["pg_basebackup", "-D", str(target), "-R", "-X", "stream", "-c", "fast"]
    subprocess.run([SCRIPT, "run", primary.folder, *arguments], check=True, stdin=subprocess.DEVNULL)


def test_rehearsal_on_a_standby(pair):
    primary, standby = pair
    db = primary.database()
    try:
        db.install()
        db.sql(
            """CREATE TABLE orders (n int, user_id uuid REFERENCES onagui.app_users, note text, UNIQUE (n, user_id));
               CREATE TABLE items (n int, buyer uuid, owner text, FOREIGN KEY (n, buyer) REFERENCES orders (n, user_id));
               SELECT onagui.register_reference('items', 'owner')"""
        )
        app, auth = duplicate(db, "dup@example.com")
        db.sql(f"INSERT INTO orders VALUES (1, '{app}'), (2, '{app}'), (1, '{auth}'); INSERT INTO items VALUES (1, '{app}', '{app}')")
        app, auth = mismatched(db, "ann@example.com")
        db.sql(f"INSERT INTO orders VALUES (1, '{app}'); INSERT INTO items VALUES (1, '{app}', '{app}'), (NULL, NULL, '{auth}')")
        auth_user(db, "missing@example.com")
        app_user(db, "old@example.com", auth_user(db, "mail@example.com"))
        there = Database(standby, db.name)
        # Commits are not waited for on these servers.
        db.sql("CHECKPOINT", role=ADMIN)
        position = db.one("SELECT pg_current_wal_lsn()::text", role=ADMIN)

        def caught_up():
            with standby.connect() as connection:
                return connection.one("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position])

        wait_until(caught_up, "the standby has it all")
        assert there.one("SELECT pg_is_in_recovery()")
        for policy in "error", "keep_auth", "keep_app":
            here = fix(db, None, apply=False, policy=policy)
            assert len(here) == 4 and fix(there, None, apply=False, policy=policy) == here
        assert fix(there, "dup@example.com", apply=False) == fix(db, "dup@example.com", apply=False)
        assert there.one("SELECT onagui.fix_user_id_mismatch('ann@example.com', false)").startswith("MANUAL: ")
        assert there.sql("SELECT outcome FROM onagui.fix_user_id(%s, %s)", [app, auth]) == [("planned",)]
        for call in "SELECT * FROM onagui.fix_user_ids(NULL, true)", "CALL onagui.fix_all_user_ids()", "SELECT onagui.undo_fix(1)":
            with expect_error("25006", detail=False, hint=False):
                there.sql(call)
        for connection in there._opened:
            connection.close()
    finally:
        db.drop()
