"""Code on app_users and on tables that refer to it runs as its table's owner, and gains nothing."""

import json
import uuid

import pytest
from repairs import fix, fix_one, mismatched
from support import audit, expect_error

FUNCTIONS = (
    "SELECT * FROM onagui.sync_status()",
    "SELECT * FROM onagui.sync_status(p_status => ARRAY['CONFLICT'])",
    "SELECT * FROM onagui.sync_status(p_email => 'ann@example.com')",
    "SELECT * FROM onagui.user_sync_status",
    "SELECT * FROM onagui.sync_summary()",
    "SELECT * FROM onagui.fix_user_ids()",
    "SELECT * FROM onagui.fix_user_ids(ARRAY['ann@example.com', 'dup@example.com'])",
    "SELECT onagui.fix_user_id_mismatch('ann@example.com', false)",
    "SELECT onagui.sync_report()",
    "SELECT * FROM onagui.sync_health()",
)


def exists(db, query):
    name = query.partition("onagui.")[2].partition("(")[0]
    return db.one("SELECT to_regclass(%s) IS NOT NULL OR to_regproc(%s) IS NOT NULL", [f"onagui.{name}"] * 2, role="supabase_admin")


@pytest.fixture
def owned(db, plain):
    """app_users belongs to one plain role, a table that refers to it to another."""
    db.install(app_users=False)
    owner, other = plain("owner"), plain("other")
    db.sql(
        f"""CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text, metadata jsonb, created_at timestamptz);
            ALTER TABLE onagui.app_users OWNER TO {owner};
            GRANT USAGE ON SCHEMA onagui TO {owner}, {other}; GRANT CREATE ON SCHEMA onagui TO {owner};
            GRANT REFERENCES ON onagui.app_users TO {other};""",
        role="supabase_admin",
    )
    db.sql(f"CREATE SCHEMA theirs AUTHORIZATION {other}", role="supabase_admin")
    db.sql("CREATE TABLE theirs.child (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users, note text, UNIQUE (user_id, note))", role=other)
    return owner, other


def out_of_step(db, owner, other):
    """A mismatch and a duplicate, each with rows that refer to them; and an auth user without a row."""
    db.sql("SELECT onagui.disable_sync()", role="supabase_admin")
    ann, dup, new = (db.auth.signup(f"{name}@example.com") for name in ("ann", "dup", "new"))
    db.sql("SELECT onagui.enable_sync()", role="supabase_admin")
    old, second = uuid.uuid4(), uuid.uuid4()
    admin = db.session("supabase_admin")
    with admin.transaction():
        admin.execute("SET LOCAL session_replication_role = replica")
        admin.execute(
            "INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com'), (%s, 'dup@example.com'), (%s, 'dup@example.com')",
            [old, dup, second],
        )
        admin.execute("INSERT INTO theirs.child VALUES (1, %s, 'a'), (2, %s, 'b'), (3, %s, 'b')", [old, dup, second])
    return ann, dup, new, old, second


def check(owner, other, mine, theirs):
    for who, spies in ((owner, mine), (other, theirs)):
        ran, gained = spies.seen()
        assert {role for _, role in ran} <= {who, "pg_checkpoint"}, sorted(ran)
        # Planned as nobody: a role that may do nothing.
        assert gained == []
    return {spot for spot, _ in mine.seen()[0]}, {spot for spot, _ in theirs.seen()[0]}


@pytest.fixture
def watched(db, owned, spies):
    owner, other = owned
    out = out_of_step(db, owner, other)
    mine, theirs = spies(owner), spies(other)
    mine.on("onagui.app_users", "email")
    theirs.on("theirs.child", "note")
    return owner, other, mine, theirs, out


@pytest.mark.parametrize("query", FUNCTIONS)
def test_reading(db, watched, query):
    owner, other, mine, theirs, _ = watched
    if not exists(db, query):
        pytest.skip("not there yet")
    for role in ("supabase_admin", "postgres"):
        # A session of its own, in which nothing has been planned yet.
        db.connect(role).execute(query)
    check(owner, other, mine, theirs)


