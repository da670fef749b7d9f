"""Cursors of the caller, beside code of somebody who owns a table that refers to app_users: they stay the caller's, and what
that code opens does not outlive the call. Whoever fetches from a cursor carries its query out with their own rights."""

import psycopg
import pytest
from repairs import ADMIN, app_user, duplicate, mismatched

from support import audit

CALLS = (
    "SELECT count(*) FROM onagui.sync_status()",
    "SELECT onagui.sync_report()",
    "SELECT count(*) FROM onagui.fix_user_ids()",
    "SELECT onagui.fix_user_id_mismatch('u1@example.com')",
    "SELECT count(*) FROM onagui.fix_user_ids(NULL, true, 'keep_app')",
    "INSERT INTO auth.users (id, email, email_confirmed_at) VALUES (gen_random_uuid(), 'u7@example.com', now()) RETURNING 1",
)

#: Takes the place of every cursor there is, opens one more, and reads what it can.
ATTACK = """
    FOR r IN SELECT name FROM pg_catalog.pg_cursors WHERE name <> '' LOOP
        c := r.name;
        BEGIN {read} EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN MOVE c; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN CLOSE c; OPEN c FOR SELECT eve.evil(); EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    c := 'later';
    BEGIN OPEN c FOR SELECT eve.evil(); EXCEPTION WHEN OTHERS THEN NULL; END;"""


@pytest.fixture
def eve(db, plain):
    """Has code in indexes of a table of hers, which is looked at while statements are planned, and in its triggers."""
    db.install()
    role = plain("eve")
    db.sql(f"CREATE SCHEMA eve AUTHORIZATION {role}; GRANT REFERENCES ON onagui.app_users TO {role}; GRANT USAGE ON SCHEMA eve TO PUBLIC", role=ADMIN)
    db.sql(
        f"""CREATE TABLE eve.gains (what text);
            GRANT INSERT, SELECT ON eve.gains TO PUBLIC;
            CREATE FUNCTION eve.evil() RETURNS text LANGUAGE plpgsql AS $$BEGIN
                INSERT INTO eve.gains VALUES (current_user); RETURN 'evil'; END$$;
            CREATE FUNCTION eve.quiet(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
                DECLARE c refcursor; r record; BEGIN {ATTACK.format(read="")} RETURN ''; END$$;
            CREATE FUNCTION eve.loud() RETURNS trigger LANGUAGE plpgsql AS $$
                DECLARE c refcursor; r record; got text; BEGIN
                {ATTACK.format(read="FETCH c INTO got; INSERT INTO eve.gains VALUES (got);")} RETURN NEW; END$$;
            CREATE TABLE eve.kids (id int, user_id uuid REFERENCES onagui.app_users, note text);
            CREATE UNIQUE INDEX ON eve.kids (user_id, id) WHERE eve.quiet('x') = '';
            CREATE INDEX ON eve.kids ((eve.quiet('y') || note));
            CREATE TRIGGER before BEFORE UPDATE ON eve.kids FOR EACH ROW EXECUTE FUNCTION eve.loud();
            CREATE TRIGGER after AFTER UPDATE ON eve.kids FOR EACH ROW EXECUTE FUNCTION eve.loud()""",
        role=role,
    )
    for number in range(4):
        app, _ = (duplicate if number == 3 else mismatched)(db, f"u{number}@example.com")
        db.sql("INSERT INTO eve.kids VALUES (1, %s, 'a')", [app], role=role)
    db.sql("INSERT INTO eve.kids VALUES (1, %s, 'a')", [app_user(db, "u7@example.com")], role=role)
    return role


def gained(db, eve):
    """What her code got that is not hers."""
    return db.sql("SELECT what FROM eve.gains WHERE what NOT IN (%s, 'evil')", [eve], role=ADMIN)


