"""Rights on everything the extension has, read from the catalog, are those of the README's table."""

import re
import uuid
from pathlib import Path

import pytest
from support import expect_error

README = Path(__file__).resolve().parents[2] / "README.md"
LETTERS = {"EXECUTE": "X", "SELECT": "r", "INSERT": "w", "UPDATE": "w", "DELETE": "w", "USAGE": "U"}
ROLES = ["PUBLIC", "installer", "service_role", "authenticated", "anon"]
def listed():
    section = README.read_text().partition("## Privileges")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", section, re.M)
    return {
        name: {role: "".join(sorted(cell.strip())) for role, cell in zip(ROLES, cells.split("|"), strict=True) if cell.strip()}
        for name, cells in rows
    }


def found(db):
    """What the catalog has, for the grantee of each right."""
    rows = db.sql(
        """
        SELECT coalesce(p.oid::regprocedure::text, c.oid::regclass::text, 'schema onagui'),
               CASE a.grantee WHEN 0 THEN 'PUBLIC' WHEN e.extowner THEN 'installer' ELSE a.grantee::regrole::text END,
               a.privilege_type, a.is_grantable, coalesce(p.proowner, c.relowner, n.nspowner) = a.grantee, ow.rolsuper
          FROM pg_extension e
          JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
               OR d.classid = 'pg_extension'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_namespace'::regclass
          LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
          LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('r', 'v', 'S', 'm', 'f', 'p')
          LEFT JOIN pg_namespace n ON d.refclassid = 'pg_namespace'::regclass AND n.oid = d.refobjid
          LEFT JOIN pg_roles ow ON ow.oid = coalesce(p.proowner, c.relowner)
         CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, c.relacl, n.nspacl)) a
         WHERE e.extname = 'onagui_sync'
        """,
        role="supabase_admin",
    )
    rights = {}
    for name, role, right, grantable, is_owners, owner_is_superuser in rows:
        name = name.replace("onagui.", "").replace(",", ", ")
        assert owner_is_superuser in (None, True), name
        rights.setdefault(name, {})
        if is_owners:
            continue
        assert not grantable, (name, role, right)
        rights[name][role] = "".join(sorted({*rights[name].get(role, ""), LETTERS.get(right, right)}))
    return rights


def test_rights_are_those_of_the_readme(db):
    # So that the table's columns are relative to nothing but names.
    db.session("supabase_admin").execute("SET search_path = ''")
    db.session("postgres").execute("SET search_path = ''")
    db.install()
    assert found(db) == listed()


def test_default_privileges_give_nobody_more(db, plain):
    mallory = plain("mallory")
    for kind in ("FUNCTIONS", "TABLES", "SEQUENCES", "SCHEMAS", "TYPES"):
        db.sql(f"ALTER DEFAULT PRIVILEGES FOR ROLE supabase_admin, postgres GRANT ALL ON {kind} TO PUBLIC, anon, {mallory}", role="supabase_admin")
    db.session("supabase_admin").execute("SET search_path = ''")
    db.sql("CREATE EXTENSION onagui_sync")
    assert found(db) == listed()


def test_a_later_grant_on_everything_does_not_fail(db):
    db.install()
    db.sql("GRANT ALL ON ALL FUNCTIONS IN SCHEMA onagui TO anon; GRANT ALL ON ALL TABLES IN SCHEMA onagui TO anon; GRANT ALL ON ALL SEQUENCES IN SCHEMA onagui TO anon")
    assert "X" not in found(db)["enable_sync(boolean)"].get("anon", "")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_no_api_role_changes_the_log(db, role):
    db.install()
    db.auth.delete(db.auth.signup("ann@example.com"))
    before = db.sql("SELECT l::text FROM onagui.sync_audit_log l", role="supabase_admin")
    assert before
    request = db.connect("authenticator")
    for query in (
        "INSERT INTO onagui.sync_audit_log (action, outcome, actor) VALUES ('link', 'done', 'me')",
        "UPDATE onagui.sync_audit_log SET actor = 'me'",
        "DELETE FROM onagui.sync_audit_log",
        "TRUNCATE onagui.sync_audit_log",
        "SELECT * FROM onagui.sync_audit_log FOR UPDATE",
        "SELECT setval('onagui.sync_audit_log_audit_id_seq', 1)",
        "SELECT onagui.prune_audit('0')",
        "DELETE FROM onagui.sync_known_id",
        "SELECT * FROM onagui.sync_known_id",
        "INSERT INTO onagui.sync_column VALUES ('username', 'column', 'encrypted_password')",
        "SELECT * FROM onagui.sync_column",
        "INSERT INTO onagui.sync_reference VALUES ('a', 'b', 'c')",
    ):
        with expect_error("42501", detail=False, hint=False), request.acting_as(role):
            request.execute(query)
    if role != "service_role":
        for query in ("SELECT * FROM onagui.sync_audit_log", "SELECT * FROM onagui.user_sync_status"):
            with expect_error("42501", detail=False, hint=False), request.acting_as(role):
                request.execute(query)
    assert db.sql("SELECT l::text FROM onagui.sync_audit_log l", role="supabase_admin") == before