def test_fixes_and_undo(db, watched):
    owner, other, mine, theirs, (ann, dup, new, old, second) = watched
    admin = db.connect("supabase_admin")
    rows = admin.execute("SELECT email, outcome, audit_id FROM onagui.fix_user_ids(NULL, true, 'keep_auth')").fetchall()
    assert sorted((email, outcome) for email, outcome, _ in rows) == [(f"{name}@example.com", "done") for name in ("ann", "dup", "new")]
    for _, _, audit_id in sorted(rows, key=lambda row: -row[2]):
        admin.execute("SELECT onagui.undo_fix(%s)", [audit_id])
    mine_spots, their_spots = check(owner, other, mine, theirs)
    assert admin.execute("SELECT id, user_id FROM theirs.child ORDER BY id").fetchall() == [(1, old), (2, dup), (3, second)]
    assert {"onagui_app_users_deferred UPDATE", "onagui_app_users_deferred DELETE", "onagui_app_users_before INSERT"} <= mine_spots
    assert {"theirs_child_deferred UPDATE", "theirs_child_deferred DELETE", "theirs_child_deferred INSERT"} <= their_spots
    assert admin.one("SHOW statement_timeout") != "7s" and admin.one("SELECT current_setting('onagui.mine', true)") in (None, "")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT onagui.fix_user_id_mismatch('ann@example.com')",
        "CALL onagui.fix_all_user_ids(1, 'keep_app')",
        "SELECT * FROM onagui.fix_user_id(%(old)s, %(ann)s, true)",
    ],
)
def test_single_fixes(db, watched, query):
    owner, other, mine, theirs, (ann, dup, new, old, second) = watched
    db.connect("supabase_admin").execute(query, {"old": old, "ann": ann})
    check(owner, other, mine, theirs)
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [ann], role="supabase_admin") == 1


def test_emails_taken_over(db, watched):
    owner, other, mine, theirs, (ann, dup, *_) = watched
    admin = db.connect("supabase_admin")
    with admin.transaction():
        admin.execute("SET LOCAL session_replication_role = replica")
        admin.execute("UPDATE onagui.app_users SET email = 'other@example.com' WHERE id = %s", [dup])
    mine.forget()
    outcomes = admin.execute("SELECT outcome FROM onagui.fix_user_ids(ARRAY['other@example.com'], true)").fetchall()
    assert ("done",) in outcomes
    check(owner, other, mine, theirs)


def test_signups(db, watched):
    owner, other, mine, theirs, (ann, *_) = watched
    auth = db.connect("supabase_auth_admin")
    settings = "SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'onagui%' AND name NOT LIKE 'plpgsql%' ORDER BY name"
    before = auth.execute(settings).fetchall()
    user = db.auth.signup("eve@example.com", connection=auth)
    db.auth.change_email(user, "eve@example.org", connection=auth)
    check(owner, other, mine, theirs)
    # Linked, with the row that refers to it.
    old = uuid.uuid4()
    admin = db.session("supabase_admin")
    with admin.transaction():
        admin.execute("SET LOCAL session_replication_role = replica")
        admin.execute("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'fay@example.com')", [old])
        admin.execute("INSERT INTO theirs.child VALUES (9, %s, 'z')", [old])
    mine.forget(), theirs.forget()
    fay = db.auth.signup("fay@example.com", connection=auth)
    db.auth.soft_delete(user, connection=auth)
    assert [entry for entry in audit(db) if entry["action"] == "failure"] == []
    assert [entry["action"] for entry in audit(db)][-2:] == ["link", "delete"]
    spots, their_spots = check(owner, other, mine, theirs)
    assert "onagui_app_users_deferred UPDATE" in spots and "theirs_child_deferred UPDATE" in their_spots
    assert db.one("SELECT user_id FROM theirs.child WHERE id = 9", role="supabase_admin") == fay
    assert auth.execute(settings).fetchall() == before
    assert auth.one("SELECT current_setting('request.jwt.claims', true)") in (None, "")
    assert auth.one("SELECT current_setting('onagui.mine', true)") in (None, "")


def test_registration(db, watched):
    owner, other, mine, theirs, (ann, dup, new, *_) = watched
    with db.connect("authenticator").acting_as("authenticated", sub=new) as request:
        body = json.dumps({"userId": str(new), "email": "new@example.com", "username": "new", "metadata": {"a": 1}})
        assert request.one("SELECT onagui.sync_user_registration(%s)", [body])["data"]["action"] == "created"
        # What the application's code has set is not what counts.
        assert json.loads(request.one("SELECT current_setting('request.jwt.claims')"))["sub"] == str(new)
    with db.connect("authenticator").acting_as("authenticated", sub=ann) as request:
        body = json.dumps({"userId": str(ann), "email": "ann@example.com"})
        assert request.one("SELECT onagui.sync_user_registration(%s)", [body])["data"]["action"] == "linked"
    check(owner, other, mine, theirs)


