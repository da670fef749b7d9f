"""The status of many users and of one, beside a FULL JOIN on the e-mail; memory of the backend."""

import statistics

from measure import Backend, Figure, compare, interleaved, say

#: One in a thousand is not SYNCED: one in four thousand each has another id, another e-mail, no app row, no auth user.
USERS = """
    INSERT INTO auth.users (instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, confirmation_token,
                            recovery_token, email_change_token_new, email_change, last_sign_in_at, raw_app_meta_data,
                            raw_user_meta_data, created_at, updated_at)
    SELECT '00000000-0000-0000-0000-000000000000', gen_random_uuid(), 'authenticated', 'authenticated',
           'user' || md5(i::text) || '@example.com', '$2a$10$' || repeat('x', 53), now(), '', '', '', '', now(),
           '{"provider": "email", "providers": ["email"]}',
           jsonb_build_object('full_name', 'User ' || i, 'sub', gen_random_uuid(), 'email_verified', true), now(), now()
      FROM generate_series(1, %(users)s) i
"""
APP_USERS = """
    INSERT INTO onagui.app_users (id, email, username, metadata, created_at)
    SELECT CASE r %% 4000 WHEN 0 THEN gen_random_uuid() ELSE id END, CASE r %% 4000 WHEN 1000 THEN 'old' ELSE '' END || email,
           'u' || r, raw_user_meta_data, created_at
      FROM (SELECT *, row_number() OVER () AS r FROM auth.users) u
     WHERE r %% 4000 <> 2000
    UNION ALL
    SELECT gen_random_uuid(), 'gone' || i || '@example.com', 'gone' || i, '{}', now() FROM generate_series(1, %(users)s / 4000) i
"""
APART = ["EMAIL_MISMATCH", "MISMATCHED", "DUPLICATE", "MISSING_IN_APP_USERS", "MISSING_IN_AUTH", "PENDING", "CONFLICT"]
STATUS = """CASE WHEN a.id IS NULL THEN 'MISSING_IN_AUTH' WHEN p.id IS NULL THEN 'MISSING_IN_APP_USERS'
                 WHEN a.id = p.id THEN 'SYNCED' ELSE 'MISMATCHED' END"""
ROWS = f"SELECT coalesce(a.email, p.email), a.id, p.id AS app_id, {STATUS} AS status, a.created_at, p.created_at AS app_created_at"
#: As somebody writes it who trusts that both sides are spelt alike, and as the contract defines the same e-mail.
PEERS = {
    "(e)": "FROM auth.users a FULL JOIN onagui.app_users p ON a.email = p.email",
    "(e*)": "FROM auth.users a FULL JOIN onagui.app_users p ON lower(btrim(a.email)) = lower(btrim(p.email))",
}
#: what: (ours, the peer's query over FROM ..., to reach)
QUESTIONS = {
    "those not SYNCED": (f"SELECT * FROM onagui.sync_status('{{{','.join(APART)}}}')", ROWS + " {} WHERE a.id IS DISTINCT FROM p.id", 1.0),
    "the whole view": ("SELECT * FROM onagui.user_sync_status", ROWS + " {}", 1.3),
    "sync_summary()": ("SELECT * FROM onagui.sync_summary()", f"SELECT {STATUS}, count(*) {{}} GROUP BY 1", 1.0),
}


def town(bench, users):
    database = bench.database(None)
    for statement in (USERS, APP_USERS):
        database.sql(statement, {"users": users}, role="supabase_admin")
    database.sql("VACUUM (FREEZE, ANALYZE)", role="supabase_admin")
    return database


def memory(backend):
    """What the process holds besides shared memory, in MB."""
    with open(f"/proc/{backend.connection.info.backend_pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) / 1024


def memory_of_ours(database):
    """Of a backend that has answered each question of ours, and no peer's: what the server compiles for those stays with it.
    Three times each, since what was freed and can be used again by the next call is not given back at once."""
    backend = Backend(database, "supabase_admin")
    before = memory(backend)
    for ours, _, _ in list(QUESTIONS.values()) * 3:
        backend.connection.execute(f"COPY ({ours}) TO '/dev/null'")
    after = memory(backend)
    say(f"  memory of a backend: {before:.1f} MB before, {after:.1f} MB after")
    return after


def figures(bench):
    sizes = [10_000, 100_000] if bench.quick else [100_000, 1_000_000]
    held = {}
    for users in sizes:
        say(f"  making {users:,} users")
        database = town(bench, users)
        backend = Backend(database, "supabase_admin")
        # The CPU time of workers is not the backend's: both sides go without.
        backend.connection.execute("SET max_parallel_workers_per_gather = 0")
        for what, (ours, peer, target) in QUESTIONS.items():
            statements = {"ours": ours} | {name: peer.format(source) for name, source in PEERS.items()}
            # To a file that swallows it, so that every row is made and none is sent.
            run = lambda name: backend.measure(lambda c: c.execute(f"COPY ({statements[name]}) TO '/dev/null'"))
            values = interleaved(statements, bench.rounds(5), run, f"{what} of {users:,}")
            cpu = {name: [cpu / 1000 for cpu, _ in series] for name, series in values.items()}
            wall = {name: statistics.median(wall for _, wall in series) / 1000 for name, series in values.items()}
            for name in PEERS:
                aside = name != "(e)"
                reach, note = (None, "") if aside else (target, f"wall time {wall['ours']:.0f} : {wall[name]:.0f} ms")
                yield compare(f"{what} of {users:,} users", name, "ms", cpu["ours"], cpu[name], reach, note, aside=aside)
        held[users] = memory_of_ours(database)
        emails = [email for (email,) in database.sql("SELECT email FROM auth.users ORDER BY id LIMIT 200", role="supabase_admin")]
        walls = []
        for email in emails:
            _, wall = backend.measure(lambda c: c.execute("SELECT * FROM onagui.sync_status(p_email => %s)", [email]).fetchall())
            walls.append(wall / 1000)
        database.drop()
        yield compare(f"one e-mail among {users:,} users, wall time", "limit 1 ms", "ms", walls, [1] * len(walls), 1)
    small, large = sizes
    growth, note = held[large] / held[small], "of a backend after three of each of these calls, shared memory apart; goal: flat, that is within a tenth"
    yield Figure(f"memory of the backend, {large:,} users", f"{small:,} users", "MB", held[large], held[small], growth, target=1.1, note=note)
