"""Databases in which a released version is installed, though the library is the present one."""

import pytest

from versions import publish


@pytest.fixture(scope="session")
def released(server):
    publish(server)
    return server


@pytest.fixture
def old(released, db):
    """A database that was set up by 0.1.0."""
    db.sql("CREATE EXTENSION onagui_sync VERSION '0.1.0'")
    db.sql("SELECT onagui.create_app_users()")
    return db
