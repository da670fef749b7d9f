"""What the server tests share: private servers, databases as Supabase has them, two sessions at once, expected errors."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg import sql as build
from psycopg.rows import dict_row, tuple_row

from auth_server import NULL, AuthServer  # noqa: F401 (NULL is for the tests)

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "private_server.sh"

#: Nothing may take longer: a test fails instead of hanging.
PATIENCE = 30


def wait_until(condition, what, patience=PATIENCE):
    """Returns the first true value of condition()."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {patience} s in vain until {what}")


#: A file system in memory, and how much of it the servers of a test run may come to fill, in bytes.
MEMORY = Path("/dev/shm")
FILL = 6 << 30


def in_memory():
    """MEMORY, where it has the room; there a database takes a tenth of the time that it takes on some disks."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK)):
        return None
    available = re.search(r"MemAvailable: *([0-9]+) kB", Path("/proc/meminfo").read_text())
    free = min(shutil.disk_usage(MEMORY).free, int(available[1]) << 10 if available else 0)
    return MEMORY if free > 2 * FILL else None


class Server:
    """A private server with a template database; `settings` are lines of postgresql.conf. What it writes outlives its processes
    either way; `on_disk` is for who measures."""

    TEMPLATE = "supabase"

    def __init__(self, major=None, *, settings=None, durable=False, on_disk=False, tcp=None):
        self.major = major or os.environ.get("PG", "15")
        self.number = int(self.major.partition("-")[0])
        self.settings = {"statement_timeout": f"{PATIENCE}s", "idle_in_transaction_session_timeout": f"{2 * PATIENCE}s"}
        self.settings.update(settings or {})
        self.durable = durable
        self.tcp = tcp
        self.folder = Path(tempfile.mkdtemp(prefix="onagui-", dir=None if durable or on_disk else in_memory()))
        self.environment = {}

    def _script(self, command, *arguments, **options):
        return subprocess.run([SCRIPT, command, self.folder, *arguments], check=True, stdin=subprocess.DEVNULL, text=True, **options)

    def start(self):
        arguments = [self.major]
        if self.durable:
            arguments.append("--durable")
        if self.tcp:
            arguments += ["--tcp", str(self.tcp)]
        for name, value in self.settings.items():
            arguments += ["-c", f"{name}={value}"]
        self._script("start", *arguments)
        lines = self._script("env", stdout=subprocess.PIPE).stdout.splitlines()
        self.environment = dict(line.split("=", 1) for line in lines)
        return self

    def stop(self, mode="fast"):
        self._script("stop", mode)

    def kill(self):
        """Kills all of its processes, the one first that would start the others again."""
        postmaster = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        pids = [postmaster, *map(int, children)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all of the server's processes are gone")

    def is_up(self):
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True

    def remove(self):
        """Stops it, throws it away, and gives back what a reader of its log would be worried about."""
        self.stop()
        log = (self.folder / "server.log").read_text(errors="replace")
        self._script("remove")
        return [line for line in log.splitlines() if re.search(r"PANIC:|TRAP:|terminated by signal|\] XX000 .*(ERROR|WARNING|PANIC):", line)]

    @property
    def bin(self):
        return Path(self.environment["ONAGUI_BIN"])

    def program(self, name, *arguments, **options):
        """Runs one of PostgreSQL's own programs (pg_dump, psql, ...) against this server."""
        environment = {**os.environ, **{k: v for k, v in self.environment.items() if k.startswith("PG")}}
        options = {"check": True, "stdout": subprocess.PIPE, "text": True, "timeout": 4 * PATIENCE, "env": environment, **options}
        return subprocess.run([self.bin / name, *map(str, arguments)], **options)

    def run(self, name, *arguments):
        """One of PostgreSQL's programs that touches a data directory (pg_basebackup, pg_ctl, ...), as the server's user."""
        self._script("run", name, *map(str, arguments), timeout=4 * PATIENCE)

    def connect(self, dbname="postgres", role="supabase_admin", **options):
        return Connection.connect(
            host=self.environment["PGHOST"], port=self.environment["PGPORT"], dbname=dbname, user=role, autocommit=True, **options
        )

    def make_template(self):
        with self.connect() as connection:
            connection.execute(build.SQL("CREATE DATABASE {}").format(build.Identifier(self.TEMPLATE)))
        with self.connect(self.TEMPLATE) as connection:
            connection.execute((HERE / "fixtures" / "supabase.sql").read_text())

    def database(self, name=None, template=TEMPLATE):
        name = name or f"t_{uuid.uuid4().hex[:12]}"
        with self.connect() as connection:
            connection.execute(build.SQL("CREATE DATABASE {} TEMPLATE {}").format(build.Identifier(name), build.Identifier(template)))
            # Rights on a database are not copied with it.
            connection.execute(build.SQL("GRANT ALL ON DATABASE {} TO postgres").format(build.Identifier(name)))
        return Database(self, name)


    def odd_database(self, options):
        """One that is not a copy of the template, because encoding or locale are others."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with self.connect() as connection:
            connection.execute(build.SQL(f"CREATE DATABASE {{}} TEMPLATE template0 {options}").format(build.Identifier(name)))
            # Where the database has no encoding to speak of, the client's counts.
            connection.execute(build.SQL("ALTER DATABASE {} SET client_encoding = 'UTF8'").format(build.Identifier(name)))
        with self.connect(name) as connection:
            connection.execute((HERE / "fixtures" / "supabase.sql").read_text())
        return Database(self, name)


class Notice(NamedTuple):
    """A NOTICE, WARNING, ... of the server."""

    severity: str
    sqlstate: str
    message: str
    detail: str
    hint: str
    context: str

    @classmethod
    def of(cls, said):
        severity = said.severity_nonlocalized
        return cls(severity, said.sqlstate, said.message_primary, said.message_detail, said.message_hint, said.context)


class Connection(psycopg.Connection):
    """A connection that collects what the server says."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.notices = []
        # The texts are gone once the handler has returned.
        self.add_notice_handler(lambda said: self.notices.append(Notice.of(said)))

    @property
    def warnings(self):
        return [notice for notice in self.notices if notice.severity == "WARNING"]

    def one(self, query, params=None):
        """The only value of the only row."""
        rows = self.execute(query, params).fetchall()
        assert len(rows) == 1 and len(rows[0]) == 1, f"expected one value: {rows}"
        return rows[0][0]

    @contextlib.contextmanager
    def acting_as(self, role, **claims):
        """As PostgREST does it: one transaction as an API role, with the claims of the caller's token."""
        with self.transaction():
            self.execute(build.SQL("SET LOCAL ROLE {}").format(build.Identifier(role)))
            self.execute("SELECT set_config('request.jwt.claims', %s, true)", [json.dumps({"role": role, **claims}, default=str)])
            yield self