def test_the_installer_does_not_change_the_log_either(db):
    db.install()
    for query in ("DELETE FROM onagui.sync_audit_log", "UPDATE onagui.sync_known_id SET gone_at = now()", "ALTER TABLE onagui.sync_audit_log ADD x int"):
        with expect_error("42501", detail=False, hint=False):
            db.sql(query)


def test_the_trigger_function_on_a_table_of_ones_own(db, plain):
    db.install()
    mallory = plain("mallory")
    db.sql(f"CREATE SCHEMA {mallory} AUTHORIZATION {mallory}", role="supabase_admin")
    table = f"CREATE TABLE {mallory}.users (id uuid, email text, email_confirmed_at timestamptz)"
    db.sql(table, role=mallory)
    trigger = f"CREATE TRIGGER t AFTER INSERT ON {mallory}.users FOR EACH ROW EXECUTE FUNCTION onagui.sync_auth_user_to_app_users()"
    with expect_error("42501", detail=False, hint=False):
        db.sql(trigger, role=mallory)
    for role in ("anon", "authenticated", "service_role", "supabase_auth_admin"):
        assert not db.one("SELECT has_function_privilege(%s, 'onagui.sync_auth_user_to_app_users()', 'EXECUTE')", [role])
    # Even where a superuser has attached it.
    db.sql(trigger, role="supabase_admin")
    with expect_error("39P01", detail=mallory):
        db.sql(f"INSERT INTO {mallory}.users VALUES (%s, 'a@example.com', now())", [uuid.uuid4()], role=mallory)
    assert db.one("SELECT count(*) FROM onagui.app_users", role="supabase_admin") == 0
    assert db.one("SELECT count(*) FROM onagui.sync_audit_log", role="supabase_admin") == 0
    with pytest.raises(Exception, match="can only be called as triggers|not called by a trigger"):
        db.sql("SELECT onagui.sync_auth_user_to_app_users()", role="supabase_admin")


def test_settings_are_a_superusers(db):
    """Also those that are set before the library is loaded, when they are nobody's yet."""
    db.install()
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [uuid.uuid4()])
    for role in ("postgres", "supabase_auth_admin"):
        connection = db.connect(role)
        try:
            connection.execute("SET onagui_sync.link_by_email = 'always'")
        except Exception as error:
            assert error.sqlstate == "42501"
    auth = db.connect("supabase_auth_admin")
    auth.execute("SET onagui_sync.link_by_email = 'always'")
    db.auth.signup("ann@example.com", confirmed=False, connection=auth)
    assert auth.one("SHOW onagui_sync.link_by_email") == "verified"
    assert db.sql("SELECT action FROM onagui.sync_audit_log", role="supabase_admin") == [("pending",)]
    with expect_error("42501", detail=False, hint=False):
        auth.execute("SET onagui_sync.enabled = off")


def test_who_registers_a_reference_moves_nothing_they_may_not_write(db):
    """The installer is no superuser: what they register is written as the table's owner."""
    db.install()
    db.sql("CREATE SCHEMA vault; CREATE TABLE vault.secrets (id int PRIMARY KEY, owner uuid); GRANT USAGE ON SCHEMA vault TO postgres", role="supabase_admin")
    with expect_error("42501"):
        db.sql("SELECT onagui.register_reference('vault.secrets', 'owner')")
    db.sql("SELECT onagui.register_reference('vault.secrets', 'owner')", role="supabase_admin")
    for named in ("'vault.secrets'", "'vault', 'secrets'"):
        with expect_error("42501"):
            db.sql(f"SELECT onagui.unregister_reference({named}, 'owner')")
    db.sql("GRANT UPDATE (owner) ON vault.secrets TO postgres", role="supabase_admin")
    assert "any more" in db.one("SELECT onagui.unregister_reference('vault.secrets', 'owner')")
    with expect_error("42501", detail="only a superuser"):
        db.sql("SELECT onagui.register_reference('vault.secrets', 'owner')")
    db.sql("ALTER TABLE vault.secrets OWNER TO supabase_auth_admin", role="supabase_admin")
    db.sql("SELECT onagui.register_reference('vault.secrets', 'owner')")
