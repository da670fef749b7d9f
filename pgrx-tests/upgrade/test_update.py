"""ALTER EXTENSION onagui_sync UPDATE from a released version: nothing is lost, and the outcome is that of a fresh install."""

import hashlib
import uuid

import pytest

import support
from catalog import QUESTIONS, catalog, differences
from lived import REGISTERED
from repairs import ADMIN, content, fix_one, mismatched, undo
from versions import RELEASED, version_here

#: What has been released never changes: databases out there came from it.
FROZEN = {
    "onagui_sync--0.1.0.sql": "c7ccb47b0dfe3afac88d3acfb077680c966a84cf62da0891d27ea192dff3ff90",
}
UPDATE = "ALTER EXTENSION onagui_sync UPDATE"


def sync_version(db):
    (row,) = db.sql("SELECT status, detail, remedy FROM onagui.sync_health() WHERE check_name = 'version'")
    return row


def test_released_scripts_are_frozen():
    found = {script.name: hashlib.sha256(script.read_bytes()).hexdigest() for script in RELEASED.iterdir()}
    assert found == FROZEN


def test_every_released_version_has_a_way_here(released, db):
    for name in FROZEN:
        version = name.removeprefix("onagui_sync--").removesuffix(".sql")
        paths = db.sql("SELECT path FROM pg_extension_update_paths('onagui_sync') WHERE source = %s AND target = %s", [version, version_here()])
        assert paths and paths[0][0], version


@pytest.mark.parametrize("installer", ["postgres", ADMIN])
@pytest.mark.parametrize("stage", ["auth and app_users", "auth", "neither"])
def test_an_updated_catalog_is_that_of_a_fresh_install(released, db, installer, stage):
    fresh = db.server.database()
    try:
        for database, wanted in (db, " VERSION '0.1.0'"), (fresh, ""):
            if stage == "neither":
                database.sql("DROP TABLE auth.users CASCADE", role=ADMIN)
            database.sql(f"CREATE EXTENSION onagui_sync{wanted}", role=installer)
            if stage == "auth and app_users":
                database.sql("SELECT onagui.create_app_users()", role=installer)
        db.sql(UPDATE, role=installer)
        updated, new = catalog(db), catalog(fresh)
    finally:
        fresh.drop()
    assert differences(updated, new) == {}
    assert all(new[question] for question in QUESTIONS if question not in ("default privileges", "policies"))


def test_the_comparison_would_find_what_differs(released, db):
    db.sql("CREATE EXTENSION onagui_sync VERSION '0.1.0'")
    before = catalog(db)
    for change in (
        "COMMENT ON COLUMN onagui.sync_column.key IS NULL",
        "ALTER FUNCTION onagui.sync_report() COST 5",
        "GRANT SELECT ON onagui.sync_column TO anon",
        "ALTER TABLE onagui.sync_known_id ALTER gone_at DROP DEFAULT",
        "SELECT onagui.enable_sync(true)",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA onagui GRANT SELECT ON TABLES TO anon",
    ):
        db.sql(change, role=ADMIN)
        after = catalog(db)
        assert differences(after, before), change
        before = after


def test_until_then_the_new_library_serves_the_old_sql(old):
    """Between installing the files and updating each database: everything works, and health says what is to be done."""
    status, detail, remedy = sync_version(old)
    assert (status, detail) == ("fail", f"the library is {version_here()}, the SQL is 0.1.0")
    assert remedy.startswith(UPDATE)
    ann = old.auth.signup("ann@example.com")
    assert old.one("SELECT email FROM onagui.app_users WHERE id = %s", [ann]) == "ann@example.com"
    app, auth = mismatched(old, "bob@example.com")
    done = fix_one(old, "bob@example.com")
    assert done["outcome"] == "done" and undo(old, done["audit_id"]).startswith("UNDONE:")
    assert old.one("SELECT onagui.sync_report()") and old.one("SELECT onagui.sync_ping() ->> 'version'") == "0.1.0"

    old.server.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", old.name, "-c", remedy)
    assert sync_version(old)[0] == "ok"