class Database:
    """One database of a test. Keeps a connection for each role, so that plans live on from call to call, as they do in a pool."""

    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.auth = AuthServer(self)
        self._opened = []
        self._kept = {}

    def connect(self, role="postgres", **options):
        """A new connection, autocommit, logged in as the role; closed with the database."""
        connection = self.server.connect(self.name, role, **options)
        self._opened.append(connection)
        return connection

    def session(self, role="postgres"):
        """The connection that sql() uses for this role."""
        if role not in self._kept or self._kept[role].closed:
            self._kept[role] = self.connect(role)
        return self._kept[role]

    def sql(self, query, params=None, role="postgres", rows=tuple_row):
        """Runs it and gives back the rows, if it has any, as tuples."""
        with self.session(role).cursor(row_factory=rows) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall() if cursor.description else None

    def rows(self, query, params=None, role="postgres"):
        """The rows as dicts."""
        return self.sql(query, params, role, rows=dict_row)

    def one(self, query, params=None, role="postgres"):
        """The only value of the only row."""
        return self.session(role).one(query, params)

    @property
    def notices(self):
        return [notice for connection in self._opened for notice in connection.notices]

    @property
    def warnings(self):
        return [warning for connection in self._opened for warning in connection.warnings]

    def install(self, app_users=True):
        """CREATE EXTENSION as a migration does it, with the standard table on demand."""
        self.sql("CREATE EXTENSION onagui_sync")
        if app_users:
            self.sql("SELECT onagui.create_app_users()")
        return self

    def require(self, extension):
        """Creates an extension of contrib. The servers of the side majors come without: the test is skipped there."""
        available = self.one("SELECT count(*) FROM pg_available_extensions WHERE name = %s", [extension])
        if not available and self.server.number in (16, 18):
            pytest.skip(f"this build of PostgreSQL {self.server.major} has no {extension}")
        self.sql(build.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(build.Identifier(extension)), role="supabase_admin")

    def ignore_case(self):
        """Creates the collation "insensitive", to which capitals and small letters are the same. Some builds come without ICU."""
        try:
            self.sql("CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        except psycopg.errors.FeatureNotSupported:
            if self.server.number == 15:
                raise
            pytest.skip(f"this build of PostgreSQL {self.server.major} has no ICU")

    def in_background(self, query, params=None, role="postgres", connection=None):
        """Starts it in a session of its own (or in the given one) and returns at once."""
        return Background(self, connection or self.connect(role), query, params)

    def disconnect(self):
        for connection in self._opened:
            connection.close()

    def drop(self):
        self.disconnect()
        with self.server.connect() as connection:
            connection.execute(build.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(build.Identifier(self.name)))


class Background:
    """A statement that runs while the test goes on: b = db.in_background(...); b.wait_blocked(); ...; b.result()."""

    def __init__(self, database, connection, query, params):
        self.database = database
        self.connection = connection
        self.pid = connection.info.backend_pid
        self._rows = None
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(query, params), daemon=True)
        self._thread.start()

    def _run(self, query, params):
        try:
            cursor = self.connection.execute(query, params)
            self._rows = cursor.fetchall() if cursor.description else None
        except BaseException as error:  # handed on by result()
            self._error = error

    @property
    def running(self):
        return self._thread.is_alive()

    def blocked_by(self):
        return self.database.one("SELECT pg_catalog.pg_blocking_pids(%s)", [self.pid], role="supabase_admin")

    def wait_blocked(self, by=None, patience=PATIENCE):
        """Until it waits for a lock (held by the given connection)."""

        def blocked():
            assert self.running, f"it was not blocked, it ended: {self._error or self._rows}"
            pids = self.blocked_by()
            return pids and (by is None or by.info.backend_pid in pids)

        wait_until(blocked, "the statement waits for a lock", patience)
        return self

    def cancel(self):
        self.connection.cancel()

    def result(self, patience=PATIENCE):
        """Its rows, or its error raised here."""
        self._thread.join(patience)
        if self.running:
            self.connection.cancel()
            raise AssertionError(f"the statement did not end within {patience} s")
        if self._error:
            raise self._error
        return self._rows


