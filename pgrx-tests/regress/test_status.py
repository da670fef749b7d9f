"""Contract section 4: who has which status, what the view, the function and the summary look like, and what they leave alone."""

import uuid

import pytest

import support
from support import expect_error

ALL = ["SYNCED", "EMAIL_MISMATCH", "MISMATCHED", "DUPLICATE", "MISSING_IN_APP_USERS", "MISSING_IN_AUTH", "PENDING", "CONFLICT"]


@pytest.fixture
def town(db):
    """The extension, without triggers, and without a unique index on the e-mail: the tests make the rows."""
    db.install()
    db.sql("SELECT onagui.disable_sync()")
    db.sql("DROP INDEX onagui.app_users_email_key; CREATE INDEX ON onagui.app_users (lower(btrim(email)))")
    return db


def auth(db, email=None, id=None, confirmed=True, deleted=False, sso=False):
    id = id or uuid.uuid4()
    db.sql(
        "INSERT INTO auth.users (instance_id, id, email, email_confirmed_at, deleted_at, is_sso_user, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, '2024-03-01 12:00+00')",
        [uuid.UUID(int=0), id, email, "2024-03-02" if confirmed else None, "2024-03-03" if deleted else None, sso],
        role="supabase_auth_admin",
    )
    return id


def many_auth(db, count):
    """u1@x.org and so on."""
    db.sql(
        "INSERT INTO auth.users (instance_id, id, email, email_confirmed_at)"
        " SELECT %s, gen_random_uuid(), 'u' || i || '@x.org', now() FROM generate_series(1, %s) i",
        [uuid.UUID(int=0), count],
        role="supabase_auth_admin",
    )


def app(db, email=None, id=None):
    id = id or uuid.uuid4()
    db.sql("INSERT INTO onagui.app_users (id, email, created_at) VALUES (%s, %s, '2024-04-01 12:00+00')", [id, email])
    return id


def rows(db, *arguments, **filters):
    """{(status, auth id, app id)}"""
    given = ", ".join(f"p_{name} => %({name})s" for name in filters)
    found = [(row[3], row[1], row[2]) for row in db.sql(f"SELECT * FROM onagui.sync_status({given})", filters)]
    assert len(found) == len(set(found))
    return set(found)


# -- what a status is


def test_synced_and_email_mismatch_go_by_the_id(town):
    same, both_none, none_and_empty, other, gone = (uuid.uuid4() for _ in range(5))
    for id, theirs, ours in [
        (same, "ada@x.org", " ADA@x.org "),
        (both_none, None, None),
        (none_and_empty, None, ""),
        (other, "bob@x.org", "bob@old.org"),
        (gone, None, "eve@x.org"),
    ]:
        auth(town, theirs, id)
        app(town, ours, id)
    assert rows(town) == {
        ("SYNCED", same, same),
        ("SYNCED", both_none, both_none),
        ("SYNCED", none_and_empty, none_and_empty),
        ("EMAIL_MISMATCH", other, other),
        ("EMAIL_MISMATCH", gone, gone),
    }


def test_mismatched_pending_and_missing(town):
    a, b = auth(town, "ada@x.org"), app(town, "Ada@X.org")
    c, d = auth(town, "bob@x.org", confirmed=False), app(town, "bob@x.org")
    e, f = auth(town, "eve@x.org"), app(town, "dan@x.org")
    g, h = auth(town), app(town)  # no e-mail on either side: they do not match
    i, j = auth(town, ""), app(town, "  ")
    assert rows(town) == {
        ("MISMATCHED", a, b),
        ("PENDING", c, d),
        ("MISSING_IN_APP_USERS", e, None),
        ("MISSING_IN_AUTH", None, f),
        ("MISSING_IN_APP_USERS", g, None),
        ("MISSING_IN_AUTH", None, h),
        ("MISSING_IN_APP_USERS", i, None),
        ("MISSING_IN_AUTH", None, j),
    }


