"""A backend that has worked for long is as large as one that has just warmed up.

MEMORY=full does 100,000 sign-ups, 10,000 that fail, 10,000 fixes and so on, and looks at the size of the process too.
"""

import os
import statistics
import subprocess
import uuid
from collections import Counter
from pathlib import Path

import psycopg
import pytest

import support
from repairs import ADMIN, duplicate

FULL = os.environ.get("MEMORY") == "full"
#: More than this much for each operation is a leak. What is taken once, for a cache or a plan, comes with the warming up.
LEAK = 40
#: What comes and goes, now and then: in memory contexts and on the heap; and in pages, which malloc gives back or keeps as it
#: likes. A leak is there all the time, so that in most of the STEPS more is held at the end.
NOISE, PAGES, STEPS = 64 * 1024, 5 * 1024 * 1024, 7

SIGN_UP = "INSERT INTO auth.users (id, email, email_confirmed_at, raw_user_meta_data) VALUES (%s, %s, now(), %s)"


class Session:
    """The one backend that does it all."""

    def __init__(self, db):
        self.db = db
        self.connection = db.connect(ADMIN)
        self.pid = self.connection.info.backend_pid
        self.number = 0

    def execute(self, query, params=None):
        return self.connection.execute(query, params)

    def anonymous(self):
        """What the process holds besides files and shared memory: what Rust allocates is in there, and in no context."""
        with open(f"/proc/{self.pid}/smaps_rollup") as lines:
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

    def contexts(self):
        """({memory context: bytes in use}, bytes on the heap that are in no context: what Rust holds is among them)."""
        query = "SELECT name, coalesce(ident, ''), used_bytes, total_bytes, public.heap_bytes() FROM pg_backend_memory_contexts"
        used, total, heap = Counter(), 0, 0
        for name, ident, bytes, taken, heap in self.execute(query):
            used[name, ident[:60]] += bytes
            total += taken
        return used, heap - total

    def email(self):
        self.number += 1
        return f"user{self.number}@example.com"


def sign_up(session, email=None):
    session.execute(SIGN_UP, [uuid.uuid4(), email or session.email(), '{"full_name": "Somebody"}'])


def failing_sign_up(session):
    sign_up(session, f"bad{session.email()}")
    session.connection.notices.clear()


def pending_link(session):
    """Of an e-mail that an app user has: a pending link is recorded, and made."""
    id, email = uuid.uuid4(), session.email()
    session.execute("INSERT INTO onagui.app_users (id, email) VALUES (%s, %s)", [uuid.uuid4(), email])
    session.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s)", [id, email])
    session.execute("UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s", [id])


def fix_and_undo(kind):
    def once(session):
        email = f"{kind}{session.number % 20}@example.com"
        session.number += 1
        done = session.execute("SELECT outcome, audit_id FROM onagui.fix_user_ids(ARRAY[%s], true, 'keep_auth') WHERE action <> 'none'", [email])
        [(outcome, audit_id)] = done
        assert outcome == "done"
        session.execute("SELECT onagui.undo_fix(%s)", [audit_id])

    return once


def rehearsal(session):
    email = f"{('rekey', 'merge')[session.number % 2]}{session.number % 20}@example.com"
    session.number += 1
    session.execute("SELECT * FROM onagui.fix_user_ids(ARRAY[%s])", [email])


def status(session):
    session.execute("SELECT * FROM onagui.sync_status(p_email => %s)", [session.email()])


def refused_call(session):
    with pytest.raises(psycopg.Error):
        session.execute("SELECT onagui.fix_user_id_mismatch('nobody@example.com')")


def registration(session):
    id, email = uuid.uuid4(), session.email()
    session.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s)", [id, email])
    body = f'{{"userId": "{id}", "email": "{email}", "username": "{id.hex}"}}'
    session.execute("SELECT onagui.sync_user_registration(%s::jsonb)", [body])


