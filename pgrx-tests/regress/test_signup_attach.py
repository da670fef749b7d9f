"""Attaching and detaching, the settings, the rights, removal, dump and restore."""

import uuid

import psycopg
import pytest

from support import audit, expect_error

A = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
TRIGGERS = [
    "trigger_sync_auth_user_changes",
    "trigger_sync_auth_user_deletes",
    "trigger_sync_auth_user_to_app_users",
    "trigger_sync_auth_user_truncates",
]


@pytest.fixture
def app(db):
    return db.install()


def triggers(db, columns="tgname::text"):
    return db.sql(f"SELECT {columns} FROM pg_trigger WHERE tgrelid = 'auth.users'::regclass AND NOT tgisinternal ORDER BY tgname", role="supabase_admin")


def definitions(db):
    return triggers(db, "pg_get_triggerdef(oid), tgenabled::text")


# --- attach and detach


def test_create_extension_attaches_with_or_without_app_users(db):
    db.sql("CREATE EXTENSION onagui_sync")
    assert triggers(db) == [(name,) for name in TRIGGERS]
    assert db.notices == []


def test_create_extension_without_auth_users_says_what_to_call(db):
    db.sql("ALTER SCHEMA auth RENAME TO later", role="supabase_admin")
    db.sql("CREATE EXTENSION onagui_sync")
    [notice] = db.notices
    assert notice.severity == "NOTICE" and "auth.users does not exist yet" in notice.message
    assert notice.hint == "Once it exists: SELECT onagui.enable_sync();"
    with expect_error("42P01", "auth.users does not exist", detail="auth.users was not found", hint="enable_sync"):
        db.sql("SELECT onagui.enable_sync()")
    with expect_error("42P01", "auth.users does not exist"):
        db.sql("SELECT onagui.disable_sync()")
    db.sql("ALTER SCHEMA later RENAME TO auth", role="supabase_admin")
    assert db.one("SELECT onagui.enable_sync()") == "OK: sync is enabled"
    assert triggers(db) == [(name,) for name in TRIGGERS]


@pytest.mark.parametrize(
    "kind, create",
    [
        ("partitioned table", "CREATE TABLE auth.users (id uuid NOT NULL, email text, email_confirmed_at timestamptz) PARTITION BY HASH (id)"),
        ("view", "CREATE VIEW auth.users AS SELECT gen_random_uuid() AS id, 'x@example.com'::text AS email"),
    ],
)
def test_auth_users_is_no_ordinary_table(db, kind, create):
    """Users in partitions would be taken for unknown ones, whose app rows somebody else may inherit."""
    db.install()
    db.sql("ALTER TABLE auth.users RENAME TO former_users", role="supabase_admin")
    db.sql(create, role="supabase_admin")
    for call in "SELECT onagui.enable_sync()", "SELECT * FROM onagui.sync_status()", "SELECT * FROM onagui.fix_user_ids()":
        with expect_error("42P01", "auth.users is not an ordinary table", detail=f"It is a {kind};", hint="enable_sync"):
            db.sql(call, role="supabase_admin")
    found = db.sql("SELECT status, detail FROM onagui.sync_health() WHERE check_name = 'tables'", role="supabase_admin")
    says = f"auth.users is not an ordinary table. It is a {kind}; onagui_sync follows the ordinary table that the Auth server makes."
    assert found == [("fail", says)]


def test_any_number_of_times(app):
    before = triggers(app, "oid")
    for _ in range(3):
        assert app.one("SELECT onagui.enable_sync()") == "OK: sync was enabled already, nothing was changed"
    assert triggers(app, "oid") == before
    assert app.one("SELECT onagui.disable_sync()").startswith("OK: sync is disabled")
    assert triggers(app) == []
    for _ in range(2):
        assert app.one("SELECT onagui.disable_sync()") == "OK: sync was disabled already, nothing was changed"
    app.auth.signup("a@example.com")
    assert app.one("SELECT count(*) FROM onagui.app_users") == 0
    assert app.one("SELECT onagui.enable_sync()") == "OK: sync is enabled"
    app.auth.signup("b@example.com")
    assert app.sql("SELECT email FROM onagui.app_users") == [("b@example.com",)]
    assert app.one("SELECT onagui.enable_sync(p_always => true)") == "OK: sync is enabled, for replicated rows too"
    assert {state for (state,) in triggers(app, "tgenabled::text")} == {"A"}
    for call in "true", "":
        assert app.one(f"SELECT onagui.enable_sync({call})") == "OK: sync was enabled already, nothing was changed"
    assert app.one("SELECT onagui.enable_sync(p_always => false)") == "OK: sync is enabled"
    assert {state for (state,) in triggers(app, "tgenabled::text")} == {"O"}
    # The table is nobody else's because of it.
    assert app.one("SELECT tableowner FROM pg_tables WHERE schemaname = 'auth' AND tablename = 'users'") == "supabase_auth_admin"