def test_what_they_leave_behind_runs_as_nobody_else(db, owned, plain):
    """A trigger that writes into a table with a deferred trigger of its own: at COMMIT that would run as the caller."""
    owner, _ = owned
    db.sql(
        f"""CREATE SCHEMA {owner} AUTHORIZATION {owner}""",
        role="supabase_admin",
    )
    db.sql(
        f"""
        CREATE TABLE {owner}.trap (who text);
        CREATE TABLE {owner}.caught (who text);
        GRANT USAGE ON SCHEMA {owner} TO PUBLIC; GRANT ALL ON {owner}.caught TO PUBLIC;
        CREATE FUNCTION {owner}.spring() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO {owner}.caught VALUES (current_user); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON {owner}.trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {owner}.spring();
        CREATE FUNCTION {owner}.bait() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO {owner}.trap VALUES (current_user); CREATE TEMP VIEW users AS SELECT 1 AS decoy; RETURN NULL; EXCEPTION WHEN insufficient_privilege THEN RETURN NULL; END';
        CREATE TRIGGER bait AFTER INSERT OR UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION {owner}.bait();
        """,
        role=owner,
    )
    auth = db.connect("supabase_auth_admin")
    db.auth.signup("ann@example.com", connection=auth)
    admin = db.connect("supabase_admin")
    admin.execute("SELECT onagui.disable_sync()")
    db.auth.signup("bob@example.com", connection=auth)
    admin.execute("SELECT onagui.fix_user_id_mismatch('bob@example.com')")
    assert {who for (who,) in db.sql(f"SELECT who FROM {owner}.caught", role="supabase_admin")} <= {owner}
    for connection in (auth, admin):
        assert connection.one("SELECT to_regclass('pg_temp.users') IS NULL")


def test_auth_users_own_code(db, spies):
    """The owner of auth.users is no superuser either."""
    db.install()
    auth = spies("supabase_auth_admin")
    auth.run("CREATE INDEX ON auth.users ((supabase_auth_admin.spy('auth index') || email::text))")
    auth.run("CREATE STATISTICS auth.s ON (supabase_auth_admin.spy('auth statistics') || email::text), id FROM auth.users")
    db.auth.signup("ann@example.com")
    auth.forget()
    for query in FUNCTIONS:
        if exists(db, query):
            try:
                db.connect("supabase_admin").execute(query)
            except Exception as error:
                assert "nobody has this e-mail" in str(error)
    ran, gained = auth.seen()
    assert {role for _, role in ran} <= {"supabase_auth_admin", "pg_checkpoint"} and gained == [], ran


def test_a_constraint_trigger_of_somebody_else_is_not_fired_as_the_owner(db, owned, plain):
    """Deferred work that a user has queued on a table of their own is nobody else's to run."""
    owner, other = owned
    db.sql(f"GRANT TRIGGER ON onagui.app_users TO {other}", role=owner)
    db.sql(
        """
        CREATE TABLE theirs.trap (id int);
        CREATE TABLE theirs.caught (who text);
        GRANT USAGE ON SCHEMA theirs TO PUBLIC; GRANT INSERT ON theirs.caught, theirs.trap TO PUBLIC;
        CREATE FUNCTION theirs.spring() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO theirs.caught VALUES (current_user); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON theirs.trap FROM onagui.app_users DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION theirs.spring();
        """,
        role=other,
    )
    id = db.auth.signup("ann@example.com")
    request = db.connect("authenticator")
    with request.acting_as("authenticated", sub=id):
        request.execute("INSERT INTO theirs.trap VALUES (1)")
        request.execute("SELECT onagui.sync_user_registration(%s)", [json.dumps({"userId": str(id), "email": "ann@example.com", "username": "x"})])
    assert db.sql("SELECT who FROM theirs.caught", role="supabase_admin") in ([("authenticated",)], [("authenticator",)])


def test_nothing_of_this_needs_a_rule_for_the_plain_role(db, owned):
    owner, _ = owned
    with expect_error("42501", detail=False, hint=False):
        db.sql("SELECT * FROM onagui.sync_status()", role=owner)