def test_where_the_library_is_the_older_one(db):
    """Files of one database server were forgotten, or a session has the old library loaded."""
    db.install()
    db.sql("UPDATE pg_extension SET extversion = '0.10.0' WHERE extname = 'onagui_sync'", role=ADMIN)
    status, detail, remedy = sync_version(db)
    assert status == "fail" and "0.10.0" in detail
    assert remedy.startswith("--") and "0.10.0" in remedy


def test_everything_is_kept_and_goes_on(old):
    """Also in sessions that were open all the while."""
    old.sql("ALTER TABLE onagui.app_users ADD tenant text")
    old.sql("INSERT INTO onagui.sync_column VALUES ('tenant', 'user_meta', 'tenant')")
    old.sql("CREATE TABLE files (id int PRIMARY KEY, owner text); CREATE TABLE orders (id int PRIMARY KEY, user_id uuid UNIQUE REFERENCES onagui.app_users)")
    old.sql("SELECT onagui.register_reference('files', 'owner')")
    old.auth.delete(old.auth.signup("gone@example.com"))
    app, auth = mismatched(old, "bob@example.com")
    old.sql("INSERT INTO files VALUES (1, %s)", [app])
    old.sql("INSERT INTO orders VALUES (1, %s)", [app])
    before_fix = content(old, "onagui.app_users", "files", "orders")
    fixed = fix_one(old, "bob@example.com")
    assert fixed["rows_changed"] == 2

    kept = ("onagui.app_users", "onagui.sync_column", "onagui.sync_known_id", REGISTERED, "onagui.sync_audit_log", "files", "orders")
    before = content(old, *kept)
    assert all(before.values())
    old.sql(UPDATE)
    assert content(old, *kept) == before

    ann = old.auth.signup("ann@example.com", {"tenant": "acme"})
    assert old.one("SELECT tenant FROM onagui.app_users WHERE id = %s", [ann]) == "acme"
    assert undo(old, fixed["audit_id"]).startswith("UNDONE:")
    assert {table: [row for row in rows if "ann@" not in row] for table, rows in content(old, *before_fix).items()} == before_fix
    assert "any more" in old.one("SELECT onagui.unregister_reference('files', 'owner')")
    assert old.sql("SELECT * FROM onagui.sync_health() WHERE status <> 'ok' AND check_name <> 'users out of step'") == []
    assert not old.warnings


def test_a_superusers_table_that_was_registered(old):
    """Is moved along before the update and after it."""
    old.sql("CREATE TABLE files (owner text)", role=ADMIN)
    old.sql("SELECT onagui.register_reference('files', 'owner')", role=ADMIN)
    for email in ("a@example.com", "b@example.com"):
        app, auth = mismatched(old, email)
        old.sql("INSERT INTO files VALUES (%s)", [app], role=ADMIN)
        assert fix_one(old, email)["rows_changed"] == 1
        assert old.one("DELETE FROM files RETURNING owner", role=ADMIN) == str(auth)
        if email[0] == "a":
            old.sql(UPDATE)
    assert old.sql("SELECT table_name::text, by_superuser FROM onagui.sync_reference") == [("files", True)]


def test_an_update_and_sign_ups_do_not_wait_for_each_other(old):
    auth, dba = old.connect("supabase_auth_admin"), old.connect()
    for session in (auth, dba):
        session.execute("SET lock_timeout = '5s'")
    with dba.transaction(force_rollback=True):
        dba.execute(UPDATE)
        old.auth.signup("ann@example.com", connection=auth)
    auth.autocommit = False
    old.auth.signup("bob@example.com", connection=auth)
    dba.execute(UPDATE)
    auth.commit()
    assert old.one("SELECT count(*) FROM onagui.app_users") == 2


