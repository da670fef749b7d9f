"""What the apply worker does with auth users: whatever fails on the application's side, it goes on."""

import uuid

import pytest
from subscriptions import ADMIN, app_users, catch_up, errors, subscribe, wait_for_copy, worker

from support import audit, wait_until


@pytest.fixture
def followed(pair):
    """Both databases, replicating."""
    publisher, subscriber = pair
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscribe(publisher, subscriber)
    return publisher, subscriber


def emails(names):
    return sorted((f"{name}@example.com",) for name in names)


def many(publisher, prefix, count, connection=None):
    query = "INSERT INTO auth.users (id, email, raw_user_meta_data) SELECT gen_random_uuid(), %s || i || '@example.com', '{}' FROM generate_series(1, %s::int) i"
    (connection or publisher.session("supabase_auth_admin")).execute(query, [prefix, count])


def actions(db):
    return [(entry["action"], entry["email"]) for entry in audit(db)]


def untroubled(subscriber, pid):
    assert worker(subscriber) == pid
    assert errors(subscriber) == (0, 0)


# --- what a sign-up goes through


def test_all_that_happens_to_a_user(followed):
    publisher, subscriber = followed
    pid = worker(subscriber)
    old = uuid.uuid4()
    subscriber.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'Boss@Example.com', 'boss')", [old])
    subscriber.sql("CREATE TABLE public.roles (user_id uuid REFERENCES onagui.app_users, role text)")
    subscriber.sql("INSERT INTO public.roles VALUES (%s, 'admin')", [old])
    boss = publisher.auth.signup("boss@example.com", confirmed=False)
    catch_up(publisher, subscriber)
    assert actions(subscriber) == [("pending", "boss@example.com")]
    publisher.auth.confirm(boss)
    catch_up(publisher, subscriber)
    assert subscriber.sql("SELECT user_id FROM public.roles") == [(boss,)]
    publisher.auth.change_email(boss, "chief@example.com")
    ann = publisher.auth.signup("ann@example.com", anonymous=False, meta={"username": "boss"})
    guest = publisher.auth.signup(anonymous=True)
    catch_up(publisher, subscriber)
    users = "SELECT id, email, username FROM onagui.app_users ORDER BY email NULLS FIRST"
    assert subscriber.sql(users) == [(guest, None, None), (ann, "ann@example.com", f"boss_{ann.hex[:8]}"), (boss, "chief@example.com", "boss")]
    publisher.auth.soft_delete(boss)
    publisher.auth.delete(ann)
    publisher.auth.change_email(guest, "guest@example.com")
    catch_up(publisher, subscriber)
    assert [action for action, _ in actions(subscriber)] == ["pending", "link", "update_email", "delete", "delete", "update_email"]
    assert dict(subscriber.sql("SELECT sync_status, users FROM onagui.sync_summary() WHERE users > 0")) == {"SYNCED": 1, "MISSING_IN_AUTH": 2}
    # Neither id is anybody's to inherit.
    publisher.auth.signup("chief@example.com")
    catch_up(publisher, subscriber)
    assert actions(subscriber)[-1] == ("conflict", "chief@example.com")
    untroubled(subscriber, pid)


def test_the_first_copy(pair):
    """The worker that copies the table fires the triggers too, for many rows at once."""
    publisher, subscriber = pair
    many(publisher, "u", 3000)
    publisher.auth.signup("boss@example.com")
    publisher.auth.signup("mail@example.com", confirmed=False)
    old = uuid.uuid4()
    subscriber.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'boss@example.com'), (gen_random_uuid(), 'mail@example.com')", [old])
    subscriber.sql("ALTER TABLE onagui.app_users ADD CONSTRAINT staff CHECK (email NOT LIKE 'u77_@example.com')")
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscribe(publisher, subscriber)
    assert errors(subscriber) == (0, 0)
    assert subscriber.one("SELECT count(*) FROM auth.users", role=ADMIN) == 3002
    assert subscriber.one("SELECT count(*) FROM auth.users u JOIN onagui.app_users a USING (id, email)", role=ADMIN) == 3000 - 10 + 1
    done = actions(subscriber)
    assert done.count(("link", "boss@example.com")) == 1 and done.count(("pending", "mail@example.com")) == 1
    assert sum(action == "failure" for action, _ in done) == 10 and len(done) == 12


