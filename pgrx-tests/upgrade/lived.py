"""A database that has been used for a while, and what has to hold of it wherever it is moved to."""

import json

from repairs import ADMIN, app_user, content, duplicate, fix_one, mismatched, statuses, undo

#: What every version has registered; by_superuser came with 0.2.0.
REGISTERED = "(SELECT table_schema, table_name, column_name, registered_at FROM onagui.sync_reference)"

#: What the application and Auth know, and what the extension has been told, remembers and has recorded.
TABLES = (
    "auth.users", "onagui.app_users", "orders", "files",
    "onagui.sync_column", "onagui.sync_known_id", REGISTERED, "onagui.sync_audit_log",
)  # fmt: skip
OURS = ("onagui.app_users", "orders", "files")


def live_in(db):
    """Uses a database in which the extension and the standard onagui.app_users are; a pending link, a conflict and a conflict of
    a deleted user remain, and two fixes that can be undone."""
    db.sql(
        """ALTER TABLE onagui.app_users ADD tenant text;
           INSERT INTO onagui.sync_column VALUES ('tenant', 'user_meta', 'tenant');
           CREATE TABLE orders (id int PRIMARY KEY, user_id uuid NOT NULL REFERENCES onagui.app_users, item text, UNIQUE (user_id, item));
           CREATE TABLE files (id int PRIMARY KEY, owner text);
           SELECT onagui.register_reference('files', 'owner')"""
    )
    db.auth.signup("ann@example.com", {"username": "ann", "tenant": "acme"})
    db.auth.delete(db.auth.signup("gone@example.com"))
    db.auth.signup("gone@example.com")
    app_user(db, "pam@example.com")
    db.auth.signup("pam@example.com", confirmed=False)

    mismatched(db, "once@example.com")
    undo(db, fix_one(db, "once@example.com")["audit_id"])

    lived = {"before": [], "audit": []}
    for make, policy in (mismatched, "error"), (duplicate, "keep_auth"):
        name = make.__name__
        app, auth = make(db, f"{name}@example.com")
        first = 10 * len(lived["audit"])
        db.sql("INSERT INTO orders VALUES (%s, %s, 'hat'), (%s, %s, 'cap')", [first + 1, app, first + 2, app])
        db.sql("INSERT INTO files VALUES (%s, %s)", [first + 1, app])
        if make is duplicate:
            db.sql("INSERT INTO orders VALUES (%s, %s, 'hat')", [first + 3, auth])
        lived["before"].append(content(db, *OURS))
        fixed = fix_one(db, f"{name}@example.com", policy=policy)
        assert fixed["outcome"] == "done", fixed
        lived["audit"].append(fixed["audit_id"])
    lived["content"] = content(db, *TABLES)
    lived["statuses"] = statuses(db)
    lived["health"] = health(db)
    assert all(lived["content"].values())
    assert lived["statuses"] == {"SYNCED": 3, "CONFLICT": 1, "PENDING": 1, "MISMATCHED": 1}
    return lived


def health(db):
    """What is not well, remedies left out: they name versions."""
    return db.sql("SELECT check_name, status, detail FROM onagui.sync_health() WHERE status <> 'ok' ORDER BY 1, 3", role=ADMIN)


def is_all_there(db, lived):
    found = content(db, *TABLES)
    for table in TABLES:
        assert found[table] == lived["content"][table], table
    assert statuses(db) == lived["statuses"]
    assert health(db) == lived["health"]
    for role in ("anon", "service_role"):
        with db.connect("authenticator").acting_as(role) as api:
            api.execute("SELECT onagui.sync_ping()")
    assert db.one("SELECT count(*) FROM onagui.user_sync_status", role=ADMIN) == sum(lived["statuses"].values())


def installer_may(db):
    """postgres, who was the installer before the move: configures, operates, registers anybody, and sees it all."""
    with db.session("postgres").transaction(force_rollback=True):
        ann = db.one("SELECT id FROM auth.users WHERE email = 'ann@example.com'")
        body = json.dumps({"userId": str(ann), "email": "ann@example.com", "username": "anna"})
        assert db.one("SELECT onagui.sync_user_registration(%s) -> 'data' ->> 'action'", [body]) == "updated"
        assert db.one("SELECT onagui.disable_sync()").startswith("OK") and db.one("SELECT onagui.enable_sync()").startswith("OK")
        db.sql("INSERT INTO onagui.sync_column VALUES ('full_name', 'user_meta', 'nick')")
        assert db.one("SELECT onagui.unregister_reference('files', 'owner')").endswith("fixes leave it alone")
        assert db.sql("SELECT * FROM onagui.fix_user_ids()") and db.sql("SELECT * FROM onagui.sync_audit_log")


def goes_on(db, lived):
    """Sign-ups, links, known ids, fixes, and undoing what was fixed before the move. Leaves the database changed."""
    last = db.one("SELECT max(audit_id) FROM onagui.sync_audit_log", role=ADMIN)
    # From the last fix to the first: each puts back what was there just before.
    for number in (1, 0):
        assert undo(db, lived["audit"][number], role=ADMIN).startswith("UNDONE:")
        found = content(db, *OURS)
        assert all(set(rows) <= set(found[table]) for table, rows in lived["before"][number].items())
    assert db.one("SELECT min(audit_id) FROM onagui.sync_audit_log WHERE action = 'undo' AND audit_id > %s", [last], role=ADMIN) == last + 1
    fixed = fix_one(db, "mismatched@example.com", role=ADMIN)
    assert (fixed["outcome"], fixed["rows_changed"]) == ("done", 3), fixed

    zoe = db.auth.signup("zoe@example.com", {"tenant": "zoo"})
    assert db.sql("SELECT email, tenant FROM onagui.app_users WHERE id = %s", [zoe], role=ADMIN) == [("zoe@example.com", "zoo")]
    pam = db.one("SELECT id FROM auth.users WHERE email = 'pam@example.com'", role=ADMIN)
    db.auth.confirm(pam)
    assert db.one("SELECT email FROM onagui.app_users WHERE id = %s", [pam], role=ADMIN) == "pam@example.com"
    db.auth.delete(zoe)
    assert db.one("SELECT count(*) FROM onagui.sync_known_id WHERE auth_user_id = %s", [zoe], role=ADMIN) == 1
    assert db.sql("SELECT sync_status FROM onagui.sync_status(p_email => 'gone@example.com')", role=ADMIN) == [("CONFLICT",)]
    assert not db.warnings