def audit(database, **filters):
    """The audit rows, oldest first, as dicts; each filter is a column's value."""
    where = build.SQL(" AND ").join(
        [build.SQL("TRUE")] + [build.SQL("{} = {}").format(build.Identifier(name), build.Placeholder(name)) for name in filters]
    )
    return database.rows(build.SQL("SELECT * FROM onagui.sync_audit_log WHERE {} ORDER BY audit_id").format(where), filters, role="supabase_admin")


class Caught:
    """What expect_error() has caught; `diag` is psycopg's."""

    error = None

    @property
    def diag(self):
        return self.error.diag


@contextlib.contextmanager
def expect_error(sqlstate, message=None, detail=True, hint=True):
    """The block must fail with this SQLSTATE, and with a DETAIL and a HINT unless told otherwise.

    message, detail and hint may be regular expressions that the texts have to contain.
    """
    caught = Caught()
    try:
        yield caught
    except psycopg.Error as error:
        caught.error = error
        said = error.diag
        assert error.sqlstate == sqlstate, f"expected {sqlstate}, got {error.sqlstate}: {error}"
        for name, expected, text in (
            ("message", message, said.message_primary),
            ("DETAIL", detail, said.message_detail),
            ("HINT", hint, said.message_hint),
        ):
            if expected:
                assert text, f"no {name}: {error}"
            if isinstance(expected, str):
                assert re.search(expected, text), f"{name} does not say {expected!r}: {text}"
    else:
        pytest.fail(f"no error where {sqlstate} was expected")