STREAMING = ["off", "on", "parallel"]


@pytest.mark.parametrize("streaming", STREAMING)
def test_big_transactions(pair, streaming):
    publisher, subscriber = pair
    if streaming == "parallel" and subscriber.server.number < 16:
        pytest.skip("streaming = parallel came with PostgreSQL 16")
    subscriber.sql("SELECT onagui.enable_sync(p_always => true); ALTER TABLE onagui.app_users ADD CHECK (email NOT LIKE '%%bad%%')")
    subscribe(publisher, subscriber, f"WITH (streaming = {streaming})")
    pid = worker(subscriber)
    session = publisher.connect("supabase_auth_admin")
    with session.transaction():
        many(publisher, "a", 1500, session)
        many(publisher, "bad", 3, session)
        with session.transaction(force_rollback=True):
            many(publisher, "gone", 1500, session)
        with session.transaction():
            many(publisher, "b", 1500, session)
        session.execute("UPDATE users SET email = 'new' || email WHERE email LIKE 'a1___@%'")
        session.execute("DELETE FROM users WHERE email LIKE 'a2__@%'")
    with session.transaction(force_rollback=True):
        many(publisher, "never", 1500, session)
    catch_up(publisher, subscriber)
    streamed = publisher.one("SELECT sum(stream_txns) FROM pg_stat_replication_slots", role=ADMIN)
    assert streamed > 0 if streaming != "off" else streamed == 0
    assert dict(subscriber.sql("SELECT sync_status, users FROM onagui.sync_summary() WHERE users > 0")) == {
        "SYNCED": 2900,
        "MISSING_IN_AUTH": 100,
        "MISSING_IN_APP_USERS": 3,
    }
    assert subscriber.one("SELECT count(*) FROM onagui.app_users WHERE email LIKE 'newa1___@%'") == 501
    counted = dict(subscriber.sql("SELECT action, count(*) FROM onagui.sync_audit_log GROUP BY 1"))
    assert counted == {"failure": 3, "update_email": 501, "delete": 100}
    untroubled(subscriber, pid)


def test_two_phase_commit(pair):
    publisher, subscriber = pair
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscribe(publisher, subscriber, "WITH (two_phase = true)")
    enabled = "SELECT subtwophasestate = 'e' FROM pg_subscription WHERE subname = %s"
    wait_until(lambda: subscriber.one(enabled, [subscriber.name], role=ADMIN), "two-phase commit is enabled")
    pid = worker(subscriber)
    session = publisher.connect("supabase_auth_admin")
    for what in "COMMIT", "ROLLBACK":
        session.execute("BEGIN")
        many(publisher, what.lower(), 3, session)
        session.execute(f"PREPARE TRANSACTION '{what}'")
        catch_up(publisher, subscriber)
        assert subscriber.one("SELECT count(*) FROM pg_prepared_xacts", role=ADMIN) == 1
        session.execute(f"{what} PREPARED '{what}'")
        catch_up(publisher, subscriber)
    assert app_users(subscriber) == emails(["commit1", "commit2", "commit3"])
    untroubled(subscriber, pid)


