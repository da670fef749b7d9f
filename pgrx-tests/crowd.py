"""Sessions that do at once what sign-ups, an application and operators do, and remember what they were told is done."""

import random
import re
import threading
import uuid
from collections import Counter

import psycopg
from psycopg.rows import dict_row

from repairs import ADMIN
from town import CHILDREN

#: The server, or the connection, has gone.
LOST = ("57P01", "57P02", "57P03", "08006", "08003")


def is_lost(error):
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate is None or error.sqlstate in LOST)


class Crowd:
    """`sent` is what was on the way, the rest what was acknowledged."""

    def __init__(self, db, seed, kinds):
        self.db, self.seed = db, seed
        self.over = threading.Event()
        self.errors = []
        self.done = Counter()
        self.sent, self.signed_up, self.confirmed, self.deleted = set(), set(), set(), set()
        self.app_users = {id for (id,) in db.sql("SELECT born FROM onagui.app_users", role=ADMIN)}
        self.children = {
            table: {id for (id,) in db.sql(f"SELECT id FROM shop.{table}", role=ADMIN)} for table in (*CHILDREN, "notes")
        }
        self.fixes, self.undos = [], {}
        self.emails = [email for (email,) in db.sql("SELECT DISTINCT lower(email) FROM onagui.app_users", role=ADMIN)]
        self.clients = [kind(self, number) for number, kind in enumerate(kinds)]

    def start(self):
        for client in self.clients:
            client.start()
        return self

    def stop(self):
        """Ends the sessions, or waits for them where their server has died; fails for what none of them should meet."""
        self.over.set()
        for client in self.clients:
            client.join(60)
            assert not client.is_alive(), f"{client.name} hangs"
        assert not self.errors, "\n".join(self.errors)


class Client(threading.Thread):
    role = "postgres"
    #: SQLSTATEs of ordinary errors, after which one tries again or lets it be.
    ordinary = ()

    def __init__(self, crowd, number):
        super().__init__(name=f"{type(self).__name__} {number}", daemon=True)
        self.crowd, self.number = crowd, number
        self.random = random.Random(f"{crowd.seed} {number}")
        self.connection = crowd.db.connect(self.role)
        self.pid = self.connection.info.backend_pid

    def run(self):
        try:
            while not self.crowd.over.is_set():
                self.try_once()
        except Exception as error:
            if not is_lost(error):
                self.crowd.errors.append(f"{self.name}: {type(error).__name__} {getattr(error, 'sqlstate', '')} {error}")

    def try_once(self):
        try:
            self.once()
        except psycopg.Error as error:
            if error.sqlstate not in self.ordinary:
                raise
            self.crowd.done[f"{type(self).__name__} {error.sqlstate}"] += 1

    def rows(self, query, params=None):
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, params).fetchall()

    def did(self, what):
        self.crowd.done[what] += 1

    def id(self):
        return uuid.UUID(int=self.random.getrandbits(128))


