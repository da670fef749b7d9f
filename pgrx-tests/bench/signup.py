"""What a sign-up costs: one, many at once, a sign-in afterwards, the Auth server's whole sequence."""

import json
import re
import statistics
import time
import uuid

from auth_server import _statements
from measure import Backend, added, compare, interleaved, quartiles

VARIANTS = {"none": None, "ours": "ours", "(b)": "handle_new_user", "(c)": "handle_new_user_carefully"}
#: Users that are there before anything is measured.
USERS = 10_000

INSERT = """
    INSERT INTO auth.users (instance_id, id, aud, role, email, encrypted_password, confirmation_token, recovery_token,
                            email_change_token_new, email_change, raw_app_meta_data, raw_user_meta_data, created_at, updated_at,
                            phone_change, phone_change_token, email_change_token_current, email_change_confirm_status,
                            reauthentication_token, is_sso_user, is_anonymous)
    {source}
    '00000000-0000-0000-0000-000000000000', {id}, 'authenticated', '', {email}, 'not a hash', '', '',
    '', '', '{{"provider": "email", "providers": ["email"]}}', {meta}, now(), now(),
    '', '', '', 0, '', false, false"""
ONE = INSERT.format(source="SELECT", id="v_id", email="v_name || '@example.com'",
                    meta="jsonb_build_object('username', v_name, 'full_name', 'Somebody ' || v_name)")  # fmt: skip
MANY = INSERT.format(source="SELECT", id="id", email="email", meta="meta")

#: Users to come, the same for everybody.
STAGE = """
    CREATE UNLOGGED TABLE public.stage AS
    SELECT gen_random_uuid() AS id, 'bulk' || i || '@example.com' AS email,
           jsonb_build_object('username', 'bulk_' || i, 'full_name', 'Bulk ' || i) AS meta
      FROM generate_series(1, {users}) i;
    ANALYZE public.stage;
    GRANT SELECT ON public.stage TO PUBLIC"""


#: Sign-ups one after another, each a transaction, without a client in between whose pauses would be measured.
SIGN_UPS = f"""
    CREATE PROCEDURE public.sign_ups(p_count integer) LANGUAGE plpgsql AS $$
    DECLARE
        v_id uuid;
        v_name text;
    BEGIN
        FOR i IN 1 .. p_count LOOP
            v_id := gen_random_uuid();
            v_name := left(replace(v_id::text, '-', ''), 16);
            {ONE};
            COMMIT;
        END LOOP;
    END $$;
    CREATE PROCEDURE public.sign_ins(p_ids uuid[]) LANGUAGE plpgsql AS $$
    BEGIN
        FOR i IN 1 .. cardinality(p_ids) LOOP
            UPDATE auth.users SET last_sign_in_at = now(), updated_at = now() WHERE id = p_ids[i];
            COMMIT;
        END LOOP;
    END $$"""


def prepared(bench, variants, users=USERS, durable=False):
    backends = {}
    for name in variants:
        database = bench.database(VARIANTS[name], durable)
        admin = database.session("supabase_admin")
        admin.execute(STAGE.format(users=users))
        admin.execute(SIGN_UPS)
        if users == USERS:
            admin.execute(f"{MANY} FROM public.stage")
            if not admin.one("SELECT count(*) FROM onagui.app_users"):
                admin.execute("INSERT INTO onagui.app_users (id, email, username) SELECT id, email, meta ->> 'username' FROM public.stage")
        admin.execute("VACUUM (ANALYZE, FREEZE)")
        admin.execute("CHECKPOINT")
        backends[name] = Backend(database)
    return backends


def dropped(backends):
    for backend in backends.values():
        backend.database.drop()


def beside_peers(what, values, first, second):
    base = values["none"]
    extra = {name: added(values[name], base) for name in ("ours", "(b)", "(c)")}
    note = f"bare INSERT {statistics.median(base):.1f} µs"
    yield compare(what, "(b)", "µs added", extra["ours"], extra["(b)"], first, f"{note}; further goal: 0.7")
    yield compare(what, "(c)", "µs added", extra["ours"], extra["(c)"], second)


def one(bench):
    backends = prepared(bench, VARIANTS)

    def once(name):
        return backends[name].measure(lambda c: c.execute("CALL public.sign_ups(60)"))[0] / 60

    values = interleaved(VARIANTS, bench.rounds(400), once, "one sign-up")
    dropped(backends)
    yield from beside_peers("one sign-up", values, 0.85, 0.65)


