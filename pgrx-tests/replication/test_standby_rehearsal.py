"""A rehearsal on a hot standby: the same answers as on the primary, and nothing is written."""

from repairs import app_user, auth_user, duplicate, fix, mismatched
from standbys import wait_for_replay

from support import Database, expect_error


def test_rehearsal_on_a_standby(primary, standby):
    db = primary.database()
    try:
        db.install()
        db.sql(
            """CREATE TABLE orders (n int, user_id uuid REFERENCES onagui.app_users, note text, UNIQUE (n, user_id));
               CREATE TABLE items (n int, buyer uuid, owner text, FOREIGN KEY (n, buyer) REFERENCES orders (n, user_id));
               SELECT onagui.register_reference('items', 'owner')"""
        )
        app, auth = duplicate(db, "dup@example.com")
        db.sql(f"INSERT INTO orders VALUES (1, '{app}'), (2, '{app}'), (1, '{auth}'); INSERT INTO items VALUES (1, '{app}', '{app}')")
        app, auth = mismatched(db, "ann@example.com")
        db.sql(f"INSERT INTO orders VALUES (1, '{app}'); INSERT INTO items VALUES (1, '{app}', '{app}'), (NULL, NULL, '{auth}')")
        auth_user(db, "missing@example.com")
        app_user(db, "old@example.com", auth_user(db, "mail@example.com"))
        there = Database(standby, db.name)
        wait_for_replay(db, standby)
        assert there.one("SELECT pg_is_in_recovery()")
        for policy in "error", "keep_auth", "keep_app":
            here = fix(db, None, apply=False, policy=policy)
            assert len(here) == 4 and fix(there, None, apply=False, policy=policy) == here
        assert fix(there, "dup@example.com", apply=False) == fix(db, "dup@example.com", apply=False)
        assert there.one("SELECT onagui.fix_user_id_mismatch('ann@example.com', false)").startswith("MANUAL: ")
        assert there.sql("SELECT outcome FROM onagui.fix_user_id(%s, %s)", [app, auth]) == [("planned",)]
        for call in "SELECT * FROM onagui.fix_user_ids(NULL, true)", "CALL onagui.fix_all_user_ids()", "SELECT onagui.undo_fix(1)":
            with expect_error("25006", detail=False, hint=False):
                there.sql(call)
        there.disconnect()
    finally:
        db.drop()