def test_create_app_users_any_number_of_times(db):
    db.install(app_users=False)
    assert db.one("SELECT onagui.create_app_users()") == "CREATED: onagui.app_users"
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'a@example.com')", [A])
    db.sql("ALTER TABLE onagui.app_users DROP COLUMN full_name")
    for _ in range(2):
        assert db.one("SELECT onagui.create_app_users()") == "OK: onagui.app_users exists already, nothing was changed"
    assert db.sql("SELECT id FROM onagui.app_users") == [(A,)]
    assert db.one("SELECT tableowner FROM pg_tables WHERE schemaname = 'onagui' AND tablename = 'app_users'") == "postgres"
    assert [c for (c,) in db.sql("SELECT attname::text FROM pg_attribute WHERE attrelid = 'onagui.app_users'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum")] == [
        "id", "email", "username", "metadata", "created_at", "updated_at",
    ]


def test_a_disabled_trigger_is_enabled_again(app):
    app.sql("ALTER TABLE auth.users DISABLE TRIGGER trigger_sync_auth_user_to_app_users", role="supabase_auth_admin")
    app.auth.signup("a@example.com", confirmed=False)
    assert app.one("SELECT count(*) FROM onagui.app_users") == 0
    app.sql("SELECT onagui.enable_sync()")
    app.auth.signup("b@example.com")
    assert app.sql("SELECT email FROM onagui.app_users") == [("b@example.com",)]


def test_columns_that_came_later_are_followed(db):
    db.sql("ALTER TABLE auth.users DROP COLUMN deleted_at", role="supabase_auth_admin")
    db.install()
    db.sql("ALTER TABLE auth.users ADD COLUMN deleted_at timestamptz", role="supabase_auth_admin")
    assert db.one("SELECT onagui.enable_sync()") == "OK: sync is enabled"
    id = db.auth.signup("a@example.com")
    db.auth.soft_delete(id)
    assert [entry["action"] for entry in audit(db)] == ["delete"]


