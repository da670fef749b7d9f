"""Whoever owns a schema may rename it, or drop what is in it, while a call is under way, and put a table of their own in the place
of one that was looked at. Its triggers must not run as the owner of that one."""

import time

import pytest
from repairs import ADMIN, app_user, auth_user, fix, mismatched
from support import audit, expect_error

TRAP = """
    CREATE FUNCTION {schema}.trap() RETURNS trigger LANGUAGE plpgsql AS
        $trap$ BEGIN EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN coalesce(NEW, OLD); END $trap$"""

#: The installer owns the schema. Everything of the extension's in it is made anew, with a trap on the log.
NEW_SCHEMA = f"""
    ALTER SCHEMA onagui RENAME TO onagui_old; CREATE SCHEMA onagui; GRANT USAGE ON SCHEMA onagui TO PUBLIC;
    ALTER TABLE onagui_old.app_users SET SCHEMA onagui;
    CREATE TABLE onagui.sync_audit_log (LIKE onagui_old.sync_audit_log);
    ALTER TABLE onagui.sync_audit_log ALTER audit_id DROP NOT NULL, ALTER occurred_at DROP NOT NULL;
    CREATE SEQUENCE onagui.sync_audit_log_audit_id_seq;
    CREATE TABLE onagui.sync_reference (LIKE onagui_old.sync_reference);
    CREATE TABLE onagui.sync_known_id (LIKE onagui_old.sync_known_id);
    CREATE TABLE onagui.sync_column (LIKE onagui_old.sync_column);
    GRANT ALL ON ALL TABLES IN SCHEMA onagui TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA onagui TO PUBLIC;
    {TRAP.format(schema="onagui", role="postgres")};
    CREATE TRIGGER trap AFTER INSERT ON onagui.sync_audit_log FOR EACH ROW EXECUTE FUNCTION onagui.trap()"""