#: What is done: (how, how often to warm up, how often in make test, how often in full).
OPERATIONS = {
    "sign-up": (sign_up, 500, 1400, 100_000),
    "failing sign-up": (failing_sign_up, 300, 490, 10_000),
    "pending link": (pending_link, 50, 140, 5_000),
    "re-key and undo": (fix_and_undo("rekey"), 30, 105, 10_000),
    "merge and undo": (fix_and_undo("merge"), 30, 70, 3_000),
    "rehearsal": (rehearsal, 30, 105, 1_000),
    "status of one": (status, 100, 350, 10_000),
    "refused call": (refused_call, 50, 140, 10_000),
    "registration": (registration, 100, 350, 10_000),
}

USERS = """
    ALTER TABLE onagui.app_users ADD CONSTRAINT good CHECK (email NOT LIKE 'bad%');
    CREATE TABLE public.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid REFERENCES onagui.app_users);
    CREATE TABLE public.members (team int, user_id uuid REFERENCES onagui.app_users, PRIMARY KEY (team, user_id));
    CREATE INDEX ON public.orders (user_id);
    CREATE INDEX ON public.members (user_id);
    SET onagui_sync.enabled = off;
    INSERT INTO auth.users (id, email, email_confirmed_at)
        SELECT gen_random_uuid(), kind || i || '@example.com', now() FROM unnest('{rekey,merge}'::text[]) kind, generate_series(0, 19) i;
    INSERT INTO onagui.app_users (id, email)
        SELECT gen_random_uuid(), email FROM auth.users;
    INSERT INTO public.orders (user_id) SELECT id FROM onagui.app_users, generate_series(1, 5);
    INSERT INTO public.members SELECT team, id FROM onagui.app_users, generate_series(1, 2) team;
    RESET onagui_sync.enabled"""
#: Several rows with one e-mail; else there is nothing to merge.
DUPLICATES = """
    DROP INDEX onagui.app_users_email_key;
    CREATE INDEX ON onagui.app_users (lower(btrim(email)));
    SET onagui_sync.enabled = off;
    INSERT INTO onagui.app_users (id, email) SELECT id, email FROM auth.users WHERE email LIKE 'merge%';
    INSERT INTO public.members SELECT 1, id FROM auth.users WHERE email LIKE 'merge%';
    RESET onagui_sync.enabled"""


