"""Ways in that were found by attacking: each of them gave an owner of app_users, or a stranger, what is not theirs."""

import threading
import uuid

import psycopg
import pytest
from support import audit, expect_error, wait_until

ADMIN = "supabase_admin"


@pytest.fixture
def eve(db, plain):
    """Owns app_users and a schema of her own, and may use postgres_fdw."""
    db.install(app_users=False)
    eve = plain("eve")
    db.sql(f"GRANT CREATE, USAGE ON SCHEMA onagui TO {eve}; CREATE SCHEMA eve AUTHORIZATION {eve}", role=ADMIN)
    return eve


def test_an_index_predicate_in_a_recheck_condition(db, eve):
    """The executor evaluates what the planner could not prove of a partial index, in this case of a bitmap scan."""
    db.sql(
        f"""CREATE TABLE eve.ran (who text); GRANT ALL ON eve.ran TO PUBLIC; GRANT USAGE ON SCHEMA eve TO PUBLIC;
            CREATE FUNCTION eve.note() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO eve.ran VALUES (current_user); RETURN true; END $$;
            CREATE FUNCTION eve.spy(text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
                BEGIN IF current_user <> '{eve}' THEN PERFORM eve.note(); END IF; RETURN true; END $$;
            CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email varchar(100), pad text);
            ALTER TABLE onagui.app_users ALTER pad SET STORAGE EXTERNAL""",
        role=eve,
    )
    admin = db.session(ADMIN)
    admin.execute("SET onagui_sync.enabled = off")
    admin.execute("INSERT INTO auth.users (id, email, email_confirmed_at) SELECT gen_random_uuid(), 'u' || lpad(g::text, 6, '0') || '@example.com', now() FROM generate_series(1, 20000) g")
    # So dear is the one index that the planner takes the other.
    admin.execute(
        """INSERT INTO onagui.app_users SELECT gen_random_uuid(), email,
                  (SELECT string_agg(md5(random()::text || g), '') FROM generate_series(1, 75) g WHERE u.id IS NOT NULL) FROM auth.users u ORDER BY email"""
    )
    db.sql("CREATE INDEX a ON onagui.app_users (lower(email)) INCLUDE (pad) WITH (fillfactor = 10)", role=eve)
    db.sql("CREATE INDEX b ON onagui.app_users USING brin (lower(email)) WITH (pages_per_range = 4) WHERE (eve.spy(email) OR lower(btrim(email)) IS NOT NULL)", role=eve)
    admin.execute("VACUUM ANALYZE onagui.app_users")
    for query in ("SELECT * FROM onagui.sync_status(p_email => 'u000500@example.com')", "SELECT * FROM onagui.fix_user_ids(ARRAY['u000500@example.com'])"):
        for role in ("postgres", ADMIN):
            assert db.connect(role).execute(query).fetchall()
    assert {who for (who,) in db.sql("SELECT who FROM eve.ran", role=ADMIN)} <= {"pg_checkpoint"}