def test_what_an_administrator_has_granted_stays(old):
    """Existing objects are not touched, and a new one is for whom the one beside it is for."""
    old.sql(
        """DO $$ BEGIN CREATE ROLE operator; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
           GRANT EXECUTE ON FUNCTION onagui.register_reference(regclass, name), onagui.prune_audit(interval) TO operator;
           REVOKE EXECUTE ON FUNCTION onagui.fix_user_ids(text[], boolean, text, bigint) FROM service_role;
           ALTER DEFAULT PRIVILEGES FOR ROLE supabase_admin GRANT EXECUTE ON FUNCTIONS TO PUBLIC, anon;
           ALTER DEFAULT PRIVILEGES FOR ROLE supabase_admin IN SCHEMA onagui GRANT EXECUTE ON FUNCTIONS TO authenticated""",
        role=ADMIN,
    )
    rights = "SELECT p.oid::regprocedure::text, p.proacl::text[] FROM pg_proc p WHERE p.pronamespace = 'onagui'::regnamespace"
    before = dict(old.sql(rights))
    old.sql(UPDATE)
    after = dict(old.sql(rights))
    new = {name for name in after if name not in before}
    assert new == {"onagui.unregister_reference(regclass,name)", "onagui.unregister_reference(name,name,name)"}
    assert {name: acl for name, acl in after.items() if name not in new} == before
    for name in new:
        assert sorted(after[name]) == sorted(before["onagui.register_reference(regclass,name)"])


def test_whoever_updates_the_owner_stays(old):
    old.sql("DO $$ BEGIN CREATE ROLE second SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$", role=ADMIN)
    old.sql(UPDATE, role="second")
    assert old.sql("SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'onagui'::regnamespace") == [(ADMIN,)]


def test_only_the_installer_or_a_superuser_updates(old):
    for role in ("supabase_auth_admin", "authenticator"):
        with support.expect_error("42501", detail=False, hint=False):
            old.sql(UPDATE, role=role)


def test_a_function_of_the_same_name_is_refused(old):
    """Somebody's own unregister_reference(text, …) would be called in place of the new one."""
    old.sql("CREATE FUNCTION onagui.unregister_reference(text, text) RETURNS text LANGUAGE sql AS 'SELECT 1::text'", role=ADMIN)
    with support.expect_error("42723", detail=r"unregister_reference\(text,text\)"):
        old.sql(UPDATE)
    assert sync_version(old)[1].endswith("the SQL is 0.1.0")


def test_an_update_can_be_rehearsed(old):
    before = catalog(old)
    session = old.session()
    with session.transaction(force_rollback=True):
        session.execute(UPDATE)
    assert catalog(old) == before
    assert old.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [old.auth.signup("ann@example.com")]) == 1


def test_a_second_update_does_nothing(old):
    old.sql(UPDATE)
    before = catalog(old)
    old.sql(UPDATE)
    assert catalog(old) == before
    assert [notice.message for notice in old.notices if "already installed" in notice.message]


def test_an_update_of_the_extension_in_a_schema_that_was_replaced(released):
    role, name = (f"{what}_{uuid.uuid4().hex[:8]}" for what in ("plain", "replaced"))
    with released.connect() as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"CREATE DATABASE {name}")
        admin.execute(f"GRANT CREATE ON DATABASE {name} TO {role}")
    try:
        with released.connect(name, role) as own:
            own.execute(
                f"""CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY, email text);
                    CREATE EXTENSION onagui_sync VERSION '0.1.0';
                    ALTER SCHEMA onagui RENAME TO onagui_old; CREATE SCHEMA onagui;
                    CREATE TABLE onagui.sync_audit_log (details int);
                    CREATE TABLE onagui.sync_reference (table_schema name, table_name name);
                    INSERT INTO onagui.sync_reference VALUES ('pg_catalog', 'pg_class');
                    CREATE FUNCTION onagui.register_reference(regclass, name) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
                    CREATE FUNCTION onagui.trap() RETURNS trigger LANGUAGE plpgsql AS
                        $trap$ BEGIN EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN NEW; END $trap$;
                    CREATE TRIGGER trap BEFORE UPDATE ON onagui.sync_reference FOR EACH ROW EXECUTE FUNCTION onagui.trap()"""
            )
            with support.expect_error("55000", "the schema onagui is not that of the extension"):
                own.execute("ALTER EXTENSION onagui_sync UPDATE")
            assert not own.one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            own.execute("ALTER SCHEMA onagui RENAME TO decoy; ALTER SCHEMA onagui_old RENAME TO onagui; ALTER EXTENSION onagui_sync UPDATE")
    finally:
        with released.connect() as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            admin.execute(f"DROP ROLE {role}")