def test_duplicates_also_name_the_auth_user(town):
    a = auth(town, "ada@x.org")
    app(town, "ada@x.org", a)
    b, c = app(town, "ADA@x.org"), app(town, "ada@x.org ")
    d = auth(town, "bob@x.org", confirmed=False)
    app(town, "bob@elsewhere.org", d)
    e = app(town, "bob@x.org")
    assert rows(town) == {
        ("SYNCED", a, a),
        ("DUPLICATE", a, b),
        ("DUPLICATE", a, c),
        ("EMAIL_MISMATCH", d, d),
        ("PENDING", d, e),
    }


def test_several_app_rows_without_an_own_one_are_a_conflict(town):
    a = auth(town, "ada@x.org")
    b, c = app(town, "ada@x.org"), app(town, "Ada@x.org")
    assert rows(town) == {("CONFLICT", a, None), ("CONFLICT", None, b), ("CONFLICT", None, c)}


def test_users_who_share_an_email_are_a_conflict_unless_they_have_their_row(town):
    a, b, c = (auth(town, "ada@x.org", sso=True) for _ in range(3))
    app(town, "ada@x.org", a)
    app(town, "other@x.org", b)
    d = app(town, "ada@x.org")
    assert rows(town) == {("SYNCED", a, a), ("EMAIL_MISMATCH", b, b), ("CONFLICT", c, None), ("CONFLICT", None, d)}


def test_a_known_id_is_a_conflict(town):
    a, gone = auth(town, "ada@x.org"), auth(town, "hash-of-it", deleted=True)
    app(town, "ada@x.org", gone)
    b, remembered = auth(town, "bob@x.org"), app(town, "bob@x.org")
    town.sql("INSERT INTO onagui.sync_known_id (auth_user_id) VALUES (%s)", [remembered], role="supabase_admin")
    c = auth(town, "eve@x.org")
    app(town, "eve@x.org", c)
    beside = app(town, "eve@x.org")
    town.sql("INSERT INTO onagui.sync_known_id (auth_user_id) VALUES (%s)", [beside], role="supabase_admin")
    assert rows(town) == {("CONFLICT", a, gone), ("CONFLICT", b, remembered), ("SYNCED", c, c), ("CONFLICT", None, beside)}


def test_an_app_row_of_another_auth_user_is_a_conflict(town):
    a, b = auth(town, "ada@x.org"), auth(town, "ada@new.org")
    app(town, "ada@x.org", b)
    assert rows(town) == {("CONFLICT", a, None), ("EMAIL_MISMATCH", b, b)}


def test_deleted_users_count_as_absent(town):
    gone = auth(town, "ada@x.org", deleted=True)
    b = app(town, "ada@x.org")
    app(town, "bob@x.org", gone)
    assert rows(town) == {("MISSING_IN_AUTH", None, b), ("MISSING_IN_AUTH", None, gone)}
    details = {row[2]: row[6] for row in town.sql("SELECT * FROM onagui.user_sync_status")}
    assert "deleted" in details[gone] and "deleted" not in details[b]


def test_settings_that_matter_to_a_status(town):
    a, b = auth(town, "ada@x.org", confirmed=False), app(town, "ada@x.org")
    session = town.session("supabase_admin")
    for policy, status in [("verified", "PENDING"), ("always", "MISMATCHED"), ("never", "PENDING"), ("verified", "PENDING")]:
        session.execute("SELECT set_config('onagui_sync.link_by_email', %s, false)", [policy])
        [(found, detail)] = session.execute("SELECT sync_status, detail FROM onagui.user_sync_status").fetchall()
        assert found == status
        assert ("link_by_email is never" in detail) == (policy == "never")
        assert session.one("SELECT sync_status FROM onagui.sync_status(p_email => 'ada@x.org')") == status


# -- the view, the function, the summary