def test_foreign_partitions_and_children(db, eve):
    """The connection to the other server would be the extension's owner's."""
    db.require("postgres_fdw")
    db.sql(f"GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {eve}", role=ADMIN)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid, email text) PARTITION BY LIST (email);
           CREATE TABLE eve.rest PARTITION OF onagui.app_users DEFAULT;
           CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere');
           CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'supabase_admin');
           CREATE FOREIGN TABLE eve.far PARTITION OF onagui.app_users FOR VALUES IN ('z@example.com') SERVER elsewhere""",
        role=eve,
    )
    for query in ("onagui.sync_status()", "onagui.sync_status(p_email => 'z@example.com')", "onagui.sync_summary()", "onagui.sync_report()", "onagui.fix_user_ids()"):
        with expect_error("42809", "other servers"):
            db.sql(f"SELECT * FROM {query}", role=ADMIN)
    assert db.sql("SELECT * FROM onagui.sync_health()", role=ADMIN)
    db.sql("DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text CHECK (email <> 'x@example.com'))", role=eve)
    db.sql("CREATE FOREIGN TABLE eve.far () INHERITS (onagui.app_users) SERVER elsewhere", role=eve)
    db.auth.signup("x@example.com")
    for query in ("onagui.sync_health()", "onagui.sync_status()", "onagui.fix_user_ids(p_apply => true)"):
        assert not any("could not connect" in str(row) for row in db.sql(f"SELECT * FROM {query}", role=ADMIN))


LEAK = """
    CREATE FUNCTION eve.leak(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN PERFORM pg_catalog.set_config('search_path', 'eve', false); RETURN $1; END $$;
    CREATE VIEW eve.view AS SELECT eve.leak('x') AS x;
    CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, note text);
    CREATE UNIQUE INDEX ON onagui.app_users (lower(btrim(email)))"""


@pytest.mark.parametrize(
    "way",
    [
        "ALTER TABLE onagui.app_users ALTER note SET DEFAULT (table_to_xml('eve.view', true, false, '')::text)",
        "ALTER TABLE onagui.app_users ALTER note SET DEFAULT (schema_to_xml('eve', true, false, '')::text)",
        "CREATE STATISTICS onagui.st ON (email || eve.leak('1')), email FROM onagui.app_users",
    ],
)
def test_no_setting_outlives_a_signup(db, eve, way):
    db.sql(f"{LEAK}; {way}", role=eve)
    auth = db.connect("supabase_auth_admin")
    before = auth.execute("SHOW search_path").fetchone()
    ann = uuid.uuid4()
    auth.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'ann@example.com')", [ann])
    auth.execute("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [ann])
    assert auth.execute("SHOW search_path").fetchone() == before


def test_a_deleted_user_is_remembered_whatever_is_locked(db):
    """Else whoever signs up with the address next would get the app user."""
    db.install()
    ann = db.auth.signup("ann@example.com")
    db.sql(f"ALTER DATABASE {db.name} SET onagui_sync.lock_timeout = '100ms'", role=ADMIN)
    db.disconnect()
    locker = db.connect(ADMIN)
    with locker.transaction():
        locker.execute("LOCK TABLE onagui.sync_audit_log IN SHARE MODE")
        db.auth.delete(ann)
    [warning] = db.warnings
    assert warning.message.startswith("onagui_sync could not record which auth users were deleted: canceling statement due to lock timeout")
    assert warning.hint.startswith("The delete goes on; the failure could not be recorded")
    assert db.sql("SELECT auth_user_id FROM onagui.sync_known_id", role=ADMIN) == [(ann,)]
    # For the id itself it waits.
    bob = db.auth.signup("bob@example.com")
    done = threading.Event()

    def delete():
        with db.connect("supabase_auth_admin") as auth:
            auth.execute("DELETE FROM auth.users WHERE id = %s", [bob])
        done.set()

    with locker.transaction():
        locker.execute("LOCK TABLE onagui.sync_known_id IN SHARE MODE")
        thread = threading.Thread(target=delete)
        thread.start()
        assert not done.wait(1)
    thread.join()
    assert db.one("SELECT count(*) FROM onagui.sync_known_id", role=ADMIN) == 2


def test_a_message_that_the_client_cannot_be_shown(db):
    """What its encoding lacks would make an error of a warning."""
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text);
           CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'Benutzer № 1'; END $$;
           CREATE TRIGGER refuse BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION refuse()""",
        role=ADMIN,
    )
    auth = db.connect("supabase_auth_admin")
    auth.execute("SET client_encoding = 'LATIN1'")
    auth.execute("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'ann@example.com')")
    assert "\\u2116" in auth.warnings[-1].message
    assert [entry["details"]["error"]["message"] for entry in audit(db)] == ["Benutzer № 1"]


def test_who_installs_before_there_is_auth(db, plain):
    """A trusted extension can be created by whoever may CREATE in the database. That gives no sight of auth.users."""
    eve = plain("eve")
    db.sql(f"GRANT CREATE ON DATABASE {db.name} TO {eve}; ALTER SCHEMA auth RENAME TO auth_to_come", role=ADMIN)
    db.sql("CREATE EXTENSION onagui_sync", role=eve)
    db.sql("ALTER SCHEMA auth_to_come RENAME TO auth", role=ADMIN)
    with expect_error("42501", detail="auth.users"):
        db.sql("SELECT onagui.enable_sync()", role=eve)
    db.sql("SELECT onagui.enable_sync()", role=ADMIN)


def test_a_row_that_waits_for_its_user(db):
    """It was inserted first, and its key is checked at COMMIT."""
    db.install()
    db.sql("CREATE TABLE posts (author uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED)")
    ann = uuid.uuid4()
    session = db.connect(ADMIN)
    with session.transaction():
        session.execute("INSERT INTO public.posts VALUES (%s)", [ann])
        session.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'ann@example.com')", [ann])
    assert db.one("SELECT count(*) FROM posts JOIN onagui.app_users u ON u.id = author") == 1


def test_a_cancel_while_a_warning_is_sent(db):
    """It is noticed in the middle of the message, and leaves nothing behind."""
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text);
           CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', repeat('x', 8000000); END $$;
           CREATE TRIGGER refuse BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION refuse()""",
        role=ADMIN,
    )
    auth = db.connect("supabase_auth_admin")
    pid = auth.info.backend_pid
    # Sent, and not read: the server's message fills the pipe.
    auth.pgconn.send_query(b"INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'ann@example.com')")
    auth.pgconn.flush()
    wait_until(lambda: db.one("SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = %s", [pid], role=ADMIN), "the message to fill the pipe")
    db.sql("SELECT pg_cancel_backend(%s)", [pid], role=ADMIN)
    while result := auth.pgconn.get_result():
        assert result.status in (psycopg.pq.ExecStatus.FATAL_ERROR, psycopg.pq.ExecStatus.COMMAND_OK)
    assert auth.execute("SHOW lock_timeout").fetchone() == ("0",)
