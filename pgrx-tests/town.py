"""An application with keys of many kinds, users of every status, and what must hold in it whatever has happened."""

from collections import Counter

from repairs import ADMIN

#: `born` says whom a row was made as, `home` whom a referring row was made for: neither ever changes, so that they tell
#: where everything belongs after any number of fixes and undos.
SCHEMA = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.orders (
        id uuid PRIMARY KEY, home uuid NOT NULL, user_id uuid NOT NULL REFERENCES onagui.app_users);
    CREATE TABLE shop.items (
        id uuid PRIMARY KEY, home uuid NOT NULL, order_id uuid REFERENCES shop.orders ON DELETE CASCADE,
        user_id uuid NOT NULL REFERENCES onagui.app_users ON UPDATE CASCADE ON DELETE CASCADE);
    CREATE TABLE shop.teams (
        id uuid PRIMARY KEY, home uuid NOT NULL, user_id uuid NOT NULL REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE shop.members (
        id uuid NOT NULL UNIQUE, home uuid NOT NULL, team int NOT NULL,
        user_id uuid NOT NULL REFERENCES onagui.app_users ON DELETE CASCADE DEFERRABLE, PRIMARY KEY (team, user_id));
    CREATE TABLE shop.notes (
        id uuid PRIMARY KEY, home uuid NOT NULL, team int, user_id uuid,
        FOREIGN KEY (team, user_id) REFERENCES shop.members ON UPDATE CASCADE ON DELETE SET NULL);
    CREATE TABLE shop.visits (id uuid PRIMARY KEY, home uuid NOT NULL, user_id text NOT NULL);
    CREATE INDEX ON shop.orders (user_id);
    CREATE INDEX ON shop.items (order_id);
    CREATE INDEX ON shop.items (user_id);
    CREATE INDEX ON shop.teams (user_id);
    CREATE INDEX ON shop.members (user_id);
    CREATE INDEX ON shop.notes (team, user_id);
    CREATE INDEX ON shop.visits (user_id);
    SELECT onagui.register_reference('shop.visits', 'user_id');
    ALTER TABLE onagui.app_users ADD born uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE;
    INSERT INTO onagui.sync_column VALUES ('born', 'column', 'id');
    -- Several rows may have one e-mail.
    DROP INDEX onagui.app_users_email_key;
    CREATE INDEX ON onagui.app_users (lower(btrim(email)))"""

#: {table: (columns beside id and home, their values for the app user u)}
CHILDREN = {
    "orders": ("user_id", "u.id"),
    "items": ("user_id", "u.id"),
    "teams": ("user_id", "u.id"),
    "members": ("team, user_id", "4 + trunc(random() * 1e9)::int, u.id"),
    "visits": ("user_id", "u.id::text"),
}

#: Users whom the triggers have not seen, and what refers to them.
SEED = """
    SET onagui_sync.enabled = off;
    CREATE TABLE public.wanted AS
        SELECT kind || i || '@example.com' AS email, kind, gen_random_uuid() AS auth_id, gen_random_uuid() AS app_id, i
          FROM unnest(ARRAY['synced', 'mismatched', 'duplicate', 'missing', 'renamed', 'gone']) kind,
               generate_series(1, {users}) i
         WHERE i <= {users} / CASE kind WHEN 'mismatched' THEN 1 WHEN 'duplicate' THEN 2 ELSE 4 END;
    INSERT INTO auth.users (id, email, email_confirmed_at, created_at)
        SELECT auth_id, email, now(), now() FROM public.wanted WHERE kind <> 'gone';
    INSERT INTO onagui.app_users (id, email, username, born)
        SELECT auth_id, CASE kind WHEN 'renamed' THEN 'old-' ELSE '' END || email, kind || i, auth_id
          FROM public.wanted WHERE kind IN ('synced', 'renamed', 'duplicate')
        UNION ALL
        SELECT app_id, upper(email), kind || '-' || i, app_id FROM public.wanted WHERE kind IN ('mismatched', 'duplicate', 'gone');
    DROP TABLE public.wanted;
    INSERT INTO shop.orders SELECT gen_random_uuid(), id, id FROM onagui.app_users, generate_series(1, 2);
    INSERT INTO shop.items SELECT gen_random_uuid(), home, id, user_id FROM shop.orders;
    INSERT INTO shop.teams SELECT gen_random_uuid(), id, id FROM onagui.app_users;
    INSERT INTO shop.members SELECT gen_random_uuid(), id, team, id FROM onagui.app_users, generate_series(1, 3) team;
    INSERT INTO shop.notes SELECT gen_random_uuid(), home, team, user_id FROM shop.members;
    INSERT INTO shop.visits SELECT gen_random_uuid(), id, id::text FROM onagui.app_users;
    RESET onagui_sync.enabled"""

FOREIGN_KEYS = """
    SELECT conrelid::regclass::text, confrelid::regclass::text,
           ARRAY(SELECT quote_ident(attname) FROM unnest(conkey) WITH ORDINALITY k(n, o) JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY o),
           ARRAY(SELECT quote_ident(attname) FROM unnest(confkey) WITH ORDINALITY k(n, o) JOIN pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY o)
      FROM pg_constraint WHERE contype = 'f' AND conparentid = 0"""

FIXABLE = ["EMAIL_MISMATCH", "MISMATCHED", "DUPLICATE", "MISSING_IN_APP_USERS"]


def build(server, users, name="town"):
    """A database with the application and its users, to be a template of others."""
    database = server.database(name).install()
    # In the name of the one who installs, as whom the tables are written later on.
    database.sql(SCHEMA)
    database.sql(SEED.format(users=users), role=ADMIN)
    for connection in database._opened:
        connection.close()
    return name


def rows(db, query, params=None):
    return db.sql(query, params, role=ADMIN)


def check_keys(db):
    """Anti-joins over all foreign keys, and over the registered reference."""
    for child, parent, columns, keys in rows(db, FOREIGN_KEYS):
        joined = " AND ".join(f"p.{k} = c.{c}" for c, k in zip(columns, keys))
        present = " AND ".join(f"c.{c} IS NOT NULL" for c in columns)
        orphans = rows(db, f"SELECT c::text FROM {child} c WHERE {present} AND NOT EXISTS (SELECT FROM {parent} p WHERE {joined})")
        assert not orphans, f"{child} {columns} refer to no row of {parent}: {orphans}"
    orphans = rows(db, "SELECT id FROM shop.visits v WHERE NOT EXISTS (SELECT FROM onagui.app_users u WHERE u.id::text = v.user_id)")
    assert not orphans, f"shop.visits: {orphans}"


def check_indexes(db):
    """Each row of the tables that are written without a statement has its entries in all indexes."""
    if rows(db, "SELECT FROM pg_available_extensions WHERE name = 'amcheck'"):
        rows(db, "CREATE EXTENSION IF NOT EXISTS amcheck")
        rows(
            db,
            """SELECT bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam
                WHERE amname = 'btree' AND indrelid = ANY (ARRAY['onagui.app_users', 'onagui.sync_audit_log', 'auth.users']::regclass[])""",
        )


def check_statuses(db):
    """Everybody is there, exactly once."""
    auth = {id for (id,) in rows(db, "SELECT id FROM auth.users WHERE deleted_at IS NULL")}
    app = {id for (id,) in rows(db, "SELECT id FROM onagui.app_users")}
    told = rows(db, "SELECT sync_status, auth_user_id, app_user_id FROM onagui.sync_status()")
    times = Counter(app_id for _, _, app_id in told if app_id)
    assert set(times) == app and set(times.values()) <= {1}, [id for id in app | set(times) if times[id] != 1]
    alone = Counter(auth_id for status, auth_id, _ in told if auth_id and status not in ("DUPLICATE", "PENDING"))
    beside = Counter(auth_id for status, auth_id, _ in told if auth_id and status in ("DUPLICATE", "PENDING"))
    assert set(alone) | set(beside) == auth
    wrong = [id for id in auth if alone[id] != 1 and (alone[id], beside[id]) != (0, 1)]
    assert not wrong, [row for row in told if row[1] in wrong]
    summary = {status: users for status, users in rows(db, "SELECT * FROM onagui.sync_summary()") if users}
    assert summary == dict(Counter(status for status, _, _ in told)), summary
    return summary


class Replay:
    """Where every app user must be by what the audit log says was done, in the order in which it was done."""

    def __init__(self):
        self.holder = {}  # id: born of the row that has it
        self.seat = {}  # born: id
        self.inside = {}  # born: born of the row it was merged into
        self.unmade = set()  # born of rows whose creation was undone

    def holding(self, id):
        return self.holder.get(id, id)

    def rekey(self, old, new):
        born = self.holding(old)
        assert born, f"app user {old} cannot become {new}: nobody has that id"
        self.holder[old], self.holder[new], self.seat[born] = None, born, new

    def merge(self, old, new):
        born = self.holding(old)
        assert born and self.holding(new), f"app user {old} cannot be merged into {new}: {born}, {self.holding(new)}"
        self.holder[old], self.inside[born] = None, self.holding(new)

    def split(self, old, new):
        born = next((b for b, host in self.inside.items() if host == self.holding(new) and self.seat.get(b, b) == old), None)
        assert born, f"app user {old} cannot leave {new} again"
        del self.inside[born]
        self.holder[old] = born

    def do(self, action, old, new):
        """`old` and `new` as for the thing first done."""
        if action in ("rekey", "link"):
            self.rekey(old, new)
        elif action == "merge":
            self.merge(old, new)
        elif action == "create":
            self.unmade.discard(new)

    def undo(self, action, old, new):
        if action in ("rekey", "link"):
            self.rekey(new, old)
        elif action == "merge":
            self.split(old, new)
        elif action == "create":
            self.unmade.add(new)

    def root(self, born):
        while born in self.inside:
            born = self.inside[born]
        return born

    def place(self, born):
        root = self.root(born)
        return self.seat.get(root, root)


def replay(log):
    told, state = {entry["audit_id"]: entry for entry in log}, Replay()

    def origin(entry):
        """The thing first done, and whether this entry does it (again) or takes it back."""
        forth = True
        while entry["action"] == "undo":
            entry, forth = told[entry["details"]["undoes"]], not forth
        return entry, forth

    for entry in sorted(log, key=lambda entry: entry["audit_id"]):
        if entry["undone_by"] is not None:
            assert told[entry["undone_by"]]["details"]["undoes"] == entry["audit_id"], entry
        if entry["outcome"] != "done":
            continue
        if entry["action"] == "undo":
            assert told[entry["details"]["undoes"]]["undone_by"] == entry["audit_id"], entry
        first, forth = origin(entry)
        (state.do if forth else state.undo)(first["action"], first["old_app_user_id"], first["new_app_user_id"])
    return state


def gave_way(log):
    """Referring rows that merges took away and that have not been put back: {table: ids}."""
    found = {}
    for entry in log:
        if entry["undone_by"] is None and entry["outcome"] == "done":
            for step in entry["details"].get("undo") or []:
                for done in step.get("changes", []):
                    found.setdefault(done["table"], set()).update(row["id"] for row in done.get("removed", []))
    return found


def check_audit(db, crowd):
    """The audit log and the tables tell the same, and both have all that was acknowledged."""
    log = db.rows("SELECT * FROM onagui.sync_audit_log", role=ADMIN)
    state = replay(log)
    users = dict(rows(db, "SELECT born, id FROM onagui.app_users"))
    moved = {born: (id, state.place(born)) for born, id in users.items() if (id, born) != (state.place(born), state.root(born))}
    assert not moved, f"app users elsewhere than the audit log says: {moved}"
    lost = [born for born in crowd.app_users if state.root(born) not in users and state.root(born) not in state.unmade]
    assert not lost, f"app users lost: {lost}"

    for table in (*CHILDREN, "notes"):
        here = {id: (home, user) for id, home, user in rows(db, f"SELECT id, home, user_id::text FROM shop.{table}")}
        astray = {id: (user, str(state.place(home))) for id, (home, user) in here.items() if user != str(state.place(home))}
        assert not astray, f"shop.{table}: rows with somebody else: {astray}"
        away = gave_way(log).get(f"shop.{table}", set())
        lost = [id for id in crowd.children[table] if id not in here and str(id) not in away]
        assert not lost, f"shop.{table}: rows lost: {lost}"

    told = {entry["audit_id"]: entry for entry in log}
    for wanted in crowd.fixes:
        got = told.get(wanted["audit_id"])
        names = ("action", "outcome", "auth_user_id", "old_app_user_id", "new_app_user_id", "rows_changed")
        assert got and all(got[name] == wanted[name] for name in names), (wanted, got)
    for undone, by in crowd.undos.items():
        assert told[undone]["undone_by"] == by, (undone, by)
    return log


def check_signups(db, crowd, log):
    """Every sign-up that was acknowledged, and every other one that got through, has its row or its record."""
    auth = {id for (id,) in rows(db, "SELECT id FROM auth.users")}
    app = {id for (id,) in rows(db, "SELECT id FROM onagui.app_users")}
    recorded = {entry["auth_user_id"] for entry in log}
    lost = crowd.signed_up - auth - crowd.deleted
    assert not lost, f"sign-ups lost: {lost}"
    unseen = (auth & crowd.sent) - app - recorded
    assert not unseen, f"sign-ups without row or record: {unseen}"
    unconfirmed = crowd.confirmed - crowd.deleted - {id for (id,) in rows(db, "SELECT id FROM auth.users WHERE email_confirmed_at IS NOT NULL")}
    assert not unconfirmed, f"confirmations lost: {unconfirmed}"


def check(db, crowd):
    check_keys(db)
    check_indexes(db)
    log = check_audit(db, crowd)
    check_signups(db, crowd, log)
    return check_statuses(db)


def finish(db, crowd):
    """The batch goes on where it was, until nobody is left who can be fixed."""
    db.sql("CALL onagui.fix_all_user_ids(50, 'keep_auth')")
    summary = check(db, crowd)
    left = {status: summary[status] for status in FIXABLE if status in summary}
    assert not left, f"still to be fixed: {left}: {rows(db, 'SELECT * FROM onagui.sync_status(%s)', [FIXABLE])}"
    return summary
