"""How long a sign-up takes when sixteen sessions sign up at once: the middle one and the slowest in a hundred."""

import re
import statistics

from auth_server import STATEMENTS
from measure import compare, interleaved
from signup import VARIANTS

SESSIONS = 16
#: Users that are there before anything is measured.
USERS = """
    INSERT INTO auth.users (id, email, raw_user_meta_data)
        SELECT gen_random_uuid(), 'user' || i || '@example.com', '{}' FROM generate_series(1, 10000) i;
    INSERT INTO onagui.app_users (id, email) SELECT id, email FROM auth.users ON CONFLICT DO NOTHING;
    VACUUM (ANALYZE, FREEZE)"""
#: What the Auth server makes up itself. It is asked of the server here, the same for everybody.
VALUES = """
    SELECT gen_random_uuid() AS id, gen_random_uuid() || '@example.com' AS email, gen_random_uuid() AS session, gen_random_uuid() AS token,
           '{"full_name": "Somebody"}' AS meta, '{"provider": "email", "providers": ["email"]}' AS app_meta, 'email' AS provider,
           false AS sso, false AS anonymous, '' AS phone
    \\gset
"""


def script(folder):
    """The statements of one sign-up for pgbench, which takes :name for a parameter."""
    steps = [
        re.sub(r":'(\w+)'", r":\1", re.sub(r"^--.*\n", "", (STATEMENTS / f"{step}.sql").read_text(), flags=re.M))
        for step in ("insert_user", "confirm_email", "sign_in")
    ]
    path = folder / "sign_up.pgbench"
    path.write_text(f"{VALUES}BEGIN;\n{steps[0]}{steps[1]}COMMIT;\nBEGIN;\n{steps[2]}COMMIT;\n")
    return path


def latencies(database, path, seconds):
    """Milliseconds each sign-up took."""
    log = path.parent / database.name
    database.server.program(
        "pgbench", "--no-vacuum", "--protocol=prepared", f"--client={SESSIONS}", "--jobs=2", f"--time={seconds}", f"--file={path}",
        "--log", f"--log-prefix={log}", "--username=supabase_auth_admin", database.name,
    )  # fmt: skip
    took = []
    for part in path.parent.glob(f"{database.name}.*"):
        took += [int(line.split()[2]) / 1000 for line in part.read_text().splitlines()]
        part.unlink()
    return took


def figures(bench):
    if bench.only not in (None, "load"):
        return
    variants = ("none", "ours", "(b)", "(c)")
    databases = {name: bench.database(VARIANTS[name], durable=True) for name in variants}
    for database in databases.values():
        for statement in USERS.split(";"):
            database.sql(statement, role="supabase_admin")
    path = script(bench.server(durable=True).folder)
    seconds = 2 if bench.quick else 5

    def once(name):
        took = latencies(databases[name], path, seconds)
        return statistics.median(took), statistics.quantiles(took, n=100)[98], len(took)

    values = interleaved(variants, bench.rounds(16), once, f"{SESSIONS} sessions that sign up")
    for database in databases.values():
        database.drop()
    for place, what in enumerate(("p50", "p99")):
        series = {name: [value[place] for value in values[name]] for name in variants}
        for against, peer in (("(a)", "none"), ("(b)", "(b)"), ("(c)", "(c)")):
            rate = {name: statistics.median(value[2] for value in values[name]) / seconds for name in ("ours", peer)}
            note = f"wall time, fsync on; {rate['ours']:.0f} : {rate[peer]:.0f} sign-ups a second" if not place else ""
            yield compare(f"whole sign-up from {SESSIONS} sessions at once, {what}", against, "ms", series["ours"], series[peer], None, note)
