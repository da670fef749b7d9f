"""pg_dump and pg_restore in every form: what comes out works as what went in. The README's chapter says the same."""

import pytest

import support
from catalog import catalog, differences
from lived import goes_on, installer_may, is_all_there, live_in
from readme import block, shell
from repairs import ADMIN, content, duplicate, fix_one, undo


class Move:
    """The README's two databases: `app`, which has been lived in, and `app_copy`, still empty."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.app = server.database("app").install()
        self.copy = support.Database(server, "app_copy")

    def create(self):
        with self.server.connect() as admin:
            admin.execute("CREATE DATABASE app_copy OWNER postgres TEMPLATE template0")

    def run(self, text):
        done = shell(self.server, text, self.folder)
        assert done.returncode == 0, done.stderr
        return done

    def drop(self):
        self.app.drop()
        self.copy.drop()


@pytest.fixture
def move(server, tmp_path):
    move = Move(server, tmp_path)
    yield move
    move.drop()


@pytest.mark.parametrize(
    "commands",
    [
        "pg_dump -f dump app; psql -qXv ON_ERROR_STOP=1 -f dump app_copy",
        "pg_dump -f dump --inserts app; psql -qXv ON_ERROR_STOP=1 -1 -f dump app_copy",
        "pg_dump -Fc -f dump app; pg_restore --exit-on-error -d app_copy dump",
        "pg_dump -Fd -j2 -f dump app; pg_restore --exit-on-error -j2 -d app_copy dump",
        "pg_dump -Ft -f dump app; for part in pre-data data post-data; do pg_restore --exit-on-error --section=$part -d app_copy dump; done",
    ],
    ids=["plain", "inserts", "custom", "directory, two jobs", "tar, by section"],
)
def test_whole(move, commands):
    lived = live_in(move.app)
    move.create()
    move.run(commands)
    is_all_there(move.copy, lived)
    goes_on(move.copy, lived)


def test_whole_as_the_readme_says(move):
    lived = live_in(move.app)
    done = shell(move.server, block("A whole database"), move.folder)
    assert done.returncode == 1 and done.stderr.count("error:") == 1, done.stderr
    assert 'schema "onagui" already exists' in done.stderr and "errors ignored on restore: 1" in done.stderr
    assert differences(catalog(move.copy), catalog(move.app)) == {}
    is_all_there(move.copy, lived)
    installer_may(move.copy)
    goes_on(move.copy, lived)


def test_the_settings_of_a_database_stay_behind(move):
    admin = move.app.session(ADMIN)
    admin.execute("ALTER DATABASE app SET onagui_sync.link_by_email = never; ALTER ROLE supabase_auth_admin IN DATABASE app SET onagui_sync.audit = 'all'")
    found = move.app.sql(block("In the old database: what to set in the new one"), role=ADMIN)
    assert sorted(found) == [("", "onagui_sync.link_by_email=never"), ("supabase_auth_admin", "onagui_sync.audit=all")]
    shell(move.server, block("A whole database"), move.folder)
    assert move.copy.one("SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()", role=ADMIN) == 0


def test_an_installer_who_restores_loses_what_the_extension_keeps(move):
    """As README says."""
    live_in(move.app)
    move.create()
    commands = """pg_dump -Fc -f dump app
        psql -qX -U postgres -d app_copy -c 'CREATE EXTENSION onagui_sync'
        pg_restore -U postgres -d app_copy dump"""
    done = shell(move.server, commands, move.folder)
    for name in "sync_audit_log", "sync_known_id", "sync_reference", "sequence sync_audit_log_audit_id_seq":
        assert f"permission denied for {name if ' ' in name else 'table ' + name}" in done.stderr, done.stderr
    assert move.copy.one("SELECT count(*) FROM onagui.sync_known_id", role=ADMIN) == 0


def test_the_setting_that_loads_data_is_for_superusers(move):
    """As README says."""
    live_in(move.app)
    move.create()
    move.run("\n".join(block("Schema and data apart").splitlines()[:-1]))
    load = block("Schema and data apart").splitlines()[-1]
    assert load.startswith("PGOPTIONS='-c onagui_sync.enabled=off' ")
    done = shell(move.server, f"export PGUSER=supabase_auth_admin; {load}", move.folder)
    assert "permission denied" in done.stderr, done.stderr


def test_a_table_that_has_the_number_of_another_one_of_its_kind(move):
    """Numbers begin with 16384 on every new server, so that they meet."""
    for table in "hats", "shoes":
        move.app.sql(f"CREATE TABLE {table} (user_id uuid UNIQUE REFERENCES onagui.app_users, item text)")
    app, auth = duplicate(move.app, "ann@example.com")
    move.app.sql("INSERT INTO hats VALUES (%s, 'top hat'), (%s, 'cap')", [app, auth])
    before = content(move.app, "onagui.app_users", "hats", "shoes")
    audit_id = fix_one(move.app, "ann@example.com", policy="keep_auth")["audit_id"]
    move.create()
    move.run("pg_dump -f dump app; psql -qXv ON_ERROR_STOP=1 -f dump app_copy")
    numbers = [f'"oid": {db.one("SELECT %s::regclass::oid", [table])},' for db, table in ((move.app, "hats"), (move.copy, "shoes"))]
    move.copy.sql("UPDATE onagui.sync_audit_log SET details = replace(details::text, %s, %s)::jsonb", numbers, role=ADMIN)
    assert move.copy.one("SELECT count(*) FROM onagui.sync_audit_log WHERE strpos(details::text, %s) > 0", [numbers[1]], role=ADMIN) == 1
    undo(move.copy, audit_id, role=ADMIN)
    assert content(move.copy, "onagui.app_users", "hats", "shoes") == before


def test_the_installers_rights_after_a_superusers_restore(move):
    live_in(move.app)
    move.create()
    move.run("pg_dump -f dump app; psql -qXv ON_ERROR_STOP=1 -f dump app_copy")
    move.copy.sql(block("What the installer may do"), role=ADMIN)
    odd = differences(catalog(move.copy), catalog(move.app))
    assert set(odd) == {"extension", "initial privileges"}, odd
    installer_may(move.copy)


def test_what_was_granted_and_revoked_is_kept(move):
    move.app.sql("DO $$ BEGIN CREATE ROLE operator; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$", role=ADMIN)
    move.app.sql(
        """GRANT EXECUTE ON FUNCTION onagui.prune_audit(interval) TO operator;
           REVOKE EXECUTE ON FUNCTION onagui.fix_user_ids(text[], boolean, text, bigint) FROM service_role""",
        role=ADMIN,
    )
    shell(move.server, block("A whole database"), move.folder)
    found = catalog(move.copy)
    assert any("operator=X" in row for row in found["routines"])
    assert differences(found, catalog(move.app)) == {}


WAYS = {
    "--disable-triggers": ("", "pg_restore --exit-on-error --data-only --disable-triggers -d app_copy dump", "SELECT onagui.enable_sync()"),
    "replica": ("", "psql -qXv ON_ERROR_STOP=1 -c 'SET session_replication_role = replica' -f data.sql app_copy", ""),
    "disable_sync()": ("SELECT onagui.disable_sync()", "psql -qXv ON_ERROR_STOP=1 -f data.sql app_copy", "SELECT onagui.enable_sync()"),
    "readme": ("", block("Schema and data apart").splitlines()[-1], ""),
}


@pytest.mark.parametrize("way", WAYS)
def test_schema_and_data_apart(move, way):
    lived = live_in(move.app)
    before, load, after = WAYS[way]
    move.create()
    move.run("\n".join(block("Schema and data apart").splitlines()[:-1]))
    assert "auth.users" not in move.run("pg_dump -Fc -f dump app").stderr
    fresh = catalog(move.copy)
    assert all(not any(rows) for rows in (move.copy.sql(f"SELECT 1 FROM {table}", role=ADMIN) for table in ("auth.users", "onagui.sync_audit_log")))
    # By whoever may: in the copy a superuser is the installer.
    if before:
        move.copy.sql(before, role=ADMIN)
    move.run(load)
    if after:
        move.copy.sql(after, role=ADMIN)
    assert differences(catalog(move.copy), fresh) == {}
    is_all_there(move.copy, lived)
    goes_on(move.copy, lived)


def test_triggers_that_fire_always_after_a_restore_with_disable_triggers(move):
    move.app.sql("SELECT onagui.enable_sync(p_always => true)")
    live_in(move.app)
    move.create()
    move.run("pg_dump -Fc -f dump app; pg_restore --schema-only -d app_copy dump")
    fresh = catalog(move.copy)
    move.run(WAYS["--disable-triggers"][1])
    assert differences(catalog(move.copy), fresh)
    move.copy.sql("SELECT onagui.enable_sync(p_always => true)", role=ADMIN)
    assert differences(catalog(move.copy), fresh) == {}


def test_data_alone_with_the_triggers_on_is_refused(move):
    """Nobody is there twice, and it does not go unnoticed."""
    live_in(move.app)
    move.create()
    commands = block("Schema and data apart").replace("onagui_sync.enabled=off", "onagui_sync.enabled=on")
    done = shell(move.server, commands.replace("psql --quiet", "psql --quiet -v VERBOSITY=verbose"), move.folder)
    assert done.returncode and "23505" in done.stderr and "app_users_pkey" in done.stderr, done.stderr
    assert move.copy.one("SELECT count(*) = count(DISTINCT id) FROM onagui.app_users", role=ADMIN)


def test_a_dump_of_an_older_version(released, move):
    """The restored database has the version that is installed where it is restored."""
    move.app.sql("DROP EXTENSION onagui_sync; DROP TABLE onagui.app_users; CREATE EXTENSION onagui_sync VERSION '0.1.0'")
    move.app.sql("SELECT onagui.create_app_users()")
    lived = live_in(move.app)
    lived["health"] = [row for row in lived["health"] if row[0] != "version"]
    shell(move.server, block("A whole database"), move.folder)
    is_all_there(move.copy, lived)
    move.app.sql(block("Update a database").splitlines()[0])
    assert differences(catalog(move.copy), catalog(move.app)) == {}
    goes_on(move.copy, lived)
