"""README's chapters on more than one database, each command as it stands there."""

import re
import uuid
from pathlib import Path

import pytest
from standbys import wait_for_replay
from subscriptions import ADMIN, conninfo, wait_for_copy

from support import Database, wait_until

README = Path(__file__).resolve().parents[2] / "README.md"
WRITTEN = "host=auth.example.com dbname=postgres user=replicator password=..."


def blocks(chapter):
    """The SQL of a chapter, as (where, statements)."""
    text = README.read_text()
    text = text[text.index(f"\n## {chapter}\n") + 1 :]
    text = text[: text.index("\n## ")]
    return re.findall(r"```sql\n-- ([^\n]*)\n(.*?)```", text, flags=re.S)


@pytest.fixture
def application(servers):
    """A database with nothing in it, on the other server."""
    server = servers[1]
    name = f"app_{uuid.uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    database = Database(server, name)
    yield database
    if database.one("SELECT count(*) FROM pg_subscription WHERE subname = 'onagui_users'", role=ADMIN):
        database.sql("DROP SUBSCRIPTION onagui_users", role=ADMIN)
    database.drop()


@pytest.fixture
def auth(servers):
    database = servers[0].database()
    yield database
    database.drop()
    with servers[0].connect() as connection:
        connection.execute("DROP ROLE IF EXISTS replicator")


def test_auth_in_another_database(auth, application):
    before = auth.auth.signup("before@example.com", {"username": "before"})
    places = {"in the Auth server's database, as a superuser": auth, "in the application's database, as a superuser": application, "in the application's database": application}
    steps = blocks("Auth in another database")
    assert len(steps) == 3 and WRITTEN in steps[1][1]
    for where, text in steps:
        for statement in re.split(r";\s*\n", re.sub(r"--[^\n]*", "", text)):
            if statement.strip():
                places[where].session(ADMIN).execute(statement.replace(WRITTEN, conninfo(auth).replace(f"user={ADMIN}", "user=replicator")).encode())
        if "CREATE SUBSCRIPTION" in text:
            wait_for_copy(application)
    ann = auth.auth.signup("ann@example.com", {"username": "ann", "full_name": "Ann"})

    def users():
        return application.sql("SELECT id, email, username FROM onagui.app_users ORDER BY email", role=ADMIN)

    there = [(ann, "ann@example.com", "ann"), (before, "before@example.com", "before")]
    wait_until(lambda: users() == there, "both are there")
    assert dict(application.sql("SELECT sync_status, users FROM onagui.sync_summary() WHERE users > 0", role=ADMIN)) == {"SYNCED": 2}
    assert [row for row in application.sql("SELECT * FROM onagui.sync_health()", role=ADMIN) if row[1] != "ok"] == []
    # A changed e-mail that has been confirmed links, too.
    application.sql("DELETE FROM onagui.app_users WHERE id = %s", [ann], role=ADMIN)
    application.sql("INSERT INTO onagui.app_users (id, email) VALUES (gen_random_uuid(), 'bea@example.com')", role=ADMIN)
    auth.auth.change_email(ann, "bea@example.com")
    there = [(ann, "bea@example.com", "ann"), (before, "before@example.com", "before")]
    wait_until(lambda: users() == there, "the changed e-mail has linked")
    application_errors = application.sql("SELECT apply_error_count, sync_error_count FROM pg_stat_subscription_stats WHERE subname = 'onagui_users'", role=ADMIN)
    assert application_errors == [(0, 0)]


def test_on_a_read_replica(primary, standby):
    db = primary.database()
    db.install()
    db.auth.signup("ann@example.com")
    wait_for_replay(db, standby)
    there = Database(standby, db.name)
    [(where, text)] = blocks("When one machine is not enough")
    assert where == "on a read replica"
    for statement in text.strip().splitlines():
        there.sql(statement)
    there.disconnect()
    db.drop()
