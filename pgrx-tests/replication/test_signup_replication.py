"""Auth users that arrive by logical replication, between two private servers."""

import uuid

import pytest
from subscriptions import app_users, subscribe, wait_for

from support import audit, wait_until


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


@pytest.mark.parametrize("fails", [False, True])
def test_the_applications_own_constraints_hold_for_replicated_rows(always, fails):
    """Only what is enabled ALWAYS fires for what is applied; what we write because of it is no copy of anything."""
    always.sql(
        """CREATE TABLE public.tenants (id int PRIMARY KEY);
           CREATE TABLE public.profiles (user_id uuid REFERENCES onagui.app_users);
           ALTER TABLE onagui.app_users ADD tenant int REFERENCES public.tenants, ALTER tenant SET DEFAULT 1;
           CREATE FUNCTION public.profile() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO public.profiles VALUES (NEW.id); RETURN NEW; END $$;
           CREATE TRIGGER profile AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.profile()"""
    )
    if not fails:
        always.sql("INSERT INTO public.tenants VALUES (1)")
    session = always.connect("supabase_admin")
    session.execute("SET session_replication_role = replica")
    for query in "VALUES (gen_random_uuid(), 'ann@example.com')", "SELECT gen_random_uuid(), i || '@example.com' FROM generate_series(1, 3) i":
        session.execute(f"INSERT INTO auth.users (id, email) {query}")
        assert session.one("SHOW session_replication_role") == "replica"
    # As the caller wants it, for the caller: there is no such user.
    session.execute("INSERT INTO public.profiles VALUES (gen_random_uuid())")
    made = 0 if fails else 4
    assert always.one("SELECT count(*) FROM onagui.app_users") == made
    assert always.one("SELECT count(*) FROM public.profiles") == made + 1
    assert {entry["details"]["error"]["sqlstate"] for entry in audit(always)} == ({"23503"} if fails else set())