@pytest.fixture(scope="module")
def server():
    """One whose malloc counts as free what was freed, instead of keeping it at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        server = support.Server(settings={"autovacuum": "off"}).start()
    server.make_template()
    headers = server.program("pg_config", "--includedir-server").stdout.strip()
    heap = Path(__file__).with_name("heap.c")
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{headers}", "-o", server.folder / "heap.so", heap], check=True)
    yield server
    worries = server.remove()
    assert not worries, "the server log tells of:\n" + "\n".join(worries)


@pytest.fixture
def session(db):
    db.install()
    session = Session(db)
    session.execute(f"CREATE FUNCTION public.heap_bytes() RETURNS bigint LANGUAGE c AS '{db.server.folder}/heap'")
    session.execute(USERS)
    return session


def prepared(session, name):
    if name in ("merge and undo", "rehearsal"):
        session.execute(DUPLICATES)
    once, warm_up, few, many = OPERATIONS[name]
    return once, warm_up, many if FULL else few


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_transaction_each(session, name):
    once, warm_up, count = prepared(session, name)
    for _ in range(warm_up):
        once(session)
    session.contexts()
    pages, held = session.anonymous(), [session.contexts()]
    for _ in range(STEPS):
        for _ in range(count // STEPS):
            once(session)
        held.append(session.contexts())
    in_pages = session.anonymous() - pages
    print(
        f"{count:,} x {name}: contexts {sum(held[0][0].values()):,} bytes, in the end {sum(held[-1][0].values()):,}; elsewhere on "
        f"the heap {held[0][1]:,}, in the end {held[-1][1]:,}; process {pages / 1024:,.0f} kB, {in_pages / 1024:+,.0f} kB"
    )
    for what, series in ("contexts", [sum(used.values()) for used, _ in held]), ("heap", [heap for _, heap in held]):
        steps = [after - before for before, after in zip(series, series[1:])]
        leak = statistics.median(steps) / (count // STEPS)
        assert leak < LEAK, f"{leak:.0f} bytes more for each {name}, {what}: {series} {held[-1][0] - held[0][0]}"
        # The largest step may be a plan that was made anew, once: a leak comes again.
        assert sum(sorted(steps)[:-1]) < max(LEAK * count, NOISE), f"{what}: {series} {held[-1][0] - held[0][0]}"
    assert in_pages < max(LEAK * count, PAGES), f"{in_pages / count:.0f} bytes for each {name}"


@pytest.mark.parametrize("name", ["sign-up", "failing sign-up", "pending link", "re-key and undo"])
def test_many_in_a_transaction(session, name):
    """The server keeps something for each subtransaction until the transaction ends; Rust keeps nothing."""
    once, warm_up, count = prepared(session, name)
    count = min(count, 5_000) // 4
    before = []
    for _ in range(4):
        with session.connection.transaction():
            for _ in range(min(warm_up, count // 2)):
                once(session)
            contexts, heap = session.contexts()
            for _ in range(count):
                once(session)
            contexts_within, heap_within = session.contexts()
        contexts_after, heap_after = session.contexts()
        before.append((sum(contexts_after.values()), heap_after))
        on_heap = heap_within - heap
    kept = (sum(contexts_within.values()) - sum(contexts.values())) / count
    print(f"{count} x {name} in a transaction: {kept:.0f} bytes each in contexts, {on_heap / count:.1f} on the heap; after each: {before}")
    assert on_heap < max(LEAK * count, NOISE)
    assert kept < 4096, contexts_within - contexts
    for first, last in zip(before[1], before[3]):
        assert last - first < max(LEAK * 2 * count, NOISE), before


#: Bytes that a row of a merge takes at most while it is merged, and while that is undone.
EACH_ROW = 5 * 1024


def test_a_merge_of_many_rows(session):
    """All rows of one user are planned, moved and recorded together: what that takes goes with their number, and is bounded."""
    db, rows = session.db, 100_000 if FULL else 20_000
    app, auth = duplicate(db, "ann@example.com")
    db.sql("CREATE TABLE votes (n int, user_id uuid REFERENCES onagui.app_users, body text, PRIMARY KEY (n, user_id))")
    db.sql("INSERT INTO votes SELECT n, %s, 'yes' FROM generate_series(1, %s) n", [app, rows])
    db.sql("INSERT INTO votes SELECT n, %s, 'no' FROM generate_series(1, %s) n", [auth, rows // 10])

    def peak(query, *params):
        with open(f"/proc/{session.pid}/clear_refs", "w") as file:
            file.write("5")  # VmHWM counts from now on
        before = session.anonymous()
        answer = session.execute(query, params).fetchone()[0]
        with open(f"/proc/{session.pid}/status") as lines:
            sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "RssShmem", "RssFile"))}
        at_most = 1024 * (int(sizes["VmHWM"]) - int(sizes["RssShmem"]) - int(sizes["RssFile"]))
        print(f"{query}: {(at_most - before) / rows:,.0f} bytes a row")
        assert at_most - before < EACH_ROW * rows
        return answer

    merge = "SELECT audit_id FROM onagui.fix_user_ids(ARRAY['ann@example.com'], true, 'keep_auth') WHERE outcome = 'done'"
    peak(merge.replace("true", "false").replace("audit_id", "outcome").replace("'done'", "'planned'"))
    number = peak(merge)
    peak("SELECT onagui.undo_fix(%s)", number)