def bulk(bench, users=200_000):
    backends = prepared(bench, VARIANTS, users)

    def once(name):
        backend = backends[name]
        admin = backend.database.session("supabase_admin")
        # Not by our triggers, which would remember everybody.
        admin.execute("SET session_replication_role = replica")
        admin.execute("TRUNCATE auth.users, onagui.app_users CASCADE")
        admin.execute("CHECKPOINT")
        cpu, _ = backend.measure(lambda connection: connection.execute(f"{MANY} FROM public.stage"))
        expected = 0 if name == "none" else users
        assert admin.one("SELECT count(*) FROM onagui.app_users") == expected
        return cpu / users

    values = interleaved(VARIANTS, bench.rounds(9), once, f"{users} users in one statement")
    dropped(backends)
    yield from beside_peers(f"{users:,} users in one INSERT … SELECT, per user", values, 0.9, 0.65)


def sign_in(bench):
    backends = prepared(bench, ("none", "ours"))
    ids = {name: [row[0] for row in backend.connection.execute("SELECT id FROM auth.users LIMIT 100")] for name, backend in backends.items()}

    def once(name):
        backends[name].database.session("supabase_admin").execute("VACUUM auth.users")
        return backends[name].measure(lambda c: c.execute("CALL public.sign_ins(%s)", [ids[name]]))[0] / 100

    values = interleaved(backends, bench.rounds(200), once, "UPDATE of last_sign_in_at")
    dropped(backends)
    low, middle, high = quartiles(added(values["ours"], values["none"]))
    note = f"added: {middle:.2f} µs, the middle half of the rounds from {low:.2f} to {high:.2f}; goal: zero is among these"
    yield compare("UPDATE of last_sign_in_at", "(a)", "µs", values["ours"], values["none"], 1, note, goal="noise", reached=low <= 0)


class Sequence:
    """The Auth server's statements of one autoconfirmed sign-up, prepared once, sent one by one as it sends them."""

    TRANSACTIONS = (("insert_user", "confirm_email"), ("sign_in",))

    def __init__(self, backend):
        self.backend = backend
        self.pq = backend.connection.pgconn
        self.transactions = []
        for number, steps in enumerate(self.TRANSACTIONS):
            statements = [("begin", None)]
            for step in steps:
                for place, statement in enumerate(_statements(step)):
                    names = []

                    def numbered(match):
                        if match[1] not in names:
                            names.append(match[1])
                        return f"${names.index(match[1]) + 1}"

                    sql = re.sub(r"%\((\w+)\)s", numbered, statement).replace("%%", "%")
                    name = f"{step}{place}"
                    statements.append((name, names))
                    self.check(self.pq.prepare(name.encode(), sql.encode()))
            statements.append(("commit", None))
            self.transactions.append(statements)
        for name in ("begin", "commit"):
            self.check(self.pq.prepare(name.encode(), name.encode()))

    def check(self, result):
        assert result.status in (1, 2), result.error_message.decode()

    def once(self):
        """Wall time of one sign-up, in microseconds."""
        values = {
            "id": uuid.uuid4(), "email": f"{uuid.uuid4().hex}@example.com", "phone": "", "meta": '{"full_name": "Somebody"}',
            "app_meta": '{"provider": "email", "providers": ["email"]}', "provider": "email", "sso": "false", "anonymous": "false",
            "token": uuid.uuid4().hex, "session": uuid.uuid4(),
        }  # fmt: skip
        values = {name: str(value).encode() for name, value in values.items()}
        started = time.perf_counter()
        for statements in self.transactions:
            for name, wanted in statements:
                result = self.pq.exec_prepared(name.encode(), [values[name] for name in wanted] if wanted else None)
                self.check(result)
        return (time.perf_counter() - started) * 1e6


def sequence(bench):
    variants = ("none", "ours", "(b)", "(c)")
    backends = prepared(bench, variants, durable=True)
    sequences = {name: Sequence(backend) for name, backend in backends.items()}
    cpu = {name: [] for name in variants}

    def once(name):
        before = backends[name].cpu()
        walls = [sequences[name].once() for _ in range(20)]
        cpu[name].append((backends[name].cpu() - before) / len(walls))
        return statistics.median(walls)

    values = interleaved(variants, bench.rounds(60), once, "the whole sequence, fsync on")
    dropped(backends)
    what = "whole sign-up, seven writes, two transactions, fsync on"
    note = "wall time, one client that waits for each answer, as the Auth server does"
    yield compare(what, "(a)", "µs", values["ours"], values["none"], 1.05, note)
    for peer in ("(b)", "(c)"):
        yield compare(what, peer, "µs", values["ours"], values[peer], None, aside=True)
    for against, peer in (("(a)", "none"), ("(b)", "(b)"), ("(c)", "(c)")):
        yield compare("whole sign-up, CPU of the backend alone", against, "µs", cpu["ours"][1:], cpu[peer][1:], None, aside=True)


def figures(bench):
    for name, rows in (("one", one), ("bulk", bulk), ("sign_in", sign_in), ("sequence", sequence)):
        if bench.only in (None, name):
            yield from rows(bench)
