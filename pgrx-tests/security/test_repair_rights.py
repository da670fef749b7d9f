"""The repair runs nothing of the application's with more rights than the owner of the table has."""

import pytest
from repairs import ADMIN, duplicate, fix_one, mismatched, undo

from support import expect_error


@pytest.mark.parametrize("merge", [False, True])
def test_code_in_an_index_never_runs_as_the_extensions_owner(db, merge):
    """Expressions of indexes, statistics and checks are evaluated as soon as a query on the table is planned."""
    db.install()
    db.sql("DO $$ BEGIN CREATE ROLE shopkeeper; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$", role=ADMIN)
    db.sql(
        """CREATE FUNCTION evil(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
           CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, owner text, CHECK (evil(1) IS NOT NULL));
           CREATE INDEX ON orders ((evil(1)));
           CREATE STATISTICS orders_stats ON evil(1), id FROM orders;
           CREATE UNIQUE INDEX ON orders (user_id, id, evil(1)) WHERE evil(2) = 1;
           CREATE INDEX ON onagui.app_users ((evil(1)));
           CREATE STATISTICS onagui.users_stats ON evil(1), id FROM onagui.app_users;
           SELECT onagui.register_reference('orders', 'owner');
           ALTER TABLE orders OWNER TO shopkeeper;
           GRANT USAGE ON SCHEMA public TO shopkeeper""",
        role=ADMIN,
    )
    app, auth = (duplicate if merge else mismatched)(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES (1, '{app}', '{app}')", role=ADMIN)
    db.sql(
        """CREATE OR REPLACE FUNCTION evil(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
           $$BEGIN RAISE NOTICE 'evil as %', current_user; RETURN 1; END$$""",
        role=ADMIN,
    )
    session = db.connect()
    session.execute("SELECT * FROM onagui.fix_user_id(%s, %s)", [app, auth])
    rows = session.execute("SELECT outcome, audit_id FROM onagui.fix_user_id(%s, %s, true)", [app, auth]).fetchall()
    assert rows[0][0] == "done"
    session.execute("SELECT onagui.undo_fix(%s)", [rows[0][1]])
    session.execute("SELECT onagui.undo_fix(max(audit_id)) FROM onagui.sync_audit_log")
    said = {notice.message for notice in session.notices if "evil" in notice.message}
    assert said and said <= {"evil as postgres", "evil as shopkeeper"}, said


def test_a_superusers_table_is_for_superusers_to_register(db):
    """Who may put a trigger on it would have it run with all rights, by a fix or by a sign-up that links."""
    db.install()
    db.sql("CREATE TABLE public.srs (id int PRIMARY KEY, name text); GRANT ALL ON public.srs TO postgres", role=ADMIN)
    with expect_error("42501", "name of public.srs", detail="only a superuser"):
        db.sql("SELECT onagui.register_reference('public.srs', 'name')")
    assert db.one("SELECT onagui.register_reference('public.srs', 'name')", role=ADMIN).startswith("OK: ")


TRAP = """
    CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'evil as %', current_user; RETURN NULL; END$$;
    CREATE TRIGGER trap AFTER UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION public.trap();"""


@pytest.mark.parametrize("way", ["made anew", "schema renamed", "given away"])
def test_a_table_that_is_a_superusers_by_now(db, way):
    """The register goes by names: whose table has the name is looked at when it is written."""
    db.install()
    admin = db.session(ADMIN)
    admin.execute("ALTER SCHEMA public OWNER TO postgres")
    db.sql("CREATE SCHEMA x; CREATE TABLE x.notes (u uuid); SELECT onagui.register_reference('x.notes', 'u')")
    if way == "made anew":
        db.sql("DROP TABLE x.notes")
        admin.execute("CREATE TABLE x.notes (u uuid); GRANT ALL ON x.notes TO postgres")
    elif way == "schema renamed":
        admin.execute("CREATE SCHEMA y; ALTER SCHEMA y OWNER TO postgres; CREATE TABLE y.notes (u uuid); GRANT ALL ON y.notes TO postgres")
        db.sql("DROP SCHEMA x CASCADE; ALTER SCHEMA y RENAME TO x")
    else:
        admin.execute(f"ALTER TABLE x.notes OWNER TO {ADMIN}; GRANT ALL ON x.notes TO postgres")
    db.sql(TRAP.format(table="x.notes"))
    app, auth = mismatched(db, "a@example.com")
    db.sql("INSERT INTO x.notes VALUES (%s)", [app])
    assert fix_one(db, "a@example.com")["rows_changed"] == 0
    assert db.warnings == []
    health = db.sql("SELECT detail, remedy FROM onagui.sync_health() WHERE check_name = 'possible references' AND status = 'warn'")
    assert [detail.partition(":")[0] for detail, _ in health] == ["x.notes.u is registered, but not by a superuser, to whom the table belongs"]
    assert health[0][1].startswith("--") and "register_reference('x.notes', 'u')" in health[0][1]
    # A superuser may say that it is meant.
    assert "already" in db.one("SELECT onagui.register_reference('x.notes', 'u')", role=ADMIN)
    db.sql("UPDATE x.notes SET u = %s", [(other := mismatched(db, "b@example.com"))[0]])
    assert fix_one(db, "b@example.com")["rows_changed"] == 1
    assert db.sql("SELECT u FROM x.notes") == [(other[1],)]


@pytest.mark.parametrize(("make", "by_superuser"), [(mismatched, False), (duplicate, False), (duplicate, True)])
def test_an_undo_in_a_table_that_is_a_superusers_by_now(db, make, by_superuser):
    db.install()
    db.sql("CREATE TABLE public.notes (id int PRIMARY KEY, u uuid UNIQUE); SELECT onagui.register_reference('public.notes', 'u')")
    app, auth = make(db, "a@example.com")
    db.sql("INSERT INTO public.notes VALUES (1, %s)", [app])
    if make is duplicate:
        db.sql("INSERT INTO public.notes VALUES (2, %s)", [auth])
    audit_id = fix_one(db, "a@example.com", policy="keep_auth")["audit_id"]
    db.sql(TRAP.format(table="public.notes").replace("AFTER UPDATE", "AFTER INSERT OR UPDATE"))
    db.sql(f"ALTER TABLE public.notes OWNER TO {ADMIN}", role=ADMIN)
    with expect_error("55000", detail="does not refer to users any more" + (": only a superuser" if make is duplicate else "")):
        undo(db, audit_id)
    assert db.warnings == []
    if by_superuser:
        assert db.one("SELECT onagui.undo_fix(%s)", [audit_id], role=ADMIN).startswith("UNDONE:")
    else:
        db.sql("SELECT onagui.register_reference('public.notes', 'u')", role=ADMIN)
        assert undo(db, audit_id).startswith("UNDONE:")


@pytest.mark.parametrize("call", ["'public.events_1', 'u'", "'public', 'events_1', 'u'"])
def test_who_may_register_may_take_it_back(db, call):
    """A superuser's partition of somebody's table."""
    db.install()
    db.sql("CREATE TABLE public.events (n int, u uuid) PARTITION BY LIST (n); CREATE TABLE public.events_1 PARTITION OF public.events FOR VALUES IN (1)")
    db.sql(f"ALTER TABLE public.events_1 OWNER TO {ADMIN}", role=ADMIN)
    assert "is registered" in db.one("SELECT onagui.register_reference('public.events_1', 'u')")
    assert "is not registered any more" in db.one(f"SELECT onagui.unregister_reference({call})")


def test_a_partition_of_a_superusers_table(db):
    """Fixes write the whole table, as its owner."""
    db.install()
    db.sql("CREATE TABLE public.events (n int, u uuid) PARTITION BY LIST (n); CREATE TABLE public.events_2 PARTITION OF public.events FOR VALUES IN (2)", role=ADMIN)
    db.sql("CREATE TABLE public.events_1 (n int, u uuid)")
    db.sql("ALTER TABLE public.events ATTACH PARTITION public.events_1 FOR VALUES IN (1); GRANT ALL ON public.events TO postgres", role=ADMIN)
    with expect_error("42501", detail="only a superuser"):
        db.sql("SELECT onagui.register_reference('public.events_1', 'u')")