@pytest.mark.parametrize("where", ["ALTER full_name SET DEFAULT set_config('search_path', 'evil', false)", "ADD CHECK (set_config('search_path', 'evil', false) = 'evil')"])
def test_settings_that_a_built_in_function_changes_do_not_leak(db, plain, where):
    db.install()
    db.sql(f"ALTER TABLE onagui.app_users {where}")
    auth = db.connect("supabase_auth_admin")
    for n in range(3):
        auth.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s)", [uuid.uuid4(), f"{n}@example.com"])
        assert auth.one("SHOW search_path") == "auth"
    assert db.one("SELECT count(*) FROM onagui.app_users") == 3


LATER = """CREATE FUNCTION public.later() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.ran VALUES (TG_RELID::regclass::text, current_user); RETURN NULL; END';
    CREATE TABLE public.ran (what text, who text); GRANT INSERT ON public.ran TO PUBLIC"""


@pytest.mark.parametrize("elsewhere", ["n int CONSTRAINT later CHECK (n > 0)", "n int CONSTRAINT later UNIQUE"])
def test_a_constraint_of_somebody_elses_under_the_same_name(db, plain, elsewhere):
    """What cannot be deferred never waits, whoever has it."""
    other = plain("mallory")
    db.install()
    db.sql(f"""{LATER}; CREATE TABLE public.notes (id int, user_id uuid REFERENCES onagui.app_users);
        CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE ON public.notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later();
        CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE ON onagui.app_users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later()""")
    for schema in "public", "onagui":
        db.sql(f"CREATE TABLE {schema}.alien ({elsewhere}); ALTER TABLE {schema}.alien OWNER TO {other}", role="supabase_admin")
    id = db.auth.signup("ann@example.com")
    assert db.sql("SELECT id FROM onagui.app_users") == [(id,)]
    app, _ = mismatched(db, "bob@example.com")
    db.sql("INSERT INTO public.notes VALUES (1, %s)", [app])
    db.sql("TRUNCATE public.ran", role="supabase_admin")
    assert fix_one(db, "bob@example.com")["outcome"] == "done"
    assert {who for _, who in db.sql("SELECT * FROM public.ran", role="supabase_admin")} == {"postgres"}


def test_a_trigger_that_writes_to_tables_of_somebody_elses(db, plain):
    """Their foreign keys are checked at once, whoever has the tables: none of it can be left to COMMIT."""
    other = plain("banker")
    db.install()
    db.sql(
        f"""CREATE SCHEMA bank AUTHORIZATION {other}; GRANT USAGE ON SCHEMA bank TO postgres;
            CREATE TABLE bank.currencies (id text PRIMARY KEY);
            INSERT INTO bank.currencies VALUES ('EUR');
            CREATE TABLE bank.wallets (user_id uuid, currency text REFERENCES bank.currencies DEFERRABLE INITIALLY DEFERRED);
            CREATE FUNCTION bank.open() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
                BEGIN INSERT INTO bank.wallets VALUES (NEW.id, coalesce(NEW.metadata ->> 'currency', 'EUR')); RETURN NULL; END $$;
            ALTER TABLE bank.currencies OWNER TO {other}; ALTER TABLE bank.wallets OWNER TO {other}; ALTER FUNCTION bank.open() OWNER TO {other};
            CREATE TRIGGER open AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION bank.open()""",
        role="supabase_admin",
    )
    ann = db.auth.signup("ann@example.com")
    assert audit(db) == []
    bob = db.auth.signup("bob@example.com", meta={"currency": "none"})
    assert [row["details"]["error"]["sqlstate"] for row in audit(db)] == ["23503"]
    assert db.sql("SELECT * FROM bank.wallets", role="supabase_admin") == [(ann, "EUR"), (bob, "EUR")]


