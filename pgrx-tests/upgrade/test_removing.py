"""DROP EXTENSION and CREATE EXTENSION: what is lost with it, and how README keeps it."""

import pytest

from readme import block
from repairs import ADMIN, app_user, statuses

KNOWN = "SELECT count(*) FROM onagui.sync_known_id"


@pytest.fixture
def home(db):
    return db.install()


def test_the_ids_of_deleted_users_can_be_kept(home, tmp_path):
    gone = home.auth.signup("ann@example.com")
    home.auth.delete(gone)
    recipe = block("Keep the ids of deleted users, in psql", "Removing")
    home.server.program("psql", "-qXv", "ON_ERROR_STOP=1", "-d", home.name, "-f", "-", input=recipe, cwd=tmp_path)
    assert home.one(KNOWN, role=ADMIN) == 1
    home.auth.signup("ann@example.com")
    assert home.sql("SELECT id FROM onagui.app_users") == [(gone,)]
    assert statuses(home) == {"CONFLICT": 1}


def test_without_that_they_are_not_known(home):
    """As README says; it must not say so of what is kept."""
    home.auth.delete(home.auth.signup("ann@example.com"))
    home.sql("INSERT INTO onagui.sync_column VALUES ('full_name', 'user_meta', 'called')")
    home.sql("CREATE TABLE files (owner uuid); SELECT onagui.register_reference('files', 'owner')")
    app_user(home, "bob@example.com")
    home.sql("DROP EXTENSION onagui_sync; CREATE EXTENSION onagui_sync")
    for table in "sync_known_id", "sync_column", "sync_reference", "sync_audit_log":
        assert home.one(f"SELECT count(*) FROM onagui.{table}", role=ADMIN) == 0
    again = home.auth.signup("ann@example.com")
    assert (again,) in home.sql("SELECT id FROM onagui.app_users")
    assert home.one("SELECT count(*) FROM onagui.app_users") == 2
