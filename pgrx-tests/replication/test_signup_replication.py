"""Auth users that arrive by logical replication, between two private servers."""

import uuid

import pytest

from support import Server, audit, wait_until


@pytest.fixture(scope="module")
def servers():
    settings = {"autovacuum": "off", "wal_level": "logical"}
    started = []
    try:
        for _ in range(2):
            server = Server(settings=settings).start()
            started.append(server)
            server.make_template()
        yield started
    finally:
        worries = [worry for server in started for worry in server.remove()]
    assert not worries, "\n".join(worries)


@pytest.fixture
def pair(servers):
    """A publisher, and a subscriber with the extension."""
    publisher, subscriber = (server.database() for server in servers)
    name = subscriber.name
    try:
        subscriber.install()
        yield publisher, subscriber
    finally:
        admin = subscriber.session("supabase_admin")
        if admin.one("SELECT count(*) FROM pg_subscription WHERE subname = %s", [name]):
            admin.execute(f"DROP SUBSCRIPTION {name}")
        subscriber.drop()
        publisher.drop()


def subscribe(publisher, subscriber):
    publisher.sql("CREATE PUBLICATION users FOR TABLE auth.users", role="supabase_admin")
    environment = publisher.server.environment
    conninfo = f"host={environment['PGHOST']} port={environment['PGPORT']} dbname={publisher.name} user=supabase_admin"
    subscriber.sql(f"CREATE SUBSCRIPTION {subscriber.name} CONNECTION '{conninfo}' PUBLICATION users", role="supabase_admin")
    wait_until(
        lambda: subscriber.one("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel", role="supabase_admin"), "the first copy is done"
    )


def app_users(subscriber):
    return subscriber.sql("SELECT email FROM onagui.app_users ORDER BY email")


def wait_for(subscriber, emails):
    wait_until(lambda: app_users(subscriber) == [(email,) for email in emails], f"the app users are {emails}")


def test_replicated_users_are_synced(pair):
    publisher, subscriber = pair
    publisher.auth.signup("before@example.com")
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscribe(publisher, subscriber)
    wait_for(subscriber, ["before@example.com"])
    # One at a time, and many of one transaction.
    ann = publisher.auth.signup("ann@example.com", {"username": "ann"})
    wait_for(subscriber, ["ann@example.com", "before@example.com"])
    publisher.sql(
        "INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), 'm' || i || '@example.com' FROM generate_series(1, 3) i", role="supabase_auth_admin"
    )
    publisher.auth.change_email(ann, "anna@example.com")
    wait_for(subscriber, ["anna@example.com", "before@example.com", "m1@example.com", "m2@example.com", "m3@example.com"])
    publisher.auth.delete(ann)
    wait_until(
        lambda: subscriber.sql("SELECT auth_user_id FROM onagui.sync_known_id", role="supabase_admin") == [(ann,)], "the id is remembered"
    )
    assert [entry["action"] for entry in audit(subscriber)] == ["update_email", "delete"]


def test_a_failure_does_not_stop_the_replication(pair):
    publisher, subscriber = pair
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscriber.sql("ALTER TABLE onagui.app_users ADD CHECK (email <> 'bad@example.com')")
    subscribe(publisher, subscriber)
    publisher.auth.signup("bad@example.com", confirmed=False)
    publisher.auth.signup("good@example.com")
    wait_for(subscriber, ["good@example.com"])
    assert [(entry["action"], entry["email"]) for entry in audit(subscriber)] == [("failure", "bad@example.com")]


def test_without_always_they_are_not(pair):
    publisher, subscriber = pair
    subscribe(publisher, subscriber)
    publisher.auth.signup("ann@example.com")
    wait_until(lambda: subscriber.one("SELECT count(*) FROM auth.users", role="supabase_admin") == 1, "the user arrives")
    assert app_users(subscriber) == []


def test_a_truncate_arrives(pair):
    publisher, subscriber = pair
    # It never cascades on a subscriber.
    subscriber.sql("DROP TABLE auth.identities, auth.sessions, auth.refresh_tokens, auth.one_time_tokens", role="supabase_admin")
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscribe(publisher, subscriber)
    id = publisher.auth.signup("ann@example.com")
    wait_for(subscriber, ["ann@example.com"])
    publisher.sql("TRUNCATE auth.users CASCADE", role="supabase_auth_admin")
    wait_until(
        lambda: subscriber.sql("SELECT auth_user_id FROM onagui.sync_known_id", role="supabase_admin") == [(id,)], "the id is remembered"
    )


# --- the same triggers for what local sessions do


@pytest.fixture
def always(db):
    db.install()
    db.sql("SELECT onagui.enable_sync(p_always => true)")
    return db


def actions(db):
    return [(entry["action"], entry["email"]) for entry in audit(db)]


def test_local_copy_is_handled_once(always):
    session = always.connect("supabase_admin")
    session.execute("SET onagui_sync.audit = 'all'")
    always.sql("ALTER TABLE onagui.app_users ADD CHECK (email <> 'u5@example.com')")
    with session.cursor() as cursor:
        with cursor.copy("COPY auth.users (id, email, raw_user_meta_data) FROM STDIN") as copy:
            for i in range(2000):
                copy.write_row((uuid.uuid4(), f"u{i}@example.com", '{"username": "u%d"}' % i))
    assert always.one("SELECT count(*) FROM onagui.app_users") == 1999
    entries = audit(always)
    assert len(entries) == 2000
    assert len({entry["auth_user_id"] for entry in entries}) == 2000
    assert len(session.warnings) == 1
    session.execute("DELETE FROM auth.users")
    assert len(audit(always, action="delete")) == 2000


def test_local_signups(always):
    id = always.auth.signup("ann@example.com", {"username": "ann"})
    always.auth.change_email(id, "anna@example.com")
    always.auth.soft_delete(id)
    assert always.sql("SELECT id, email, username FROM onagui.app_users") == [(id, "anna@example.com", "ann")]
    assert actions(always) == [("update_email", "anna@example.com"), ("delete", "anna@example.com")]


def test_several_statements_of_one_transaction(always):
    with always.session("supabase_auth_admin").transaction():
        for i in range(3):
            always.sql(
                "INSERT INTO users (id, email) SELECT gen_random_uuid(), 'u' || %s || i || '@example.com' FROM generate_series(1, 3) i",
                [i],
                role="supabase_auth_admin",
            )
    assert always.one("SELECT count(*) FROM onagui.app_users") == 9


def test_replica_role(always):
    """Restores and replication tools set session_replication_role."""
    session = always.connect("supabase_admin")
    session.execute("SET session_replication_role = replica")
    session.execute("INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), 'u' || i || '@example.com' FROM generate_series(1, 3) i")
    assert always.one("SELECT count(*) FROM onagui.app_users") == 3