def test_other_peoples_triggers_are_left_alone(app):
    app.sql("GRANT CREATE ON SCHEMA public TO supabase_auth_admin", role="supabase_admin")
    app.sql(
        """CREATE FUNCTION public.other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
           CREATE TRIGGER on_auth_user_created AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.other()"""
    )
    before = triggers(app, "oid, tgname::text")
    app.sql("SELECT onagui.disable_sync()")
    assert triggers(app) == [("on_auth_user_created",)]
    app.sql("SELECT onagui.enable_sync()")
    assert [row for row in before if row[1] == "on_auth_user_created"] == [row for row in triggers(app, "oid, tgname::text") if row[1] == "on_auth_user_created"]


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_name_that_is_taken(db, name):
    db.sql("CREATE FUNCTION public.other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    db.sql(f"CREATE TRIGGER {name} AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.other()")
    with expect_error("42710", f"auth.users has a trigger {name} that is not the extension's", "calls another function", "Drop the trigger"):
        db.sql("CREATE EXTENSION onagui_sync")
    assert triggers(db) == [(name,)]


@pytest.mark.parametrize("limit", ["lock_timeout", "onagui_sync.lock_timeout"])
@pytest.mark.parametrize("call", ["disable_sync()", "enable_sync(true)", "enable_sync()"])
def test_a_call_that_finds_auth_users_in_use_gives_up(app, call, limit):
    """Sign-ups wait behind whoever waits for all of the table."""
    if call == "enable_sync()":
        app.sql("SELECT onagui.disable_sync()")
    user = app.connect("supabase_auth_admin")
    caller = app.connect("supabase_admin")
    caller.execute("LOAD 'onagui_sync'")
    caller.execute(f"SET {limit} = '200ms'")
    before = definitions(app)
    with user.transaction():
        user.execute("SELECT * FROM auth.users" if call != "enable_sync()" else "DELETE FROM auth.users")
        with expect_error("55P03", "auth.users is in use", "sign-ups wait behind", "pg_stat_activity"):
            caller.execute(f"SELECT onagui.{call}")
    assert definitions(app) == before
    app.auth.signup("a@example.com")
    assert caller.one(f"SELECT onagui.{call}").startswith("OK: sync is ")


def test_who_changes_the_schemas_rights_keeps_no_sign_up_waiting(app):
    app.sql("SELECT onagui.disable_sync()")
    migration = app.connect("postgres")
    with migration.transaction():
        migration.execute("GRANT USAGE ON SCHEMA onagui TO anon")
        enabling = app.in_background("SELECT onagui.enable_sync()", connection=app.connect("postgres")).wait_blocked()
        auth = app.connect("supabase_auth_admin")
        auth.execute("SET lock_timeout = '1s'")
        app.auth.signup("a@example.com", connection=auth)
    assert enabling.result() == [("OK: sync is enabled",)]


def test_what_is_waited_for_with_auth_users_locked_is_waited_for_no_longer(app):
    """DEPENDS ON EXTENSION takes a lock on the extension."""
    app.sql("SELECT onagui.disable_sync()")
    other = app.connect("supabase_admin")
    caller = app.connect("supabase_admin")
    caller.execute("LOAD 'onagui_sync'")
    caller.execute("SET onagui_sync.lock_timeout = '200ms'")
    with other.transaction():
        other.execute("COMMENT ON EXTENSION onagui_sync IS 'x'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            caller.execute("SELECT onagui.enable_sync()")
    assert triggers(app) == []


def test_two_who_enable_it_at_once(app):
    """The second one leaves it as the first one has made it: for replicated rows, too."""
    app.sql("SELECT onagui.disable_sync()")
    first = app.connect("supabase_admin")
    with first.transaction():
        first.execute("SELECT onagui.enable_sync(p_always => true)")
        second = app.in_background("SELECT onagui.enable_sync()", connection=app.connect("supabase_admin")).wait_blocked(first)
    assert second.result() == [("OK: sync was enabled already, nothing was changed",)]
    assert {enabled for _, enabled in definitions(app)} == {"A"}


def test_the_extension_may_have_passed_to_a_role_that_is_no_superuser(db):
    """REASSIGN OWNED, when the installer leaves."""
    db.sql("CREATE ROLE leaving SUPERUSER", role="supabase_admin")
    try:
        db.sql("SET ROLE leaving; CREATE EXTENSION onagui_sync; SELECT onagui.create_app_users(); RESET ROLE", role="supabase_admin")
    finally:
        db.sql("REASSIGN OWNED BY leaving TO supabase_auth_admin; DROP OWNED BY leaving; DROP ROLE leaving", role="supabase_admin")
    db.sql("SELECT onagui.disable_sync()", role="supabase_admin")
    assert db.sql("SELECT onagui.enable_sync()", role="supabase_admin") == [("OK: sync is enabled",)]
    id = db.auth.signup("a@example.com")
    assert db.sql("SELECT id FROM onagui.app_users", role="supabase_admin") == [(id,)]


def test_calls_by_hand_and_foreign_tables_are_refused(app):
    with expect_error("39P01", "was not called by a trigger", "ordinary function", "SELECT onagui.enable_sync"):
        app.sql("SELECT onagui.sync_auth_user_to_app_users()")
    admin = app.session("supabase_admin")
    admin.execute("CREATE TABLE public.mine (id uuid, email text)")
    for timing, level, event in (("AFTER", "ROW", "INSERT"), ("BEFORE", "ROW", "DELETE"), ("AFTER", "STATEMENT", "UPDATE")):
        admin.execute(f"CREATE TRIGGER t_{event} {timing} {event} ON public.mine FOR EACH {level} EXECUTE FUNCTION onagui.sync_auth_user_to_app_users()")
    for statement in ("INSERT INTO public.mine VALUES (gen_random_uuid(), 'x')", "UPDATE public.mine SET email = ''"):
        with expect_error("39P01", "belongs on auth.users only", "public.mine", "Drop that trigger"):
            admin.execute(statement)


@pytest.mark.parametrize(
    "definition, statement, message",
    [
        ("BEFORE INSERT ON auth.users FOR EACH ROW", "INSERT", "must be fired AFTER"),
        ("AFTER INSERT ON auth.users FOR EACH STATEMENT", "INSERT", "needs a transition table"),
        ("AFTER UPDATE ON auth.users FOR EACH STATEMENT", "UPDATE", "for each row on UPDATE"),
        ("AFTER DELETE ON auth.users FOR EACH STATEMENT", "DELETE", "needs a transition table"),
    ],
)
def test_a_trigger_of_another_make_is_refused(app, definition, statement, message):
    app.sql(f"CREATE TRIGGER odd {definition} EXECUTE FUNCTION onagui.sync_auth_user_to_app_users()", role="supabase_admin")
    statements = {
        "INSERT": "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'x@example.com')",
        "UPDATE": "UPDATE auth.users SET email = ''",
        "DELETE": "DELETE FROM auth.users",
    }
    with expect_error("39P01", message, hint="enable_sync"):
        app.sql(statements[statement], role="supabase_auth_admin")
    # It is the extension's function: detaching takes it along.
    app.sql("SELECT onagui.disable_sync()")
    assert triggers(app) == []


def test_create_app_users_where_one_may_not(app):
    app.sql("DROP TABLE onagui.app_users")
    app.sql("GRANT EXECUTE ON FUNCTION onagui.create_app_users() TO service_role", role="supabase_admin")
    with expect_error("42501", "create a table in schema onagui", "service_role", "GRANT CREATE ON SCHEMA onagui"):
        with app.connect("authenticator").acting_as("service_role") as session:
            session.execute("SELECT onagui.create_app_users()")


# --- settings


SETTINGS = {"enabled": "on", "link_by_email": "verified", "on_error": "log", "audit": "changes", "lock_timeout": "5s"}


def test_the_settings_and_their_defaults(app):
    app.auth.signup("a@example.com")
    session = app.session("supabase_auth_admin")
    assert {name: session.one(f"SHOW onagui_sync.{name}") for name in SETTINGS} == SETTINGS
    assert app.sql("SELECT DISTINCT context FROM pg_settings WHERE name LIKE 'onagui_sync.%%'", role="supabase_auth_admin") == [("superuser",)]


@pytest.mark.parametrize("name", SETTINGS)
def test_only_superusers_set_them(app, name):
    app.auth.signup("a@example.com")
    for role in ("supabase_auth_admin", "postgres"):
        app.sql("SELECT onagui.enable_sync()")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session = app.session(role)
            session.execute(f"SET onagui_sync.{name} = {SETTINGS[name]!r}")


def test_set_by_others_before_the_library_is_loaded(app):
    """A placeholder that somebody without the right has set is dropped when the library comes."""
    session = app.connect("supabase_auth_admin")
    session.execute("SET onagui_sync.enabled = off")
    session.execute("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'a@example.com')")
    assert app.one("SELECT count(*) FROM onagui.app_users") == 1


def test_the_prefix_is_reserved(app):
    session = app.session("supabase_admin")
    session.execute("SELECT onagui.enable_sync()")
    with pytest.raises(psycopg.errors.InvalidName):
        session.execute("SET onagui_sync.link_by_mail = 'never'")


@pytest.mark.parametrize("name, value", [("link_by_email", "sometimes"), ("on_error", "ignore"), ("audit", "some"), ("lock_timeout", "-1"), ("enabled", "maybe")])
def test_bad_values_are_refused(app, name, value):
    session = app.session("supabase_admin")
    session.execute("SELECT onagui.enable_sync()")
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        session.execute(f"SET onagui_sync.{name} = '{value}'")


def insert(db, settings, email="a@example.com", confirmed=False):
    session = db.connect("supabase_admin")
    for name, value in settings.items():
        session.execute(f"SET onagui_sync.{name} = '{value}'")
    id = uuid.uuid4()
    session.execute("INSERT INTO auth.users (id, email, email_confirmed_at) VALUES (%s, %s, CASE WHEN %s THEN now() END)", [id, email, confirmed])
    return id, session


def test_off(app):
    id, session = insert(app, {"enabled": "off"})
    session.execute("UPDATE auth.users SET email = 'b@example.com'")
    assert app.one("SELECT count(*) FROM onagui.app_users") == 0
    session.execute("DELETE FROM auth.users")
    assert app.sql("SELECT auth_user_id FROM onagui.sync_known_id", role="supabase_admin") == [(id,)]
    assert audit(app) == []


def test_off_remembers_without_app_users(db):
    db.install(app_users=False)
    id, session = insert(db, {"enabled": "off"})
    session.execute("UPDATE auth.users SET deleted_at = now()")
    assert db.sql("SELECT auth_user_id FROM onagui.sync_known_id", role="supabase_admin") == [(id,)]
    assert session.warnings == []


def test_link_always(app):
    app.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'A@example.com')", [A])
    id, _ = insert(app, {"link_by_email": "always"})
    assert app.sql("SELECT id, email FROM onagui.app_users") == [(id, "a@example.com")]
    assert [entry["action"] for entry in audit(app)] == ["link"]


def test_link_never(app):
    app.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'A@example.com')", [A])
    insert(app, {"link_by_email": "never"}, confirmed=True)
    assert app.sql("SELECT id, email FROM onagui.app_users") == [(A, "A@example.com")]
    [entry] = audit(app)
    assert (entry["action"], entry["outcome"]) == ("conflict", "refused")
    assert entry["details"]["reason"] == "an app user has this e-mail, and onagui_sync.link_by_email is never"