def is_superuser(db, role):
    gained = db.one("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [role])
    db.sql(f"ALTER ROLE {role} NOSUPERUSER", role=ADMIN)
    return gained


FIX = "SELECT outcome FROM onagui.fix_user_ids(ARRAY['ann@example.com'], true)"


@pytest.mark.parametrize(
    "role, call",
    [
        ("postgres", FIX),
        ("supabase_auth_admin", "UPDATE auth.users SET email_confirmed_at = now()"),
        ("supabase_auth_admin", "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'ann@example.com')"),
        ("supabase_auth_admin", "DELETE FROM auth.users"),
    ],
    ids=["fix", "link", "pending", "delete"],
)
def test_the_extensions_schema_is_replaced_while_a_call_waits(db, role, call):
    db.install()
    app_user(db, "ann@example.com")
    if "INSERT" not in call:
        auth_user(db, "ann@example.com", confirmed="UPDATE" not in call)
    caller, installer = db.connect(role), db.connect("postgres")
    with installer.transaction():
        installer.execute(NEW_SCHEMA)
        waiting = db.in_background(call, connection=caller)
        end = time.monotonic() + 10
        while waiting.running and time.monotonic() < end and not waiting.blocked_by():
            time.sleep(0.02)
    if role == "postgres":
        with expect_error("55000", "a table has another owner than a moment ago"):
            waiting.result()
    else:
        waiting.result()
    assert not is_superuser(db, "postgres")


@pytest.mark.parametrize("call", ["fix", "link", "registration", "batches"])
def test_the_extensions_schema_is_replaced_by_a_trigger(db, call):
    db.install()
    app, auth = mismatched(db, "ann@example.com") if call != "link" else (app_user(db, "ann@example.com"), None)
    db.sql(
        f"""CREATE FUNCTION public.swap() RETURNS trigger LANGUAGE plpgsql AS $swap$ BEGIN
                IF to_regnamespace('onagui_old') IS NULL THEN {NEW_SCHEMA}; END IF;
                RETURN NULL; END $swap$;
            CREATE TRIGGER swap AFTER INSERT OR UPDATE ON onagui.app_users FOR EACH STATEMENT EXECUTE FUNCTION public.swap()"""
    )
    if call == "link":
        db.auth.signup("ann@example.com")
    else:
        calls = {"fix": FIX, "batches": "CALL onagui.fix_all_user_ids()", "registration": "SELECT onagui.sync_user_registration(%s::jsonb)"}
        body = ['{"userId": "%s", "email": "ann@example.com"}' % auth] if call == "registration" else None
        with expect_error("55000", detail=False, hint=False):
            db.sql(calls[call], body, role="postgres")
    assert not is_superuser(db, "postgres")


#: What eve makes in place of the table, by what it runs.
MADE = {
    "trigger": """CREATE TABLE eve.zz (u uuid); INSERT INTO eve.zz VALUES (OLD.u);
                  CREATE TRIGGER trap BEFORE UPDATE ON eve.zz FOR EACH ROW EXECUTE FUNCTION eve.trap()""",
    "rule": """CREATE TABLE eve.zz (u uuid); INSERT INTO eve.zz VALUES (OLD.u);
               CREATE RULE trap AS ON UPDATE TO eve.zz DO INSTEAD SELECT eve.gain()""",
    "view": "CREATE VIEW eve.zz AS SELECT u FROM eve.theirs WHERE eve.gain()",
    "policy": """CREATE TABLE eve.zz (u uuid); INSERT INTO eve.zz VALUES (OLD.u); ALTER TABLE eve.zz ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY trap ON eve.zz USING (eve.gain())""",
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("owner", [ADMIN, "postgres"])
@pytest.mark.parametrize("call", ["fix", "several", "link"])
def test_a_table_that_refers_to_users_is_replaced_by_the_schemas_owner(db, plain, call, owner, made):
    eve = plain("eve")
    db.install()
    db.sql(f"GRANT REFERENCES ON onagui.app_users TO {eve}; CREATE SCHEMA eve AUTHORIZATION {eve}; GRANT ALL ON SCHEMA eve TO PUBLIC", role=ADMIN)
    db.sql("CREATE TABLE eve.aa (u uuid REFERENCES onagui.app_users)", role=eve)
    db.sql("CREATE TABLE eve.zz (u uuid REFERENCES onagui.app_users); CREATE TABLE eve.theirs (u uuid); GRANT ALL ON eve.theirs TO PUBLIC", role=owner)
    db.sql("CREATE TABLE eve.ran_as (who name); GRANT INSERT ON eve.ran_as TO PUBLIC", role=eve)
    db.sql(
        f"""{TRAP.format(schema="eve", role=eve).replace("BEGIN EXECUTE", "BEGIN INSERT INTO eve.ran_as VALUES (current_user); EXECUTE")};
            CREATE FUNCTION eve.gain() RETURNS bool LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO eve.ran_as VALUES (current_user); EXECUTE 'ALTER ROLE {eve} SUPERUSER'; RETURN true; END $$;
            CREATE FUNCTION eve.swap() RETURNS trigger LANGUAGE plpgsql AS $swap$ BEGIN
                DROP TABLE eve.zz; {MADE[made]}; GRANT ALL ON eve.zz TO PUBLIC;
                RETURN NEW; END $swap$;
            CREATE TRIGGER swap BEFORE UPDATE ON eve.aa FOR EACH ROW EXECUTE FUNCTION eve.swap()""",
        role=eve,
    )
    db.sql("INSERT INTO eve.theirs VALUES (gen_random_uuid())", role=owner)
    emails = ["ann@example.com", "bob@example.com"][: 1 + (call == "several")]
    for email in emails:
        app = app_user(db, email)
        auth_user(db, email, confirmed=call != "link")
        for table in "aa", "zz":
            db.sql(f"INSERT INTO eve.{table} VALUES (%s)", [app], role=ADMIN)
    if call == "link":
        db.auth.confirm(db.one("SELECT id FROM auth.users", role=ADMIN))
        failed = [audit(db)[-1]]
    else:
        failed = fix(db, emails)
    assert not is_superuser(db, eve)
    assert db.sql("SELECT * FROM eve.ran_as", role=ADMIN) == []
    assert failed and all(row["outcome"] == "failed" and row["details"]["error"]["sqlstate"] == "55000" for row in failed)
    assert db.sql("SELECT count(*) FROM onagui.app_users a JOIN auth.users u ON u.id = a.id", role=ADMIN) == [(0,)]


@pytest.mark.parametrize("users", [1, 2])
@pytest.mark.parametrize("is_warm", [False, True])
def test_the_users_table_is_replaced_while_a_sign_up_waits(db, users, is_warm):
    db.install()
    db.sql("ALTER TABLE onagui.app_users OWNER TO supabase_admin; GRANT SELECT, UPDATE ON onagui.app_users TO postgres", role=ADMIN)
    session, installer = db.connect("supabase_auth_admin"), db.connect("postgres")
    signup = f"INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), gen_random_uuid() || '@example.com' FROM generate_series(1, {users})"
    if is_warm:
        session.execute(signup)
    with installer.transaction():
        installer.execute("LOCK TABLE onagui.app_users IN SHARE ROW EXCLUSIVE MODE")
        waiting = db.in_background(signup, connection=session).wait_blocked(by=installer)
        installer.execute(
            f"""ALTER SCHEMA onagui RENAME TO onagui_old; CREATE SCHEMA onagui; GRANT USAGE ON SCHEMA onagui TO PUBLIC;
                CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text); GRANT ALL ON onagui.app_users TO PUBLIC;
                {TRAP.format(schema="onagui", role="postgres")};
                CREATE TRIGGER trap AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION onagui.trap()"""
        )
    waiting.result()
    assert not is_superuser(db, "postgres")
    assert db.one("SELECT count(*) FROM onagui.app_users", role=ADMIN) == 0
