"""Fixtures of the server tests. One private server a worker, one fresh database a test."""

import pytest

import support


@pytest.fixture(scope="session")
def server():
    """A private server of the major in the environment's PG, with the Supabase fixture as its template."""
    # A background worker inside the template would be in the way of each CREATE DATABASE.
    server = support.Server(settings={"autovacuum": "off"}).start()
    try:
        server.make_template()
        yield server
    finally:
        worries = server.remove()
    assert not worries, "the server log tells of:\n" + "\n".join(worries)


@pytest.fixture
def db(server):
    """A fresh database as Supabase has them, still without the extension: db.install() makes it."""
    database = server.database()
    yield database
    database.drop()