def test_audit_all(app):
    id, session = insert(app, {"audit": "all"})
    [entry] = audit(app)
    assert {key: entry[key] for key in entry if key not in ("audit_id", "occurred_at")} == {
        "action": "signup",
        "outcome": "done",
        "auth_user_id": id,
        "old_app_user_id": None,
        "new_app_user_id": id,
        "email": "a@example.com",
        "rows_changed": 0,
        "details": {},
        "actor": "supabase_admin",
        "undone_by": None,
    }
    session.execute("UPDATE auth.users SET email_confirmed_at = now()")
    assert len(audit(app)) == 1


# --- rights


MEMBERS = """SELECT d.classid::regclass::text AS kind, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
              WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'onagui_sync'"""


def grants(db):
    """Who, other than the owner and the installer, has what on the extension's tables, sequences and functions."""
    return db.sql(
        f"""WITH member AS ({MEMBERS})
            SELECT a.grantee::regrole::text, o.name, a.privilege_type
              FROM (SELECT c.oid::regclass::text AS name, c.relacl AS acl, c.relowner AS owner FROM pg_class c JOIN member m ON m.objid = c.oid AND m.kind = 'pg_class'
                     UNION ALL
                    SELECT p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner FROM pg_proc p JOIN member m ON m.objid = p.oid AND m.kind = 'pg_proc'
                   ) o CROSS JOIN LATERAL aclexplode(o.acl) a
             WHERE a.grantee NOT IN (o.owner, (SELECT extowner FROM pg_extension WHERE extname = 'onagui_sync'))
             ORDER BY 1, 2, 3""",
        role="supabase_admin",
    )


