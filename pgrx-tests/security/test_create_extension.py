"""CREATE EXTENSION among things that somebody else has put there before."""

import pytest
from support import expect_error

from decoys import Decoys


def test_a_schema_of_somebody_elses(db, plain):
    mallory = plain("mallory")
    db.sql(f"GRANT CREATE ON DATABASE {db.name} TO {mallory}", role="supabase_admin")
    db.sql("CREATE SCHEMA onagui", role=mallory)
    decoys = Decoys(db, "onagui", mallory)
    with expect_error("42501", "belongs to somebody else", detail=mallory, hint="OWNER TO"):
        db.sql("CREATE EXTENSION onagui_sync")
    assert db.one("SELECT count(*) FROM pg_extension WHERE extname = 'onagui_sync'") == 0
    # A superuser is warned, since dumps are restored like that, and nothing of it is taken.
    db.sql("CREATE EXTENSION onagui_sync", role="supabase_admin")
    assert mallory in db.warnings[-1].message
    db.sql("CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text)", role="supabase_admin")
    ann = db.auth.signup("ann@example.com")
    db.auth.delete(ann)
    db.sql("SELECT * FROM onagui.fix_user_ids(p_apply => true)", role="supabase_admin")
    db.sql("SELECT * FROM onagui.user_sync_status", role="supabase_admin")
    assert decoys.calls() == 0


def test_decoys_in_ones_own_schema_are_not_taken(db, plain):
    """The schema is the installer's, but somebody else was let in to create in it."""
    mallory = plain("mallory")
    db.sql("CREATE SCHEMA onagui")
    db.sql(f"GRANT CREATE, USAGE ON SCHEMA onagui TO {mallory}")
    decoys = Decoys(db, "onagui", mallory)
    db.sql("CREATE EXTENSION onagui_sync")
    db.sql("SELECT onagui.create_app_users()")
    ann = db.auth.signup("ann@example.com")
    db.auth.change_email(ann, "ann@example.org")
    db.sql("SELECT * FROM onagui.fix_user_ids(p_apply => true)")
    db.sql("SELECT * FROM onagui.sync_status()")
    assert decoys.calls() == 0
    db.sql("DROP EXTENSION onagui_sync")
    assert decoys.calls() == 0


@pytest.mark.parametrize(
    "query, code",
    [
        ("CREATE FUNCTION onagui.fix_user_id_mismatch(text, boolean) RETURNS text LANGUAGE sql RETURN 'mine'", "42723"),
        ("CREATE FUNCTION onagui.fix_user_id_mismatch(text) RETURNS text LANGUAGE sql RETURN 'mine'", "42723"),
        ("CREATE FUNCTION onagui.sync_status() RETURNS text LANGUAGE sql RETURN 'mine'", "42725"),
        ("CREATE TABLE onagui.sync_audit_log ()", "42P07"),
        ("CREATE VIEW onagui.user_sync_status AS SELECT 1 AS mine", "42P07"),
        ("CREATE SEQUENCE onagui.sync_column", "42P07"),
    ],
)
def test_what_has_our_names_is_refused_and_not_adopted(db, query, code):
    db.sql("CREATE SCHEMA onagui")
    db.sql(query)
    with expect_error(code, detail=False, hint=False):
        db.sql("CREATE EXTENSION onagui_sync")
    assert db.one("SELECT count(*) FROM pg_extension WHERE extname = 'onagui_sync'") == 0


def test_who_may_not_read_auth_users_does_not_get_there_by_this(db, plain):
    mallory = plain("mallory")
    db.sql(f"GRANT CREATE ON DATABASE {db.name} TO {mallory}", role="supabase_admin")
    with expect_error("42501", "reads auth.users", detail=mallory):
        db.sql("CREATE EXTENSION onagui_sync", role=mallory)


def test_hostile_search_path_at_create(db, plain):
    mallory = plain("mallory")
    db.sql(f"CREATE SCHEMA evil AUTHORIZATION {mallory}; GRANT USAGE ON SCHEMA evil TO PUBLIC", role="supabase_admin")
    decoys = Decoys(db, "evil", mallory)
    connection = db.connect("supabase_admin")
    connection.execute("SET search_path = evil, pg_temp, pg_catalog")
    connection.execute("CREATE EXTENSION onagui_sync")
    connection.execute("SELECT onagui.enable_sync(), onagui.disable_sync(), onagui.enable_sync(true)")
    connection.execute("DROP EXTENSION onagui_sync")
    assert decoys.calls() == 0
