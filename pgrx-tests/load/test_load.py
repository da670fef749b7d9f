"""Sixteen sessions sign up while a batch runs, the status is read and tables that refer to users are altered: no sign-up
fails, and everybody has their row or their record.

LOAD_SECONDS=300 goes on for longer; SEED=n chooses other sequences.
"""

import os
import time

import pytest

import support
import town
from crowd import Application, Batch, Client, Crowd, Fixing, SigningUp, Undoing

SECONDS = float(os.environ.get("LOAD_SECONDS", "8"))
SEED = int(os.environ.get("SEED", "1"))


class Reading(Client):
    # A rehearsal, when a column or a table goes between the look at it and the statement.
    ordinary = ("42703", "42P01")

    def once(self):
        self.connection.execute(
            self.random.choice(
                [
                    "SELECT * FROM onagui.sync_summary()",
                    "SELECT * FROM onagui.sync_status(ARRAY['MISMATCHED', 'CONFLICT'], p_limit => 50)",
                    "SELECT * FROM onagui.sync_status(p_email => 'mismatched1@example.com')",
                    "SELECT * FROM onagui.user_sync_status",
                    "SELECT onagui.sync_report()",
                    "SELECT * FROM onagui.sync_health()",
                    "SELECT * FROM onagui.fix_user_ids(NULL, false, 'error', 10)",
                ]
            )
        ).fetchall()
        self.did("look")
        self.crowd.over.wait(0.05)


class Altering(Client):
    """A migration after the other, each of which gives up rather than wait for long."""

    ordinary = ("40P01", "55P03", "57014")

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.count = 0
        self.connection.execute("SET lock_timeout = '1s'")
        self.connection.execute(
            """CREATE TABLE shop.extra (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid, note text);
               CREATE TABLE shop.unrelated (id int GENERATED ALWAYS AS IDENTITY, note text);
               INSERT INTO shop.extra (user_id) SELECT id FROM onagui.app_users LIMIT 20"""
        )

    def once(self):
        self.count += 1
        self.random.choice([self.column, self.index, self.key, self.table, self.truncate, self.app_column])(self.count)
        self.did("migration")
        self.crowd.over.wait(0.03)

    def run_all(self, *statements):
        with self.connection.transaction():
            for statement in statements:
                self.connection.execute(statement)

    def column(self, number):
        table = self.random.choice(["orders", "items", "teams", "members", "notes", "visits"])
        self.connection.execute(f"ALTER TABLE shop.{table} ADD COLUMN c{number} text DEFAULT 'x'")
        self.connection.execute(f"ALTER TABLE shop.{table} DROP COLUMN c{number}")

    def index(self, number):
        table = self.random.choice(["orders", "items", "visits"])
        how = self.random.choice(["", "CONCURRENTLY"])
        try:
            self.connection.execute(f"CREATE INDEX {how} i{number} ON shop.{table} (user_id, home)")
        finally:
            self.connection.execute(f"DROP INDEX IF EXISTS shop.i{number}")

    def key(self, number):
        """The rows it finds may refer to users who have got another id since."""
        self.run_all(
            "LOCK TABLE shop.extra, onagui.app_users IN SHARE ROW EXCLUSIVE MODE",
            "UPDATE shop.extra e SET user_id = NULL WHERE NOT EXISTS (SELECT FROM onagui.app_users u WHERE u.id = e.user_id)",
            f"ALTER TABLE shop.extra ADD CONSTRAINT k{number} FOREIGN KEY (user_id) REFERENCES onagui.app_users NOT VALID",
        )
        try:
            self.connection.execute(f"ALTER TABLE shop.extra VALIDATE CONSTRAINT k{number}")
        finally:
            self.connection.execute(f"ALTER TABLE shop.extra DROP CONSTRAINT IF EXISTS k{number}")

    def table(self, number):
        self.connection.execute(f"CREATE TABLE shop.new{number} (user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE)")
        self.connection.execute(f"INSERT INTO shop.new{number} SELECT id FROM onagui.app_users LIMIT 20 FOR KEY SHARE")
        if self.random.random() < 0.7:
            self.connection.execute(f"DROP TABLE shop.new{number}")

    def truncate(self, number):
        self.run_all("INSERT INTO shop.unrelated (note) SELECT 'x' FROM generate_series(1, 100)", "TRUNCATE shop.unrelated")

    def app_column(self, number):
        self.connection.execute(f"ALTER TABLE onagui.app_users ADD COLUMN a{number} int")
        self.connection.execute(f"ALTER TABLE onagui.app_users DROP COLUMN a{number}")


class UndoingAmidMigrations(Undoing):
    # A column or a table goes between the look at it and the statement: nothing is undone, and one tries again.
    ordinary = (*Undoing.ordinary, "42703", "42P01")


@pytest.fixture(scope="module")
def server():
    server = support.Server(settings={"autovacuum": "on", "autovacuum_naptime": "1s", "deadlock_timeout": "200ms"}).start()
    server.make_template()
    town.build(server, users=100)
    yield server
    worries = server.remove()
    assert not worries, "the server log tells of:\n" + "\n".join(worries)


def test_load(server):
    db = server.database(template="town")
    kinds = [*[SigningUp] * 16, Application, Application, Fixing, UndoingAmidMigrations, Batch, Batch, Reading, Reading, Altering]
    crowd = Crowd(db, SEED, kinds).start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and not crowd.errors:
        time.sleep(0.1)
    crowd.stop()
    print(f"{SECONDS} s, seed {SEED}: {len(crowd.signed_up)} sign-ups; {dict(crowd.done)}")
    failures = """SELECT actor, action, details #>> '{error,sqlstate}', details #>> '{error,message}', count(*)
                    FROM onagui.sync_audit_log WHERE action = 'failure' GROUP BY 1, 2, 3, 4"""
    print("recorded:", db.sql(failures, role="supabase_admin"))
    try:
        print("afterwards:", town.check(db, crowd))
        print("in the end:", town.finish(db, crowd))
    finally:
        db.drop()