def test_public_has_nothing_but_usage(app):
    assert [row for row in grants(app) if row[0] == "-"] == []
    assert ("service_role", "onagui.sync_audit_log", "SELECT") in grants(app)
    for role in ("anon", "supabase_auth_admin"):
        assert app.one(f"SELECT has_schema_privilege('{role}', 'onagui', 'USAGE')")
        assert not app.one(f"SELECT has_schema_privilege('{role}', 'onagui', 'CREATE')")
        assert not app.one(f"SELECT has_function_privilege('{role}', 'onagui.enable_sync(boolean)', 'EXECUTE')")
        assert not app.one(f"SELECT has_function_privilege('{role}', 'onagui.sync_auth_user_to_app_users()', 'EXECUTE')")
        assert not app.one(f"SELECT has_table_privilege('{role}', 'onagui.sync_audit_log', 'SELECT')")


def test_a_schema_that_was_there_keeps_its_rights(db):
    db.sql("CREATE SCHEMA onagui")
    db.install()
    assert not db.one("SELECT has_schema_privilege('anon', 'onagui', 'USAGE')")
    # Signing up needs none.
    db.auth.signup("a@example.com")
    assert db.one("SELECT count(*) FROM onagui.app_users") == 1


def test_default_privileges_do_not_leak(db):
    db.sql(
        """ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, authenticated, PUBLIC;
           ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO anon, PUBLIC;
           ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anon, authenticated, postgres WITH GRANT OPTION;
           ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON SCHEMAS TO anon, PUBLIC;""",
        role="supabase_admin",
    )
    db.install()
    leaked = grants(db)
    with db.server.database().connect("postgres") as other:
        other.execute("CREATE EXTENSION onagui_sync")
        plain = Other(other)
    assert leaked == grants(plain)
    assert not db.one("SELECT has_schema_privilege('anon', 'onagui', 'CREATE')")
    assert not db.one("SELECT has_function_privilege('postgres', 'onagui.enable_sync(boolean)', 'EXECUTE WITH GRANT OPTION')")
    other_name = plain.name
    with db.server.connect() as admin:
        admin.execute(f"DROP DATABASE {other_name} WITH (FORCE)")


