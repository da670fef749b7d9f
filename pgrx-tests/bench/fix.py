"""What it costs to give app users their auth ids: one user, and many. The peer (d) is told the ids and updates them, and
every key that refers to app_users says ON UPDATE CASCADE; ours finds out who is who, and the keys say NO ACTION."""

from measure import Backend, compare, interleaved, say

TABLES = 5
EMAIL = "'user' || i || '@example.com'"

USERS = f"""
    INSERT INTO auth.users (id, email, email_confirmed_at, created_at)
    SELECT gen_random_uuid(), {EMAIL}, now(), now() FROM generate_series(1, {{users}}) i;
    INSERT INTO onagui.app_users (id, email, username)
    SELECT gen_random_uuid(), {EMAIL}, 'user' || i FROM generate_series(1, {{users}}) i"""

CHILDREN = """
    CREATE TABLE public.child{n} (
        id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES onagui.app_users {on_update},
        content text
    );
    INSERT INTO public.child{n} (user_id, content)
    SELECT id, 'row ' || r FROM onagui.app_users, generate_series(1, {rows}) r;
    CREATE INDEX ON public.child{n} (user_id)"""

UPDATE = """
    UPDATE onagui.app_users a SET id = u.id FROM auth.users u
     WHERE u.email = a.email AND u.id <> a.id"""


def mismatched(bench, ours, users, rows):
    """A database whose users have the wrong ids; rows[n] rows of table n refer to each."""
    database = bench.database("handle_new_user")
    admin = database.session("supabase_admin")
    # What it measures comes later: the users are made by hand.
    admin.execute("DROP TRIGGER on_auth_user_created ON auth.users")
    admin.execute(USERS.format(users=users))
    # One owner for the application's tables, as a project's migrations make them.
    project = database.session("postgres")
    for n, count in enumerate(rows):
        project.execute(CHILDREN.format(n=n, rows=count, on_update="" if ours else "ON UPDATE CASCADE"))
    admin.execute("VACUUM (ANALYZE, FREEZE)")
    admin.execute("CHECKPOINT")
    for connection in database._opened:
        connection.close()
    return database


def check(database, expected):
    wrong = "SELECT count(*) FROM onagui.app_users a JOIN auth.users u ON u.email = a.email WHERE u.id <> a.id"
    left = database.one(wrong, role="supabase_admin")
    assert left == expected, f"{left} users are still out of step"


def one(bench, rows=100):
    rounds = bench.rounds(60)
    users = rounds + 10
    databases = {name: mismatched(bench, name == "ours", users, [rows] * TABLES) for name in ("ours", "(d)")}
    backends = {name: Backend(database, "supabase_admin") for name, database in databases.items()}
    emails = {name: iter(range(1, users + 1)) for name in databases}

    def once(name):
        email = f"user{next(emails[name])}@example.com"
        call, params = "SELECT outcome FROM onagui.fix_user_ids(ARRAY[%s], true)", [email]
        if name == "(d)":
            call, params = f"{UPDATE} AND u.email = %s AND a.email = %s", [email, email]
        return backends[name].measure(lambda connection: connection.execute(call, params))[0] / 1000

    values = interleaved(databases, rounds, once, "fix one user")
    for database in databases.values():
        check(database, users - rounds - 1)
        database.drop()
    yield compare(f"fix one user, {TABLES} referencing tables, {rows} rows each", "(d)", "ms", values["ours"], values["(d)"], 1.2)


def many(bench, users=50_000, rows=(3, 2, 2, 2, 2)):
    templates = {name: mismatched(bench, name == "ours", users, rows) for name in ("ours", "(d)")}
    # Ours among the peer's keys too: what a NO ACTION key adds, which looks twice where its user has gone.
    alike = "ours, CASCADE"
    templates[alike] = templates["(d)"]

    def once(name):
        database = bench.server().database(template=templates[name].name)
        backend = Backend(database, "supabase_admin")
        call = UPDATE if name == "(d)" else "CALL onagui.fix_all_user_ids()"
        cpu, wall = backend.measure(lambda connection: connection.execute(call))
        check(database, 0)
        database.drop()
        say(f"  {name}: {cpu / 1e6:.1f} s of CPU, {wall / 1e6:.1f} s")
        return cpu / 1e6

    values = interleaved(templates, max(3, bench.rounds(5)), once, f"fix {users} users")
    for name in "ours", "(d)":
        templates[name].drop()
    what = f"fix {users:,} users, {users * sum(rows):,} referencing rows"
    yield compare(what, "(d)", "s", values["ours"], values["(d)"], 1.3, "further goal: 1.1; ours in batches of 1,000, (d) in one statement")
    yield compare(f"{what}, ours ON UPDATE CASCADE too", "(d)", "s", values[alike], values["(d)"], None, aside=True)


def figures(bench):
    for name, rows in (("one_fix", one), ("many_fixes", many)):
        if bench.only in (None, name):
            yield from rows(bench)