@pytest.mark.parametrize("users", [1, 5])
def test_a_trigger_that_writes_to_tables_of_somebody_elses_as_a_user_is_moved(db, plain, users):
    other = plain("banker")
    db.install()
    db.sql(
        f"""CREATE SCHEMA bank AUTHORIZATION {other}; GRANT USAGE ON SCHEMA bank TO postgres;
            CREATE TABLE bank.kinds (id text PRIMARY KEY); INSERT INTO bank.kinds VALUES ('moved');
            CREATE TABLE bank.ran (who name);
            CREATE TABLE bank.journal (account int, kind text REFERENCES bank.kinds DEFERRABLE INITIALLY DEFERRED);
            CREATE FUNCTION bank.look() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN INSERT INTO bank.ran VALUES (current_user); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER look AFTER INSERT ON bank.journal DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bank.look();
            CREATE FUNCTION bank.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
                BEGIN INSERT INTO bank.journal VALUES (NEW.id, NEW.kind); RETURN NULL; END $$;
            CREATE TABLE public.accounts (id int, user_id uuid REFERENCES onagui.app_users, kind text);
            ALTER TABLE bank.kinds OWNER TO {other}; ALTER TABLE bank.ran OWNER TO {other}; ALTER TABLE bank.journal OWNER TO {other};
            ALTER FUNCTION bank.note() OWNER TO {other};
            CREATE TRIGGER note AFTER UPDATE ON public.accounts FOR EACH ROW EXECUTE FUNCTION bank.note()""",
        role="supabase_admin",
    )
    for n in range(users):
        app, _ = mismatched(db, f"user{n}@example.com")
        db.sql("INSERT INTO public.accounts VALUES (%s, %s, %s)", [n, app, "none" if n == 4 else "moved"], role="supabase_admin")
    rows = fix(db, None)
    assert sorted(row["outcome"] for row in rows) == ["done"] * min(users, 4) + ["failed"] * (users // 5), rows
    assert [row["details"]["error"]["sqlstate"] for row in rows if row["outcome"] == "failed"] == ["23503"] * (users // 5)
    assert db.one("SELECT count(*) FROM bank.journal", role="supabase_admin") == min(users, 4)
    assert db.sql("SELECT DISTINCT who FROM bank.ran", role="supabase_admin") == [(other,)]


INDIRECTLY = {
    "a function of theirs": "PERFORM bank.note()",
    "a trigger of theirs on another table": "INSERT INTO public.activity VALUES (1)",
    "a table that others may write": "INSERT INTO bank.journal VALUES (1, 'moved')",
}


@pytest.mark.parametrize("way", INDIRECTLY)
@pytest.mark.parametrize("users", [1, 5])
def test_a_trigger_by_way_of_which_tables_of_somebody_elses_are_written(db, plain, users, way):
    other = plain("banker")
    db.install()
    db.sql(
        f"""CREATE SCHEMA bank AUTHORIZATION {other}; GRANT USAGE ON SCHEMA bank TO postgres;
            CREATE TABLE bank.kinds (id text PRIMARY KEY); INSERT INTO bank.kinds VALUES ('moved');
            CREATE TABLE bank.journal (account int, kind text REFERENCES bank.kinds DEFERRABLE INITIALLY DEFERRED);
            CREATE FUNCTION bank.note() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
                BEGIN INSERT INTO bank.journal VALUES (1, 'moved'); END $$;
            CREATE FUNCTION bank.noted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
                BEGIN INSERT INTO bank.journal VALUES (1, 'moved'); RETURN NULL; END $$;
            ALTER TABLE bank.kinds OWNER TO {other}; ALTER TABLE bank.journal OWNER TO {other}; GRANT INSERT ON bank.journal TO postgres;
            ALTER FUNCTION bank.note() OWNER TO {other}; ALTER FUNCTION bank.noted() OWNER TO {other}""",
        role="supabase_admin",
    )
    db.sql(
        f"""CREATE TABLE public.activity (n int);
            CREATE TRIGGER noted AFTER INSERT ON public.activity FOR EACH ROW EXECUTE FUNCTION bank.noted();
            CREATE TABLE public.accounts (id int, user_id uuid REFERENCES onagui.app_users);
            CREATE FUNCTION public.moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {INDIRECTLY[way]}; RETURN NULL; END $$;
            CREATE TRIGGER moved AFTER UPDATE ON public.accounts FOR EACH ROW EXECUTE FUNCTION public.moved()"""
    )
    for n in range(users):
        app, _ = mismatched(db, f"user{n}@example.com")
        db.sql("INSERT INTO public.accounts VALUES (%s, %s)", [n, app])
    rows = fix(db, None)
    assert [row["outcome"] for row in rows] == ["done"] * users, rows
    assert db.one("SELECT count(*) FROM bank.journal", role="supabase_admin") == users


@pytest.mark.parametrize("users", [1, 5])
def test_a_before_trigger_finds_a_row_of_somebody_elses_that_moves_too(db, plain, users):
    other = plain("banker")
    db.install()
    db.sql(
        f"""GRANT USAGE ON SCHEMA onagui TO {other};
            CREATE TABLE public.accounts (user_id uuid PRIMARY KEY REFERENCES onagui.app_users, name text);
            CREATE TABLE public.entries (id int, user_id uuid REFERENCES public.accounts, name text);
            CREATE FUNCTION public.copy() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN SELECT a.name INTO STRICT NEW.name FROM public.accounts a WHERE a.user_id = NEW.user_id; RETURN NEW; END $$;
            CREATE TRIGGER copy BEFORE INSERT OR UPDATE ON public.entries FOR EACH ROW EXECUTE FUNCTION public.copy();
            ALTER TABLE public.entries OWNER TO postgres; ALTER TABLE public.accounts OWNER TO {other}; GRANT SELECT ON public.accounts TO postgres""",
        role="supabase_admin",
    )
    for n in range(users):
        app, _ = mismatched(db, f"user{n}@example.com")
        db.sql("INSERT INTO public.accounts VALUES (%s, %s)", [app, f"user{n}"], role="supabase_admin")
        db.sql("INSERT INTO public.entries VALUES (%s, %s)", [n, app], role="supabase_admin")
    rows = fix(db, None)
    assert [row["outcome"] for row in rows] == ["done"] * users, rows
    assert db.sql("SELECT name FROM public.entries ORDER BY id") == [(f"user{n}",) for n in range(users)]


def test_a_partition_of_somebody_elses_has_the_trigger_of_the_table_above(db, plain):
    other = plain("mallory")
    db.sql(f"""{LATER}; CREATE SCHEMA onagui; GRANT USAGE ON SCHEMA onagui TO {other};
        CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text) PARTITION BY HASH (id);
        CREATE TABLE onagui.every_user PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        CREATE TABLE public.notes (id int, user_id uuid REFERENCES onagui.app_users) PARTITION BY RANGE (id);
        CREATE TABLE public.every_note PARTITION OF public.notes FOR VALUES FROM (0) TO (9);
        CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE ON public.notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later();
        CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE ON onagui.app_users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later()""")
    db.sql(f"GRANT SELECT, UPDATE ON onagui.app_users TO {other}; ALTER TABLE onagui.every_user OWNER TO {other}; ALTER TABLE public.every_note OWNER TO {other}", role="supabase_admin")
    db.install(app_users=False)
    id = db.auth.signup("ann@example.com")
    assert db.sql("SELECT id FROM onagui.app_users") == [(id,)]
    app, _ = mismatched(db, "bob@example.com")
    db.sql("INSERT INTO public.notes VALUES (1, %s)", [app])
    db.sql("TRUNCATE public.ran", role="supabase_admin")
    row = fix_one(db, "bob@example.com")
    assert row["outcome"] == "done", row
    assert {what for what, _ in db.sql("SELECT * FROM public.ran", role="supabase_admin")} == {"onagui.every_user", "public.every_note"}


def test_a_trigger_of_somebody_elses_under_the_same_name_is_left_alone(db, plain):
    """Setting its name would fire what the caller has queued on a table of theirs, as the owner of what is written."""
    other = plain("mallory")
    db.install()
    db.sql(f"""{LATER}; CREATE TABLE public.notes (id int, user_id uuid REFERENCES onagui.app_users);
        CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE ON public.notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later()""")
    db.sql(f"""CREATE TABLE public.trap (id int); ALTER TABLE public.trap OWNER TO {other}; GRANT INSERT ON public.trap TO PUBLIC;
        CREATE CONSTRAINT TRIGGER later AFTER INSERT OR UPDATE ON public.trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later()""", role="supabase_admin")
    app, _ = mismatched(db, "bob@example.com")
    db.sql("INSERT INTO public.notes VALUES (1, %s)", [app])
    db.sql("TRUNCATE public.ran", role="supabase_admin")
    session = db.session("supabase_admin")
    with session.transaction():
        session.execute("INSERT INTO public.trap VALUES (1)")
        (outcome, sqlstate), = session.execute("SELECT outcome, details #>> '{error,sqlstate}' FROM onagui.fix_user_ids(ARRAY['bob@example.com'], true)").fetchall()
    assert (outcome, sqlstate) == ("failed", "42501")
    assert db.sql("SELECT * FROM public.ran", role="supabase_admin") == [("trap", "supabase_admin")]
    # As README says.
    db.sql("ALTER TABLE public.notes RENAME CONSTRAINT later TO later_notes")
    assert fix_one(db, "bob@example.com")["outcome"] == "done"
