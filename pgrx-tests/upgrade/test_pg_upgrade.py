"""pg_upgrade from PostgreSQL 15: everything is there afterwards, and goes on."""

import os
import subprocess
from pathlib import Path

import pytest

import support
from catalog import catalog, differences
from lived import goes_on, installer_may, is_all_there, live_in
from repairs import ADMIN
from versions import ROOT, publish, version_here

OLD = "15"


@pytest.fixture
def servers(server):
    """The old server, running, and the new one as initdb leaves it, stopped."""
    if server.number <= int(OLD):
        pytest.skip(f"pg_upgrade goes from {OLD} to a later major")
    config = ROOT / "target" / "pg" / OLD / "bin" / "pg_config"
    here = config.exists() and subprocess.run([config, "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
    if not here or not os.path.exists(f"{here}/extension/onagui_sync--{version_here()}.sql"):
        pytest.skip(f"onagui_sync {version_here()} has not been built for PostgreSQL {OLD}")
    old, new = support.Server(OLD).start(), support.Server(server.major).start()
    new.stop()
    yield old, new
    assert old.remove() + new.remove() == []


def data(server):
    return f"{server.environment['ONAGUI_HOME']}/data"


def make_known(old, new):
    """Minor releases since 15.20 mark columns, for themselves, in a way that the pg_dump of an older minor of the later major takes
    for an option of the user's. Administrators bring both to their latest minor first; a test has to take what there is."""
    if b"pg_attver" in (new.bin / "pg_dump").read_bytes():
        return
    for name in ("app", old.TEMPLATE):
        with old.connect(name) as admin:
            admin.execute("UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '%pg_attver%'")


def pg_upgrade(old, new):
    """As an administrator runs it; both are stopped before, the new one runs after."""
    make_known(old, new)
    old.stop()
    if new.number >= 18:
        # Its initdb switches checksums on, and pg_upgrade wants both to be alike.
        old.run("pg_checksums", "--enable", "--pgdata", data(old))
    try:
        new.run("pg_upgrade", "--username", ADMIN, "--old-bindir", old.bin, "--new-bindir", new.bin, "--old-datadir", data(old), "--new-datadir", data(new))
    except subprocess.CalledProcessError:
        for log in sorted(Path(data(new)).glob("pg_upgrade_output.d/*/log/pg_upgrade_dump_*.log")):
            print(log.read_text()[-2000:])
        raise
    new.start()


@pytest.mark.parametrize("version", ["the present", "0.1.0"])
def test_pg_upgrade(servers, version):
    old, new = servers
    old.make_template()
    app = old.database("app")
    if version == "the present":
        app.install()
    else:
        publish(old)
        app.sql(f"CREATE EXTENSION onagui_sync VERSION '{version}'")
        app.sql("SELECT onagui.create_app_users()")
    lived = live_in(app)
    for connection in app._opened:
        connection.close()

    pg_upgrade(old, new)
    app = support.Database(new, "app")
    if version != "the present":
        # pg_upgrade has written what is left to do.
        script = f"{new.environment['ONAGUI_HOME']}/update_extensions.sql"
        assert "onagui_sync" in open(script).read()
        new.program("psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", "app", "-f", script)
        lived["health"] = [row for row in lived["health"] if row[0] != "version"]
    is_all_there(app, lived)
    installer_may(app)
    with new.connect() as admin:
        admin.execute("CREATE DATABASE fresh OWNER postgres TEMPLATE template0")
    with new.connect("fresh") as admin:
        admin.execute((ROOT / "pgrx-tests" / "fixtures" / "supabase.sql").read_text())
    fresh = support.Database(new, "fresh").install()
    # The server makes whoever runs pg_upgrade the owner of every extension.
    found, new_install = catalog(app), catalog(fresh)
    assert [row.replace(f",{ADMIN},", ",postgres,") for row in found.pop("extension")] == new_install.pop("extension")
    assert differences(found, new_install) == {}
    goes_on(app, lived)