class Other:
    """Just enough of a Database for grants()."""

    def __init__(self, connection):
        self.name = connection.info.dbname
        self.rows = connection.execute(
            f"""WITH member AS ({MEMBERS})
                SELECT a.grantee::regrole::text, o.name, a.privilege_type
                  FROM (SELECT c.oid::regclass::text AS name, c.relacl AS acl, c.relowner AS owner FROM pg_class c JOIN member m ON m.objid = c.oid AND m.kind = 'pg_class'
                         UNION ALL
                        SELECT p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner)), p.proowner FROM pg_proc p JOIN member m ON m.objid = p.oid AND m.kind = 'pg_proc'
                       ) o CROSS JOIN LATERAL aclexplode(o.acl) a
                 WHERE a.grantee NOT IN (o.owner, (SELECT extowner FROM pg_extension WHERE extname = 'onagui_sync'))
                 ORDER BY 1, 2, 3"""
        ).fetchall()

    def sql(self, *_, **__):
        return self.rows


def test_the_installer_uses_all_and_owns_nothing(app):
    owners = app.sql(
        f"""WITH member AS ({MEMBERS})
            SELECT relowner::regrole::text FROM pg_class c JOIN member m ON m.objid = c.oid AND m.kind = 'pg_class'
            UNION SELECT proowner::regrole::text FROM pg_proc p JOIN member m ON m.objid = p.oid AND m.kind = 'pg_proc'"""
    )
    assert owners == [("supabase_admin",)]
    for kind in ("TABLES", "SEQUENCES", "ROUTINES", "FUNCTIONS"):
        app.sql(f"GRANT ALL ON ALL {kind} IN SCHEMA onagui TO service_role")
    assert not app.one("SELECT has_table_privilege('service_role', 'onagui.sync_audit_log', 'DELETE')")
    for statement in (
        "DELETE FROM onagui.sync_audit_log",
        "UPDATE onagui.sync_audit_log SET actor = 'me'",
        "INSERT INTO onagui.sync_audit_log (action, outcome, actor) VALUES ('x', 'y', 'z')",
        "TRUNCATE onagui.sync_audit_log",
        "DELETE FROM onagui.sync_known_id",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.sql(statement)


def test_nobody_attaches_the_function_to_a_table_of_their_own(app):
    app.sql("CREATE TABLE public.mine (id uuid); GRANT ALL ON public.mine TO anon")
    app.sql("GRANT CREATE ON SCHEMA public TO anon", role="supabase_admin")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        with app.connect("authenticator").acting_as("anon") as session:
            session.execute("CREATE TABLE public.his (id uuid)")
            session.execute("CREATE TRIGGER t AFTER INSERT ON public.his FOR EACH ROW EXECUTE FUNCTION onagui.sync_auth_user_to_app_users()")


def test_service_role_reads_the_audit_log(app):
    app.auth.delete(app.auth.signup("a@example.com"))
    with app.connect("authenticator").acting_as("service_role") as session:
        assert session.one("SELECT count(*) FROM onagui.sync_audit_log") == 1


# --- removal, dump and restore


@pytest.mark.parametrize("cascade", ["", "CASCADE"])
def test_drop_extension_leaves_app_users(app, cascade):
    app.auth.signup("a@example.com")
    before = app.sql("SELECT * FROM onagui.app_users")
    app.sql(f"DROP EXTENSION onagui_sync {cascade}")
    assert triggers(app) == []
    assert app.sql("SELECT * FROM onagui.app_users") == before
    app.auth.signup("b@example.com")
    app.auth.delete(app.auth.signup("c@example.com"))
    assert app.one("SELECT count(*) FROM onagui.app_users") == 1
    # And it comes back.
    app.sql("CREATE EXTENSION onagui_sync")
    app.auth.signup("d@example.com")
    assert app.one("SELECT count(*) FROM onagui.app_users") == 2


def test_a_session_outlives_drop_and_create(app):
    session = app.session("supabase_auth_admin")
    app.auth.signup("a@example.com")
    app.sql("DROP EXTENSION onagui_sync; CREATE EXTENSION onagui_sync")
    app.auth.signup("b@example.com", connection=session)
    app.auth.change_email(app.one("SELECT id FROM onagui.app_users WHERE email = 'b@example.com'"), "c@example.com")
    assert app.sql("SELECT email FROM onagui.app_users ORDER BY 1") == [("a@example.com",), ("c@example.com",)]
    assert app.warnings == []


def test_dump_and_restore(app, server, tmp_path):
    app.sql("INSERT INTO onagui.sync_column VALUES ('full_name', 'user_meta', 'nick')")
    app.auth.signup("a@example.com", {"nick": "Ann"})
    gone = app.auth.signup("b@example.com")
    app.auth.delete(gone)
    app.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'c@example.com')", [A])
    app.auth.signup("c@example.com", confirmed=False)
    dump = tmp_path / "dump.sql"
    server.program("pg_dump", "-U", "supabase_admin", "-f", dump, app.name)
    with server.connect() as admin:
        admin.execute(f"CREATE DATABASE {app.name}_2 TEMPLATE template0")
    import support

    copy = support.Database(server, f"{app.name}_2")
    try:
        # The schema public is there already; nothing else may go wrong.
        server.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "supabase_admin", "-d", copy.name, "-f", dump)
        assert definitions(copy) == definitions(app)
        for table in ("sync_column", "sync_known_id", "sync_audit_log", "app_users"):
            query = f"SELECT * FROM onagui.{table} ORDER BY 1"
            rows = copy.sql(query, role="supabase_admin")
            assert rows == app.sql(query, role="supabase_admin"), table
            assert rows, table
        last = max(row["audit_id"] for row in audit(copy))
        id = copy.auth.signup("d@example.com", {"nick": "Dan"})
        assert copy.sql("SELECT email, full_name FROM onagui.app_users WHERE id = %s", [id], role="supabase_admin") == [("d@example.com", "Dan")]
        copy.auth.delete(id)
        assert max(row["audit_id"] for row in audit(copy)) == last + 1
        copy.sql("DROP EXTENSION onagui_sync", role="supabase_admin")
        assert triggers(copy) == []
    finally:
        copy.drop()


def test_a_plain_call_leaves_them_as_they_are(db):
    """Whoever had them attached for replicated rows would not notice that these come without rows from now on."""
    db.install()
    states = lambda: {state for (state,) in db.sql("SELECT tgenabled::text FROM pg_trigger WHERE tgname LIKE 'trigger_sync_auth%%'", role="supabase_admin")}  # noqa: E731
    for call, then in ("", "O"), ("true", "A"), ("", "A"), ("NULL", "A"), ("false", "O"), ("", "O"):
        db.sql(f"SELECT onagui.enable_sync({call})")
        assert states() == {then}, call
    db.sql("SELECT onagui.enable_sync(true); SELECT onagui.disable_sync(); SELECT onagui.enable_sync()")
    assert states() == {"O"}
