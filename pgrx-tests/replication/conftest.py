"""Two servers at once: the pair of a logical replication, and a primary with its hot standby."""

import pytest
from standbys import copy_of

from support import Server


def remove(servers):
    worries = [worry for server in servers if server.environment for worry in server.remove()]
    assert not worries, "\n".join(worries)


@pytest.fixture(scope="session")
def servers():
    """A publisher and a subscriber. What is decoded is streamed early; a worker that has failed is soon started again."""
    settings = {
        "autovacuum": "off",
        "wal_level": "logical",
        "logical_decoding_work_mem": "64kB",
        "wal_retrieve_retry_interval": "100ms",
        "max_prepared_transactions": "5",
    }
    started = []
    try:
        for _ in range(2):
            server = Server(settings=settings).start()
            started.append(server)
            server.make_template()
        yield started
    finally:
        remove(started)


@pytest.fixture
def pair(servers):
    """A publisher, and a subscriber with the extension."""
    publisher, subscriber = (server.database() for server in servers)
    name = subscriber.name
    try:
        subscriber.install()
        yield publisher, subscriber
    finally:
        subscriber.disconnect()
        admin = subscriber.session("supabase_admin")
        if admin.one("SELECT count(*) FROM pg_subscription WHERE subname = %s", [name]):
            admin.execute(f"DROP SUBSCRIPTION {name}")
        subscriber.drop()
        publisher.drop()


@pytest.fixture(scope="session")
def primary():
    server = Server(settings={"autovacuum": "off", "wal_keep_size": "1GB"}).start()
    try:
        server.make_template()
        yield server
    finally:
        remove([server])


@pytest.fixture(scope="session")
def standby(primary):
    server = copy_of(primary)
    try:
        yield server.start()
    finally:
        remove([server])


@pytest.fixture
def new_standby(primary):
    """One that the test may promote."""
    server = copy_of(primary)
    try:
        yield server.start()
    finally:
        remove([server])