def test_columns_and_their_order(town):
    columns = ["email", "auth_user_id", "app_user_id", "sync_status", "auth_created_at", "app_created_at", "detail"]
    types = ["text", "uuid", "uuid", "text", "timestamp with time zone", "timestamp with time zone", "text"]
    found = town.sql(
        "SELECT attname::text, format_type(atttypid, NULL), col_description(attrelid, attnum) IS NOT NULL FROM pg_attribute"
        " WHERE attrelid = 'onagui.user_sync_status'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert found == [(column, type, True) for column, type in zip(columns, types)]
    assert list(town.rows("SELECT * FROM onagui.sync_status() LIMIT 1") or [dict.fromkeys(columns)])[0].keys() == dict.fromkeys(columns).keys()
    a, b = auth(town, "Ada@x.org"), app(town, "ada@x.org")
    [row] = town.rows("SELECT * FROM onagui.user_sync_status")
    assert list(row) == columns
    assert (row["email"], row["auth_user_id"], row["app_user_id"]) == ("Ada@x.org", a, b)
    assert row["auth_created_at"].isoformat() == "2024-03-01T12:00:00+00:00"
    assert row["app_created_at"].isoformat() == "2024-04-01T12:00:00+00:00"
    assert "another id" in row["detail"]


def test_everything_has_a_comment(town):
    assert town.sql(
        """SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
            WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'onagui_sync')
              AND obj_description(p.oid, 'pg_proc') IS NULL"""
    ) == []


def test_summary_has_every_status(town):
    assert town.sql("SELECT * FROM onagui.sync_summary()") == [(status, 0) for status in ALL]
    for _ in range(3):
        id = auth(town, None)
        app(town, None, id)
    auth(town, "ada@x.org")
    counted = dict(town.sql("SELECT * FROM onagui.sync_summary()"))
    assert list(counted) == ALL
    assert {status: n for status, n in counted.items() if n} == {"SYNCED": 3, "MISSING_IN_APP_USERS": 1}


def test_filters(town):
    a, b = auth(town, "ada@x.org"), app(town, "ada@x.org")
    c = auth(town, " Bob@x.org ")
    app(town, "old@x.org", c)
    d = auth(town, "eve@x.org")
    assert rows(town, status=["MISMATCHED"]) == {("MISMATCHED", a, b)}
    assert rows(town, status=["EMAIL_MISMATCH", "MISSING_IN_APP_USERS", "EMAIL_MISMATCH"]) == {("EMAIL_MISMATCH", c, c), ("MISSING_IN_APP_USERS", d, None)}
    assert rows(town, status=[]) == set()
    # The e-mail of either side, however it is written.
    for email in ("bob@x.org", "OLD@x.org", "  bob@X.org"):
        assert rows(town, email=email) == {("EMAIL_MISMATCH", c, c)}
    assert rows(town, email="ada@x.org", status=["SYNCED"]) == set()
    assert rows(town, email="") == rows(town, email="nobody@x.org") == set()
    assert len(rows(town, limit=2)) == 2
    assert rows(town, limit=0) == set()
    assert len(rows(town, limit=100)) == 3


def test_padded_and_oddly_written_emails_in_auth_are_found(town):
    """The Auth server lower-cases and leaves no blanks; other writers may not. The index there is on (instance_id, lower(email))."""
    written = ["ada@x.org", " ada@x.org", "   ADA@x.org  ", "Ada@x.org" + " " * 200]
    ids = {auth(town, email, sso=True) for email in written}
    town.sql("UPDATE auth.users SET instance_id = NULL WHERE id = %s", [min(ids)], role="supabase_auth_admin")
    town.sql("UPDATE auth.users SET instance_id = gen_random_uuid() WHERE id = %s", [max(ids)], role="supabase_auth_admin")
    assert rows(town, email="ADA@x.org") == {("CONFLICT", id, None) for id in ids} == rows(town)


def test_one_email_reads_no_whole_table(town):
    many_auth(town, 20000)
    town.sql("INSERT INTO onagui.app_users (id, email) SELECT id, email FROM auth.users")
    town.sql("VACUUM ANALYZE auth.users, onagui.app_users", role="supabase_admin")

    def whole_reads():
        town.sql("SELECT pg_stat_force_next_flush()" if town.server.number >= 15 else "SELECT 1")
        return town.one("SELECT sum(seq_scan)::int FROM pg_stat_user_tables WHERE relname IN ('users', 'app_users')")

    before = whole_reads()
    for n in range(20):
        assert len(town.sql("SELECT * FROM onagui.sync_status(p_email => %s)", [f"u{n + 1}@x.org"])) == 1
    assert whole_reads() == before


def test_few_among_very_many_are_looked_up_by_index(town):
    """1,500 without a counterpart are many in a small table, where it is read a second time, and few among ten million."""
    many_auth(town, 1500)
    town.sql("VACUUM ANALYZE auth.users, onagui.app_users", role="supabase_admin")

    def whole_reads():
        query = "SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'auth.users'::regclass"
        town.sql("SELECT pg_stat_force_next_flush()")
        before = town.one(query)
        assert dict(town.sql("SELECT sync_status, users FROM onagui.sync_summary()"))["MISSING_IN_APP_USERS"] == 1500
        town.sql("SELECT pg_stat_force_next_flush()")
        return town.one(query) - before

    # To find who may be out of step, then these, then everybody with one of their e-mails.
    assert whole_reads() == 3
    town.sql("UPDATE pg_class SET reltuples = 1e7 WHERE oid = 'auth.users'::regclass", role="supabase_admin")
    assert whole_reads() == 1


def test_more_out_of_step_than_are_named_one_by_one(town):
    many_auth(town, 45_000)
    synced = auth(town, "ann@example.com")
    app(town, "ann@example.com", synced)
    mismatched = auth(town, "bob@example.com")
    old = app(town, "bob@example.com")
    expected = {"MISSING_IN_APP_USERS": 45_000, "MISMATCHED": 1, "SYNCED": 1}
    summary = dict(town.sql("SELECT sync_status, users FROM onagui.sync_summary()"))
    assert {status: users for status, users in summary.items() if users} == expected
    assert dict(town.sql("SELECT sync_status, count(*) FROM onagui.user_sync_status GROUP BY 1")) == expected
    assert town.sql("SELECT auth_user_id, app_user_id FROM onagui.sync_status('{MISMATCHED}')") == [(mismatched, old)]
    missing = town.one("SELECT count(DISTINCT auth_user_id) FROM onagui.sync_status('{MISSING_IN_APP_USERS}')")
    assert missing == 45_000


def test_no_query_of_ours_is_compiled(town):
    """To compile queries of this length takes seconds, and JIT is on by default."""
    town.sql("CREATE TABLE public.notes (user_id uuid UNIQUE REFERENCES onagui.app_users)")
    town.sql("DROP INDEX IF EXISTS onagui.app_users_email_key")
    town.sql("INSERT INTO public.notes VALUES (%s), (%s)", [app(town, "ann@example.com", id=auth(town, "ann@example.com")), app(town, "Ann@example.com")])
    connection = town.connect("supabase_admin")
    if not connection.execute("SELECT pg_jit_available()").fetchone()[0]:
        pytest.skip(f"this build of PostgreSQL {town.server.major} has no JIT")
    connection.execute("LOAD 'auto_explain'")
    for setting in "log_min_duration = 0", "log_analyze = on", "log_nested_statements = on", "log_level = notice":
        connection.execute(f"SET auto_explain.{setting}")
    connection.execute("SET jit_above_cost = 0")

    def compiled(query):
        """What was compiled for it, itself and the server's checks of foreign keys apart."""
        connection.notices.clear()
        connection.execute(query)
        told = [notice.message for notice in connection.notices if "JIT:" in notice.message]
        return [text for text in told if "Query Text: " + query not in text and " FOR KEY SHARE OF x" not in text]

    connection.execute("CREATE FUNCTION public.asks() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM auth.users); END'")
    assert compiled("SELECT public.asks()")
    for query in (
        "SELECT * FROM onagui.sync_status(p_email => 'ann@example.com')",
        "SELECT * FROM onagui.user_sync_status",
        "SELECT * FROM onagui.sync_summary()",
        "SELECT onagui.sync_report()",
        "SELECT * FROM onagui.fix_user_ids()",
        "SELECT * FROM onagui.fix_user_ids(p_apply => true, p_on_conflict => 'keep_auth')",
        "SELECT onagui.undo_fix(max(audit_id)) FROM onagui.sync_audit_log",
    ):
        assert compiled(query) == []


@pytest.mark.parametrize(
    "call, message",
    [
        ("sync_status(ARRAY['synced'])", "'synced' is not a status"),
        ("sync_status(ARRAY['SYNCED', NULL])", "NULL is not a status"),
        ("sync_status(p_limit => -1)", "p_limit"),
    ],
)
def test_wrong_arguments(town, call, message):
    with expect_error("22023", message):
        town.sql(f"SELECT * FROM onagui.{call}")


# -- what it leaves alone


def test_tables_may_change_under_the_view(town):
    a = auth(town, "ada@x.org")
    app(town, "ada@x.org", a)
    assert rows(town) == {("SYNCED", a, a)}
    town.sql("ALTER TABLE onagui.app_users ALTER COLUMN email TYPE varchar(100), DROP COLUMN created_at")
    assert rows(town, email="ada@x.org") == rows(town) == {("SYNCED", a, a)}
    town.sql("DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (email text, id uuid PRIMARY KEY)")
    assert rows(town, email="ada@x.org") == rows(town) == {("MISSING_IN_APP_USERS", a, None)}
    town.sql("ALTER TABLE auth.users DROP COLUMN deleted_at, DROP COLUMN email_confirmed_at CASCADE, DROP COLUMN created_at", role="supabase_auth_admin")
    b = app(town_without_dates(town), "ada@x.org")
    assert rows(town, email="ada@x.org") == rows(town) == {("MISMATCHED", a, b)}


def town_without_dates(town):
    town.sql("ALTER TABLE onagui.app_users ADD COLUMN created_at timestamp")
    return town


@pytest.mark.parametrize("call", ["user_sync_status", "sync_status()", "sync_summary()", "sync_report()", "sync_status(p_email => 'a@x.org')"])
def test_a_missing_table_is_told(town, call):
    town.sql(f"SELECT * FROM onagui.{call}")
    town.sql("DROP TABLE onagui.app_users")
    with expect_error("42P01", "onagui.app_users", hint="create_app_users"):
        town.sql(f"SELECT * FROM onagui.{call}")
    town.sql("SELECT onagui.create_app_users()")
    town.sql(f"SELECT * FROM onagui.{call}")
    town.sql("DROP TABLE auth.users CASCADE", role="supabase_auth_admin")
    with expect_error("42P01", "auth.users", hint="Auth"):
        town.sql(f"SELECT * FROM onagui.{call}")
    assert town.one("SELECT status FROM onagui.sync_health() WHERE check_name = 'tables'") == "fail"


CALLS = [
    "SELECT * FROM onagui.user_sync_status",
    "SELECT * FROM onagui.sync_status()",
    "SELECT * FROM onagui.sync_status(ARRAY['MISMATCHED'])",
    "SELECT * FROM onagui.sync_status(p_email => 'ada@x.org', p_limit => 5)",
    "SELECT * FROM onagui.sync_summary()",
    "SELECT onagui.sync_report()",
    "SELECT * FROM onagui.sync_health()",
]


@pytest.mark.parametrize("call", CALLS)
def test_only_reads(town, call):
    auth(town, "ada@x.org")
    app(town, "ada@x.org")
    connection = town.connect("postgres")
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        connection.execute(call)
        assert connection.one("SELECT pg_current_xact_id_if_assigned() IS NULL")
        locks = connection.execute("SELECT DISTINCT mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'").fetchall()
        assert locks in ([], [("AccessShareLock",)])


def test_a_repeatable_read_sees_its_snapshot(town):
    auth(town, "ada@x.org")
    connection = town.connect("postgres")
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        before = connection.execute("SELECT * FROM onagui.user_sync_status").fetchall()
        auth(town, "bob@x.org")
        assert connection.execute("SELECT * FROM onagui.user_sync_status").fetchall() == before
        assert connection.one("SELECT sum(users)::int FROM onagui.sync_summary()") == 1
    assert len(rows(town)) == 2


def test_who_may_look(town):
    auth(town, "ada@x.org")
    app(town, "ada@x.org")
    for role in ("anon", "authenticated"):
        for call in CALLS:
            with expect_error("42501", detail=False, hint=False), town.session("authenticator").transaction():
                town.session("authenticator").execute(f"SET LOCAL ROLE {role}")
                town.session("authenticator").execute(call)
    with town.session("authenticator").acting_as("service_role") as api:
        for call in CALLS:
            assert api.execute(call).fetchall()
    for call in CALLS:
        assert town.sql(call, role="postgres")


def test_a_hostile_search_path_changes_nothing(town):
    a, b = auth(town, "ada@x.org"), app(town, "ada@x.org")
    town.sql(
        """CREATE SCHEMA evil;
           CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'evil'; END$$;
           CREATE FUNCTION evil.btrim(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'evil'; END$$;
           CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'evil'; END$$;
           CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
           CREATE TABLE evil.pg_class (oid oid)"""
    )
    connection = town.connect("postgres")
    connection.execute("SET search_path = evil, pg_catalog")
    for call in CALLS:
        assert connection.execute(call).fetchall()
    [row] = connection.execute("SELECT * FROM onagui.user_sync_status").fetchall()
    assert row[1:4] == (a, b, "MISMATCHED")
    assert connection.one("SHOW search_path") == "evil, pg_catalog"


def test_many_users_spill_and_stay(town):
    """More than work_mem holds: all are there, and the backend lets go of its files."""
    town.sql("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), 'u' || i || '@x.org' FROM generate_series(1, 20000) i")
    town.sql("INSERT INTO auth.users (instance_id, id, email, email_confirmed_at) SELECT NULL, gen_random_uuid(), 'u' || i || '@x.org', now()"
             " FROM generate_series(1, 15000) i", role="supabase_auth_admin")
    connection = town.connect("postgres")
    connection.execute("SET work_mem = '64kB'")
    counted = dict(connection.execute("SELECT sync_status, count(*) FROM onagui.user_sync_status GROUP BY 1").fetchall())
    assert counted == {"MISMATCHED": 15000, "MISSING_IN_AUTH": 5000}
    assert connection.one("SELECT count(*) FROM onagui.sync_status(p_limit => 7)") == 7
    assert connection.one("SELECT count(*) FROM onagui.sync_status(ARRAY['MISMATCHED'])") == 15000


def test_nothing_of_the_tables_owners_runs_with_more_rights(town):
    """Functions in expressions of indexes, statistics and constraints run when the planner folds them, as whoever plans."""
    town.sql("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), 'u' || i || '@x.org' FROM generate_series(1, 10) i")
    town.sql(
        """CREATE FUNCTION public.spy(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
               BEGIN
                   IF pg_has_role(current_user, 'supabase_auth_admin', 'USAGE') THEN RAISE 'spied as %', current_user; END IF;
                   RETURN $1;
               END$$;
           CREATE INDEX ON onagui.app_users (lower(btrim(email))) WHERE public.spy(1) = 1;
           CREATE INDEX ON onagui.app_users ((public.spy(2) + length(email)));
           CREATE STATISTICS onagui.spying ON (public.spy(3) + length(email)), (public.spy(4) - length(email)) FROM onagui.app_users;
           ALTER TABLE onagui.app_users ADD CHECK (public.spy(5) = 5);
           ANALYZE onagui.app_users"""
    )
    for call in CALLS:
        connection = town.connect("postgres")
        connection.execute(call)
        connection.execute("SET constraint_exclusion = on")
        connection.execute(call)
    with pytest.raises(Exception, match="spied as supabase_admin"):  # so it would be
        town.sql("EXPLAIN SELECT * FROM onagui.app_users WHERE length(email) = 1 AND email = 'x'", role="supabase_admin")
