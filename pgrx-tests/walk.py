"""Once through everything the extension does, for tables of any make."""

import json
from collections import Counter

from repairs import ADMIN, app_user, auth_user, content, fix, undo

REGISTER = "SELECT onagui.sync_user_registration(%s::jsonb)::text"


class Walk:
    """Takes users of an onagui.app_users as it stands through sign-up, confirmation, status, rehearsal, fix, undo and
    registration. `refers` says how public.notes hangs on it, None: by a registered reference without a foreign key."""

    KEY = "REFERENCES onagui.app_users (id)"

    def __init__(self, db, refers=KEY):
        self.db = db
        db.sql(f"CREATE TABLE public.notes (n int GENERATED ALWAYS AS IDENTITY, user_id uuid {refers or ''}, note text)", role=ADMIN)
        if refers is None:
            db.sql("SELECT onagui.register_reference('public.notes', 'user_id')", role=ADMIN)

    def all(self, domain="example.com"):
        self.sign_ups(domain)
        self.confirmation(domain)
        self.changes(domain)
        self.registration(domain)
        self.repair(domain)
        assert self.unhappy() == {}
        return self

    # --- what it is made of

    def row(self, id, columns="id, email"):
        rows = self.db.sql(f"SELECT {columns} FROM onagui.app_users WHERE id = %s", [id], role=ADMIN)
        return rows[0] if rows else None

    def note(self, *users):
        for user in users:
            self.db.sql("INSERT INTO public.notes (user_id, note) VALUES (%s, 'x')", [user], role=ADMIN)

    def notes(self, user):
        return self.db.one("SELECT count(*) FROM public.notes WHERE user_id = %s", [user], role=ADMIN)

    def unhappy(self):
        """How many are in which status, those in step left out."""
        rows = self.db.sql("SELECT sync_status FROM onagui.user_sync_status WHERE sync_status NOT IN ('SYNCED', 'MISSING_IN_AUTH')", role=ADMIN)
        return dict(Counter(status for (status,) in rows))

    def health(self, *passed_over):
        """What the health check finds, but for the checks that are passed over."""
        rows = self.db.sql("SELECT check_name, status, detail FROM onagui.sync_health()", role=ADMIN)
        return [row for row in rows if row[1] != "ok" and row[0] not in passed_over]

    def sign_ups(self, domain):
        db = self.db
        one = db.auth.signup(f"one@{domain}", {"username": "one"})
        assert self.row(one) == (one, f"one@{domain}")
        db.sql(
            "INSERT INTO auth.users (id, email, email_confirmed_at) SELECT gen_random_uuid(), 'bulk' || i || '@' || %s, now() FROM generate_series(1, 20) i",
            [domain],
            role="supabase_auth_admin",
        )
        made = """SELECT count(*) FROM onagui.app_users a JOIN auth.users u ON u.id = a.id AND u.email::text COLLATE "C" = a.email::text COLLATE "C"
                   WHERE u.email COLLATE "C" LIKE 'bulk%%@' || %s"""
        assert db.one(made, [domain], role=ADMIN) == 20
        assert db.warnings == []

    def confirmation(self, domain):
        db = self.db
        old = app_user(db, f"boss@{domain}")
        self.note(old, old)
        boss = db.auth.signup(f"boss@{domain}", confirmed=False)
        assert self.unhappy() == {"PENDING": 1} and self.row(boss) is None
        db.auth.confirm(boss)
        assert self.row(boss) == (boss, f"boss@{domain}") and self.row(old) is None
        assert (self.notes(boss), self.notes(old)) == (2, 0)
        assert db.warnings == []

    def changes(self, domain):
        db = self.db
        ann = db.auth.signup(f"ann@{domain}")
        db.auth.change_email(ann, f"anna@{domain}")
        assert self.row(ann) == (ann, f"anna@{domain}")
        guest = db.auth.signup(anonymous=True)
        assert self.row(guest) == (guest, None)
        db.auth.delete(ann)
        db.auth.soft_delete(guest)
        assert self.row(ann) and self.row(guest)
        assert db.warnings == []

    def registration(self, domain):
        db = self.db
        id = auth_user(db, f"reg@{domain}")
        answers = []
        for _ in range(2):
            with db.session("authenticator").acting_as("authenticated", sub=id) as api:
                answer = json.loads(api.one(REGISTER, [json.dumps({"userId": str(id), "email": f"reg@{domain}"}, ensure_ascii=False)]))
            assert (answer["data"]["user"]["id"], answer["data"]["user"]["email"]) == (str(id), f"reg@{domain}")
            answers.append(answer["data"]["action"])
        assert answers == ["created", "updated"]

    def repair(self, domain):
        """A re-key, a merge, a creation and an e-mail, rehearsed, done, undone and done again."""
        db = self.db
        moved, own = app_user(db, f"moved@{domain}"), auth_user(db, f"moved@{domain}")
        self.note(moved, moved, moved)
        two = auth_user(db, f"twice@{domain}")
        app_user(db, f"TWICE@{domain}", two)
        spare = self.spare(f"twice@{domain}", two)
        if spare:
            self.note(spare, two)
        auth_user(db, f"missing@{domain}")
        app_user(db, f"stale@{domain}", auth_user(db, f"fresh@{domain}"))
        expected = {"MISMATCHED": 1, "MISSING_IN_APP_USERS": 1, "EMAIL_MISMATCH": 1}
        if spare:
            expected["DUPLICATE"] = 1
        assert self.unhappy() == expected
        everything = "onagui.app_users", "public.notes"
        before = content(db, *everything)
        planned = fix(db, None, apply=False)
        assert content(db, *everything) == before
        counts = {(row["action"], row["outcome"]): row["rows_changed"] for row in planned}
        wanted = {("rekey", "planned"): 3, ("create", "planned"): 0, ("update_email", "planned"): 0}
        if spare:
            wanted[("merge", "planned")] = 1
        assert counts == wanted, planned
        done = fix(db, None)
        assert {(row["action"], row["outcome"]): row["rows_changed"] for row in done} == {(a, "done"): n for (a, _), n in wanted.items()}, done
        assert (self.notes(moved), self.notes(own)) == (0, 3)
        if spare:
            assert (self.notes(spare), self.notes(two)) == (0, 2) and self.row(spare) is None
        assert self.unhappy() == {}
        for row in reversed(done):
            undo(db, row["audit_id"])
        assert content(db, *everything) == before
        assert self.unhappy() == expected
        again = fix(db, None)
        assert {row["outcome"] for row in again} == {"done"}, again

    def spare(self, email, own):
        """A second app row for the same e-mail, where the table lets one in."""
        taken = self.db.one(
            "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = 'onagui.app_users'::regclass AND indisunique AND pg_get_indexdef(indexrelid) ~ 'email')",
            role=ADMIN,
        )
        return None if taken else app_user(self.db, email)
