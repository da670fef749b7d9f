"""Databases in which a released version is installed, though the library is the present one."""

from pathlib import Path

import pytest

from versions import RELEASED


@pytest.fixture(scope="session")
def released(server):
    """Puts the frozen scripts where CREATE EXTENSION … VERSION finds them."""
    folder = Path(server.program("pg_config", "--sharedir").stdout.strip()) / "extension"
    for script in RELEASED.iterdir():
        there = folder / script.name
        # Another worker may be reading it.
        if not there.exists() or there.read_bytes() != script.read_bytes():
            scratch = folder / f".{script.name}.{server.folder.name}"
            scratch.write_bytes(script.read_bytes())
            scratch.rename(there)
    return server


@pytest.fixture
def old(released, db):
    """A database that was set up by 0.1.0."""
    db.sql("CREATE EXTENSION onagui_sync VERSION '0.1.0'")
    db.sql("SELECT onagui.create_app_users()")
    return db