class SigningUp(Client):
    """The Auth server. No error is ordinary here: a sign-up is never blocked."""

    role = "supabase_auth_admin"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.unconfirmed = []
        self.users = []

    def once(self):
        self.random.choice([self.one, self.one, self.many, self.confirm, self.leave])()

    def email(self, id):
        """Now and then one that an app user has."""
        return self.random.choice(self.crowd.emails) if self.random.random() < 0.2 else f"{id.hex}@example.org"

    def one(self):
        id, confirmed = self.id(), self.random.random() < 0.6
        self.crowd.sent.add(id)
        try:
            self.crowd.db.auth.signup(self.email(id), confirmed=confirmed, id=id, connection=self.connection)
        except psycopg.errors.UniqueViolation as error:
            # Another auth user has the address: it is auth.users' own index that says so.
            assert error.diag.table_name == "users", error
            return
        self.crowd.signed_up.add(id)
        self.users.append(id)
        if not confirmed:
            self.unconfirmed.append(id)
        self.did("sign-up")

    def many(self):
        ids = [self.id() for _ in range(self.random.randint(2, 30))]
        self.crowd.sent.update(ids)
        # SSO users may share an address.
        self.connection.execute(
            """INSERT INTO users (id, email, email_confirmed_at, is_sso_user, raw_user_meta_data)
               SELECT id, email, now(), true, jsonb_build_object('username', email) FROM unnest(%s::uuid[], %s::text[]) u(id, email)""",
            [ids, [self.email(id) for id in ids]],
        )
        self.crowd.signed_up.update(ids)
        self.did("bulk sign-up")

    def confirm(self):
        if self.unconfirmed:
            id = self.unconfirmed.pop(self.random.randrange(len(self.unconfirmed)))
            self.crowd.db.auth.confirm(id, self.connection)
            self.crowd.confirmed.add(id)
            self.did("confirmation")

    def leave(self):
        if self.users and self.random.random() < 0.3:
            id = self.users.pop(self.random.randrange(len(self.users)))
            if id in self.unconfirmed:
                self.unconfirmed.remove(id)
            self.crowd.deleted.add(id)
            self.random.choice([self.crowd.db.auth.delete, self.crowd.db.auth.soft_delete])(id, self.connection)
            self.did("deletion")


class Application(Client):
    """Makes users of its own, who sign up later, and rows that refer to users."""

    # The user it refers to has got another id; or a fix of the user was in the way.
    ordinary = ("23503", "40P01")

    def once(self):
        self.random.choice([self.user, self.child, self.child, self.child])()

    def user(self):
        id = self.id()
        email = f"{id.hex}@example.org"
        self.connection.execute("INSERT INTO onagui.app_users (id, email, born) VALUES (%s, %s, %s)", [id, email, id])
        self.crowd.app_users.add(id)
        self.crowd.emails.append(email)
        self.did("app user")

    def child(self):
        id, (table, (columns, values)) = self.id(), self.random.choice(list(CHILDREN.items()))
        # A user somebody else may be busy with. Nothing but a lock protects what has no foreign key.
        made = self.rows(
            f"""INSERT INTO shop.{table} (id, home, {columns})
                SELECT %s, u.born, {values}
                  FROM (SELECT * FROM onagui.app_users WHERE born >= %s ORDER BY born LIMIT 1 FOR KEY SHARE) u RETURNING home""",
            [id, self.id()],
        )
        if made:
            self.crowd.children[table].add(id)
            self.did("child")


class Fixing(Client):
    def once(self):
        policy = self.random.choice(["error", "keep_auth", "keep_app"])
        if self.random.random() < 0.2:
            done = self.rows("SELECT * FROM onagui.fix_user_ids(NULL, true, %s, 5)", [policy])
        else:
            emails = [self.random.choice(self.crowd.emails) for _ in range(self.random.choice([1, 1, 3]))]
            done = self.rows("SELECT * FROM onagui.fix_user_ids(%s, true, %s)", [emails, policy])
        for row in done:
            if row["outcome"] == "done":
                self.crowd.fixes.append(row)
            self.did(f"{row['action']} {row['outcome']} {row['details'].get('error', {}).get('sqlstate', '')}".strip())


class Undoing(Client):
    # Refused because of what has happened since; or in each other's way.
    ordinary = ("55000", "40P01")

    def once(self):
        entries = self.rows(
            """SELECT audit_id FROM onagui.sync_audit_log
                WHERE outcome = 'done' AND undone_by IS NULL AND action = ANY ('{rekey,link,merge,create,update_email,undo}')
                ORDER BY audit_id DESC LIMIT 40"""
        )
        if entries:
            id = self.random.choice(entries)["audit_id"]
            said = self.connection.one("SELECT onagui.undo_fix(%s)", [id])
            self.crowd.undos[id] = int(re.search(r"audit_id (\d+)$", said)[1])
            self.did("undo")
        else:
            self.crowd.over.wait(0.02)


class Batch(Client):
    def once(self):
        self.connection.execute("CALL onagui.fix_all_user_ids(%s, %s)", [self.random.choice([3, 10]), "keep_auth"])
        self.did("batch")
