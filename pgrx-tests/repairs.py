"""What the tests of the repair share: users out of step, and calls that bring them into step."""

import uuid

from psycopg import sql as build

ADMIN = "supabase_admin"


def new_id():
    return uuid.uuid4()


def insert(db, table, row, role=ADMIN):
    names = build.SQL(", ").join(map(build.Identifier, row))
    values = build.SQL(", ").join(map(build.Placeholder, row))
    db.sql(build.SQL("INSERT INTO {} ({}) VALUES ({})").format(build.SQL(table), names, values), row, role=role)


def auth_user(db, email, id=None, confirmed=True, **columns):
    """An auth user whom the triggers have not seen."""
    id = id or new_id()
    row = {"id": id, "email": email, "is_sso_user": False, **columns}
    session = db.session(ADMIN)
    with session.transaction():
        session.execute("SET LOCAL onagui_sync.enabled = off")
        insert(db, "auth.users", row)
        if confirmed:
            session.execute("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [id])
    return id


def app_user(db, email, id=None, **columns):
    id = id or new_id()
    insert(db, "onagui.app_users", {"id": id, "email": email, **columns})
    return id


def mismatched(db, email, confirmed=True, **columns):
    """An app user and an auth user with one e-mail and two ids: (app, auth)."""
    return app_user(db, email, **columns), auth_user(db, email, confirmed=confirmed)


def duplicate(db, email):
    """An auth user with a row of their own, and another row with their e-mail: (app, auth)."""
    db.sql("DROP INDEX IF EXISTS onagui.app_users_email_key", role=ADMIN)
    auth = auth_user(db, email)
    app_user(db, email, auth)
    return app_user(db, email.upper()), auth


def fix(db, emails, apply=True, policy="error", role="postgres", limit=None):
    emails = [emails] if isinstance(emails, str) else emails
    return db.rows("SELECT * FROM onagui.fix_user_ids(%s, %s, %s, %s)", [emails, apply, policy, limit], role=role)


def fix_one(db, emails, apply=True, policy="error", role="postgres"):
    """The only user about whom there is something to do; a row of their own that is in step is passed over."""
    rows = [row for row in fix(db, emails, apply, policy, role) if row["action"] != "none"]
    assert len(rows) == 1, rows
    return rows[0]


def undo(db, audit_id, role="postgres"):
    return db.one("SELECT onagui.undo_fix(%s)", [audit_id], role=role)


def statuses(db):
    return dict(db.sql("SELECT sync_status, users FROM onagui.sync_summary() WHERE users > 0", role=ADMIN))


def content(db, *tables):
    """All rows of the tables as text."""
    return {table: sorted(row for (row,) in db.sql(f"SELECT t::text FROM {table} t", role=ADMIN)) for table in tables}


def log(db, **filters):
    import support

    return support.audit(db, **filters)