def test_a_truncate_in_the_middle(followed):
    publisher, subscriber = followed
    # It never cascades on a subscriber.
    subscriber.sql("DROP TABLE auth.identities, auth.sessions, auth.refresh_tokens, auth.one_time_tokens", role=ADMIN)
    pid = worker(subscriber)
    with publisher.connect(ADMIN) as session, session.transaction():
        many(publisher, "a", 3, session)
        session.execute("TRUNCATE auth.users CASCADE")
        many(publisher, "b", 3, session)
    catch_up(publisher, subscriber)
    assert app_users(subscriber) == emails(["a1", "a2", "a3", "b1", "b2", "b3"])
    assert subscriber.one("SELECT count(*) FROM onagui.sync_known_id", role=ADMIN) == 3
    assert dict(subscriber.sql("SELECT sync_status, users FROM onagui.sync_summary() WHERE users > 0")) == {"SYNCED": 3, "MISSING_IN_AUTH": 3}
    untroubled(subscriber, pid)


# --- a failing application


RAISE = """
    CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN %s; RETURN NEW; END $$;
    CREATE %s ON onagui.app_users %s FOR EACH ROW EXECUTE FUNCTION public.fails()
"""

FAULTS = {
    "no table": ("ALTER TABLE onagui.app_users RENAME TO gone", "ALTER TABLE onagui.gone RENAME TO app_users", "42P01"),
    "no column": ("ALTER TABLE onagui.app_users RENAME email TO mail", "ALTER TABLE onagui.app_users RENAME mail TO email", "42703"),
    "a view": (
        "ALTER TABLE onagui.app_users RENAME TO gone; CREATE VIEW onagui.app_users AS TABLE onagui.gone",
        "DROP VIEW onagui.app_users; ALTER TABLE onagui.gone RENAME TO app_users",
        "42P01",
    ),
    "a check": ("ALTER TABLE onagui.app_users ADD CONSTRAINT c CHECK (false) NOT VALID", "ALTER TABLE onagui.app_users DROP CONSTRAINT c", "23514"),
    "a trigger": (
        RAISE % ("RAISE 'no'", "TRIGGER t BEFORE INSERT", ""),
        "DROP FUNCTION public.fails() CASCADE",
        "P0001",
    ),
    "a deferred trigger": (
        RAISE % ("RAISE 'no'", "CONSTRAINT TRIGGER t AFTER INSERT", "DEFERRABLE INITIALLY DEFERRED"),
        "DROP FUNCTION public.fails() CASCADE",
        "P0001",
    ),
    "a trigger that divides by zero in a nested block": (
        RAISE % ("BEGIN PERFORM 1/0; EXCEPTION WHEN others THEN RAISE; END", "TRIGGER t AFTER INSERT", ""),
        "DROP FUNCTION public.fails() CASCADE",
        "22012",
    ),
    "a trigger that discards": (
        RAISE % ("RETURN NULL", "TRIGGER t BEFORE INSERT", ""),
        "DROP FUNCTION public.fails() CASCADE",
        "09000",
    ),
    "a deferred key": (
        "CREATE TABLE public.tenants (id int PRIMARY KEY); "
        "ALTER TABLE onagui.app_users ADD tenant int CONSTRAINT c REFERENCES public.tenants DEFERRABLE INITIALLY DEFERRED; "
        "ALTER TABLE onagui.app_users ALTER tenant SET DEFAULT 1",
        "ALTER TABLE onagui.app_users DROP CONSTRAINT c",
        "23503",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_application_does_not_stop_it(followed, fault):
    publisher, subscriber = followed
    breaks, mends, sqlstate = FAULTS[fault]
    publisher.auth.signup("before@example.com")
    catch_up(publisher, subscriber)
    pid = worker(subscriber)
    subscriber.sql(breaks)
    publisher.auth.signup("one@example.com", confirmed=False)
    many(publisher, "u", 20)
    catch_up(publisher, subscriber)
    entries = audit(subscriber)
    assert len({entry["auth_user_id"] for entry in entries}) == 21
    assert {(entry["action"], entry["details"]["error"]["sqlstate"]) for entry in entries} == {("failure", sqlstate)}
    assert subscriber.one("SELECT count(*) FROM auth.users", role=ADMIN) == 22
    subscriber.sql(mends)
    publisher.auth.signup("after@example.com")
    catch_up(publisher, subscriber)
    assert app_users(subscriber) == emails(["before", "after"])
    untroubled(subscriber, pid)
    # What was missed is brought back by the ordinary fix.
    rows = subscriber.sql("SELECT outcome, count(*) FROM onagui.fix_user_ids(NULL, true) GROUP BY 1")
    assert rows == [("done", 21)]


@pytest.mark.parametrize("table", ["app_users", "sync_audit_log"])
def test_a_lock_does_not_stop_it(pair, table):
    publisher, subscriber = pair
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscriber.sql(f"ALTER DATABASE {subscriber.name} SET onagui_sync.lock_timeout = '100ms'", role=ADMIN)
    subscribe(publisher, subscriber)
    pid = worker(subscriber)
    with subscriber.connect(ADMIN) as migration, migration.transaction():
        migration.execute(f"LOCK TABLE onagui.{table} IN ACCESS EXCLUSIVE MODE")
        publisher.auth.signup("waits@example.com", confirmed=False)
        many(publisher, "u", 3)
        if table == "app_users":
            wait_until(lambda: len(audit(subscriber)) == 4, "each has been given up and recorded")
    publisher.auth.signup("after@example.com")
    catch_up(publisher, subscriber)
    if table == "app_users":
        assert {entry["details"]["error"]["sqlstate"] for entry in audit(subscriber)} == {"55P03"}
        assert app_users(subscriber) == emails(["after"])
    else:
        assert app_users(subscriber) == emails(["after", "u1", "u2", "u3", "waits"])
    assert subscriber.one("SELECT count(*) FROM auth.users", role=ADMIN) == 5
    untroubled(subscriber, pid)


def test_a_deadlock_does_not_stop_it(pair):
    publisher, subscriber = pair
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscriber.sql("CREATE TABLE public.first (n int); CREATE TABLE public.second (n int)")
    # The server looks for a deadlock once in a wait: the worker's second wait begins when the other's has.
    waits = "EXISTS (SELECT FROM pg_catalog.pg_locks WHERE relation = 'public.first'::pg_catalog.regclass AND NOT granted)"
    held = "EXISTS (SELECT FROM pg_catalog.pg_locks WHERE relation = 'public.second'::pg_catalog.regclass AND granted)"
    locks = f"LOCK TABLE public.first; WHILE {held} AND NOT {waits} LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP; LOCK TABLE public.second"
    subscriber.sql(RAISE % (locks, "TRIGGER t BEFORE INSERT", ""))
    subscriber.sql(f"ALTER DATABASE {subscriber.name} SET onagui_sync.lock_timeout = 0; ALTER DATABASE {subscriber.name} SET deadlock_timeout = '10ms'", role=ADMIN)
    subscribe(publisher, subscriber)
    pid = worker(subscriber)
    with subscriber.connect(ADMIN) as other, other.transaction():
        other.execute("SET deadlock_timeout = '10min'")
        other.execute("LOCK TABLE public.second")
        publisher.auth.signup("ann@example.com", confirmed=False)
        wait_until(lambda: subscriber.one("SELECT count(*) FROM pg_locks WHERE pid = %s AND relation = 'public.first'::regclass", [pid], role=ADMIN), "it has the first")
        other.execute("SET LOCAL lock_timeout = '20s'")
        other.execute("LOCK TABLE public.first")
    catch_up(publisher, subscriber)
    # It was the worker's detector that struck; the other one has gone on, and so does it.
    assert app_users(subscriber) == emails(["ann"])
    assert audit(subscriber) == []
    untroubled(subscriber, pid)


def test_a_cancelled_worker_does_it_again(followed):
    """A cancel is passed on: the worker starts again from what was committed, and nothing is lost or done twice."""
    publisher, subscriber = followed
    subscriber.sql(RAISE % ("IF NEW.email = 'slow@example.com' THEN PERFORM pg_catalog.pg_sleep(60); END IF", "TRIGGER t BEFORE INSERT", ""))
    pid = worker(subscriber)
    publisher.auth.signup("slow@example.com")
    busy = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    wait_until(lambda: subscriber.one(busy, [pid], role=ADMIN), "it sleeps in the trigger")
    subscriber.one("SELECT pg_cancel_backend(%s)", [pid], role=ADMIN)
    wait_until(lambda: errors(subscriber)[0] == 1, "the error is counted")
    publisher.auth.signup("next@example.com")
    second = worker(subscriber)
    wait_until(lambda: subscriber.one(busy, [second], role=ADMIN), "it tries again")
    blocker = subscriber.in_background("DROP FUNCTION public.fails() CASCADE")
    subscriber.one("SELECT pg_terminate_backend(%s)", [second], role=ADMIN)
    blocker.result()
    catch_up(publisher, subscriber)
    assert app_users(subscriber) == emails(["slow", "next"])
    assert audit(subscriber) == []


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_subscriber_is_restarted_in_the_middle(followed, mode):
    publisher, subscriber = followed
    writer = publisher.connect("supabase_auth_admin")
    publisher.sql(
        """CREATE PROCEDURE public.sign_up_many() LANGUAGE plpgsql AS $$ BEGIN
               FOR i IN 1 .. 300 LOOP
                   INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'u' || i || '@example.com');
                   UPDATE auth.users SET email = 'v' || i || '@example.com', email_confirmed_at = now() WHERE email = 'u' || i || '@example.com';
                   COMMIT;
                   IF i %% 3 = 0 THEN DELETE FROM auth.users WHERE email = 'v' || i || '@example.com'; COMMIT; END IF;
                   PERFORM pg_sleep(0.005);
               END LOOP; END $$""".replace("%%", "%"),
        role=ADMIN,
    )
    work = publisher.in_background("CALL public.sign_up_many()", connection=writer, role="supabase_auth_admin")
    for so_many in 40, 120:
        wait_until(lambda so_many=so_many: len(app_users(subscriber)) >= so_many, f"{so_many} have come")
        subscriber.disconnect()
        subscriber.server.stop(mode)
        subscriber.server.start()
    work.result()
    catch_up(publisher, subscriber)
    assert sorted(app_users(subscriber)) == emails(f"v{i}" for i in range(1, 301))
    counted = dict(subscriber.sql("SELECT action, count(*) FROM onagui.sync_audit_log GROUP BY 1"))
    assert counted == {"update_email": 300, "delete": 100}
    assert dict(subscriber.sql("SELECT sync_status, users FROM onagui.sync_summary() WHERE users > 0")) == {"SYNCED": 200, "MISSING_IN_AUTH": 100}


def test_the_subscriber_is_restarted_during_the_first_copy(pair):
    publisher, subscriber = pair
    many(publisher, "u", 500)
    subscriber.sql("SELECT onagui.enable_sync(p_always => true)")
    subscriber.sql(RAISE % ("PERFORM pg_catalog.pg_sleep(0.01)", "TRIGGER t BEFORE INSERT", ""))
    subscribe(publisher, subscriber, wait=False)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: subscriber.one(busy, role=ADMIN), "it copies")
    # Commits are not waited for on these servers.
    subscriber.sql("CHECKPOINT", role=ADMIN)
    subscriber.disconnect()
    subscriber.server.stop("immediate")
    subscriber.server.start()
    subscriber.sql("ALTER TABLE onagui.app_users DISABLE TRIGGER t")
    wait_for_copy(subscriber)
    many(publisher, "v", 1)
    catch_up(publisher, subscriber)
    assert sorted(app_users(subscriber)) == emails([*(f"u{i}" for i in range(1, 501)), "v1"])
    assert audit(subscriber) == []