@pytest.mark.parametrize("call", CALLS)
def test_cursors_stay_the_callers(db, eve, call):
    caller = db.connect(ADMIN)
    with caller.transaction():
        for name, hold, query in (("todo", "", "SELECT 1 FROM generate_series(1, 3)"), ("done", "", "SELECT 1"), ("kept", "WITH HOLD", "SELECT 1")):
            caller.execute(f"DECLARE {name} CURSOR {hold} FOR {query}")
        assert caller.execute("FETCH ALL FROM done").fetchall() == [(1,)]
        assert caller.execute("FETCH FROM todo").fetchall() == [(1,)]
        caller.execute(call)
        assert caller.execute("SELECT name FROM pg_cursors WHERE name <> '' ORDER BY 1").fetchall() == [("done",), ("kept",), ("todo",)]
        assert caller.execute("FETCH ALL FROM todo").fetchall() == [(1,), (1,)]
        assert caller.execute("FETCH ALL FROM kept").fetchall() == [(1,)]
        assert caller.execute("FETCH ALL FROM done").fetchall() == []
        caller.execute("CLOSE todo")
    caller.execute("CLOSE kept")
    assert gained(db, eve) == []
    if "fix" in call or "INSERT" in call:
        assert "failed" not in {entry["outcome"] for entry in audit(db)}


def test_a_loop_over_a_cursor_may_fix(db, eve):
    """The one of PL/pgSQL is open while its body runs, and goes on after what failed in there."""
    db.sql(
        """DO $$
           DECLARE person record; c CURSOR FOR SELECT email FROM onagui.sync_status(ARRAY['MISMATCHED', 'DUPLICATE']) ORDER BY email;
           BEGIN
               FOR person IN SELECT email FROM onagui.sync_status(ARRAY['MISMATCHED']) ORDER BY email LOOP
                   PERFORM onagui.fix_user_id_mismatch(person.email);
                   BEGIN
                       PERFORM onagui.fix_user_id_mismatch('nobody@example.com');
                   EXCEPTION WHEN no_data_found THEN
                   END;
               END LOOP;
               OPEN c;
               FETCH c INTO person;
               PERFORM onagui.fix_user_ids(ARRAY[person.email], true);
               FETCH c INTO person;
               ASSERT NOT FOUND;
           END $$""",
        role=ADMIN,
    )
    assert db.one("SELECT count(*) FROM onagui.sync_status(ARRAY['MISMATCHED', 'DUPLICATE'])") == 0
    assert gained(db, eve) == []


def test_all_users_are_fixed_beside_a_cursor_that_is_kept(db, eve):
    caller = db.connect(ADMIN)
    caller.execute("DECLARE kept CURSOR WITH HOLD FOR SELECT 1")
    caller.execute("CALL onagui.fix_all_user_ids(1, 'keep_auth')")
    assert caller.execute("SELECT name FROM pg_cursors WHERE name <> ''").fetchall() == [("kept",)]
    assert caller.execute("FETCH ALL FROM kept").fetchall() == [(1,)]
    assert db.one("SELECT count(*) FROM onagui.sync_status(ARRAY['MISMATCHED', 'DUPLICATE'])") == 0
    assert gained(db, eve) == []


def test_an_error_leaves_cursors_as_they_were(db, eve):
    caller = db.connect(ADMIN)
    with caller.transaction():
        caller.execute("DECLARE todo CURSOR FOR SELECT 1")
        with pytest.raises(psycopg.errors.InvalidParameterValue), caller.transaction():
            caller.execute("SELECT onagui.fix_user_ids(NULL, true, 'neither')")
        with pytest.raises(psycopg.errors.UniqueViolation), caller.transaction():
            db.sql("INSERT INTO eve.kids VALUES (1, %s, 'a')", [db.one("SELECT id FROM auth.users WHERE email = 'u3@example.com'")], role=eve)
            caller.execute("SELECT onagui.fix_user_id_mismatch('u3@example.com')")
        assert caller.execute("FETCH ALL FROM todo").fetchall() == [(1,)]
    assert gained(db, eve) == []
