"""Deferred triggers that wait in the caller's transaction: to have constraints checked at once fires what waits under their names,
as whoever says so. It fires as the session's role, as it would at COMMIT, whoever owns the tables."""

import json

import psycopg
import pytest
from repairs import ADMIN, auth_user, fix_one, mismatched

from support import audit

TRAP = """
    CREATE TABLE {schema}.ran_as (who name);
    GRANT INSERT ON {schema}.ran_as TO PUBLIC;
    CREATE FUNCTION {schema}.trap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
        INSERT INTO {schema}.ran_as VALUES (current_user); RETURN NULL; END$$;"""

NOTHING = """
    CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql {kind} AS $$BEGIN RETURN NULL; END$$"""


def lay(name, table, schema="public"):
    return f"CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.trap()"


def ran_as(db, schema="public"):
    return {who for (who,) in db.sql(f"SELECT who FROM {schema}.ran_as", role=ADMIN)}


def register(session, id, email, **more):
    session.execute("SELECT set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": str(id)})])
    return session.one("SELECT onagui.sync_user_registration(%s)", [json.dumps({"userId": str(id), "email": email, **more})])


@pytest.mark.parametrize("way", ["foreign key", "definer"])
def test_in_a_superusers_table(db, way):
    """Which the installer may do everything with, and which has nothing to do with users."""
    db.install()
    key = "CONSTRAINT the_fk REFERENCES public.parents DEFERRABLE INITIALLY DEFERRED" if way == "foreign key" else ""
    db.sql(
        f"""CREATE TABLE public.parents (id int PRIMARY KEY);
            CREATE TABLE public.children (parent int {key});
            CREATE TABLE public.others (n int);
            GRANT ALL ON public.parents, public.children, public.others TO postgres""",
        role=ADMIN,
    )
    db.sql(NOTHING.format(kind="SECURITY DEFINER" if way == "definer" else ""), role=ADMIN)
    db.sql(TRAP.format(schema="public"))
    db.sql("CREATE TABLE public.mine (u uuid REFERENCES onagui.app_users)")
    db.sql("CREATE TRIGGER after AFTER UPDATE ON public.mine FOR EACH ROW EXECUTE FUNCTION public.nothing()")
    db.sql(lay("the_fk", "public.others"))
    app, _ = mismatched(db, "a@example.com")
    db.sql("INSERT INTO public.mine VALUES (%s)", [app])
    with db.session().transaction():
        db.sql("INSERT INTO public.others VALUES (1)")
        assert fix_one(db, "a@example.com")["outcome"] == "done"
    assert ran_as(db) == {"postgres"}


@pytest.mark.parametrize("schema", ["parts", "public"])
def test_in_a_partition_that_a_superuser_has_made(db, schema):
    db.install()
    db.sql("CREATE TABLE public.events (n int, u uuid REFERENCES onagui.app_users) PARTITION BY RANGE (n)")
    db.sql(TRAP.format(schema="public"))
    db.sql(lay("later", "public.events"))
    db.sql(
        f"""CREATE SCHEMA IF NOT EXISTS parts; GRANT USAGE ON SCHEMA parts TO postgres;
            CREATE TABLE {schema}.events_1 PARTITION OF public.events FOR VALUES FROM (0) TO (100)""",
        role=ADMIN,
    )
    app, _ = mismatched(db, "a@example.com")
    db.sql("INSERT INTO public.events VALUES (1, %s)", [app])
    with db.session().transaction():
        db.sql("INSERT INTO public.events VALUES (2, NULL)")
        assert fix_one(db, "a@example.com")["outcome"] == "done"
    assert ran_as(db) == {"postgres"}


def test_where_the_session_may_not_look(db):
    """The schema's door was closed after the trigger had been queued: it would fire as the owner otherwise."""
    db.install()
    db.sql("CREATE SCHEMA parts; GRANT USAGE ON SCHEMA parts TO postgres", role=ADMIN)
    db.sql("CREATE TABLE public.events (n int, u uuid REFERENCES onagui.app_users) PARTITION BY RANGE (n)")
    db.sql(TRAP.format(schema="public"))
    db.sql(lay("later", "public.events"))
    db.sql("CREATE TABLE parts.events_1 PARTITION OF public.events FOR VALUES FROM (0) TO (100)", role=ADMIN)
    db.sql("REVOKE USAGE ON SCHEMA parts FROM postgres", role=ADMIN)
    app, _ = mismatched(db, "a@example.com")
    db.sql("INSERT INTO public.events VALUES (1, %s)", [app])
    with db.session().transaction():
        db.sql("INSERT INTO public.events VALUES (2, NULL)")
        row = fix_one(db, "a@example.com")
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "42501")
    assert ran_as(db) == {"postgres"}


def test_below_the_middle_of_a_tree(db, plain):
    """The middle is somebody else's, and the top has a trigger of the same name."""
    mallory = plain("mallory")
    db.install()
    db.sql(f"CREATE SCHEMA mal AUTHORIZATION {mallory}; GRANT ALL ON SCHEMA public TO {mallory}; GRANT USAGE, CREATE ON SCHEMA mal TO postgres", role=ADMIN)
    db.sql(NOTHING.format(kind=""))
    db.sql(
        """CREATE TABLE public.top (n int, k int) PARTITION BY LIST (n);
           CREATE TABLE mal.middle PARTITION OF public.top FOR VALUES IN (1) PARTITION BY LIST (k);
           CREATE TABLE public.leaf PARTITION OF mal.middle FOR VALUES IN (1);
           CREATE TRIGGER the_name AFTER INSERT ON public.top FOR EACH STATEMENT EXECUTE FUNCTION public.nothing();
           CREATE TABLE public.posts (n int, u uuid REFERENCES onagui.app_users);
           CREATE CONSTRAINT TRIGGER the_name AFTER INSERT ON public.posts DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION public.nothing()"""
    )
    db.sql(f"ALTER TABLE mal.middle OWNER TO {mallory}; ALTER TABLE public.leaf OWNER TO {mallory}", role=ADMIN)
    db.sql(TRAP.format(schema="mal"), role=mallory)
    db.sql(lay("the_name", "mal.middle", "mal") + "; GRANT INSERT ON public.leaf TO PUBLIC; GRANT USAGE ON SCHEMA mal TO PUBLIC", role=mallory)
    app, _ = mismatched(db, "a@example.com")
    db.sql("INSERT INTO public.posts VALUES (1, %s)", [app])
    with db.session(ADMIN).transaction():
        db.sql("INSERT INTO public.leaf VALUES (1, 1)", role=ADMIN)
        assert fix_one(db, "a@example.com", role=ADMIN)["outcome"] == "done"
    assert ran_as(db, "mal") == {ADMIN}


@pytest.fixture
def eve(db, plain):
    """Can sign in, and has a schema of her own."""
    role = plain("eve")
    db.install()
    db.sql(f"GRANT authenticated TO {role}; CREATE SCHEMA eve AUTHORIZATION {role}; GRANT REFERENCES ON onagui.app_users TO {role}", role=ADMIN)
    db.sql(TRAP.format(schema="eve") + "GRANT USAGE ON SCHEMA eve TO PUBLIC", role=role)
    return role


@pytest.mark.parametrize("known", [False, True])
def test_at_a_registration(db, eve, known):
    """Also where the trigger came after the session had learnt the names."""
    id = auth_user(db, "e@example.com")
    db.sql("CREATE TABLE eve.c (u uuid CONSTRAINT fk REFERENCES onagui.app_users DEFERRABLE)", role=eve)
    session = db.session(eve)
    if known:
        with session.transaction():
            register(session, id, "e@example.com", username="one")
    db.sql("CREATE TABLE eve.t (n int)", role=eve)
    db.sql(lay("fk", "eve.t", "eve"), role=eve)
    with session.transaction():
        session.execute("INSERT INTO eve.t VALUES (1)")
        register(session, id, "e@example.com", username="two")
    assert ran_as(db, "eve") == {eve}


def test_of_a_grantee(db, eve):
    """TRIGGER on a table of the owner's; a function that the owner has granted makes the call."""
    id = auth_user(db, "e@example.com")
    db.sql(NOTHING.format(kind=""))
    db.sql(f"CREATE TABLE public.notes (n int); GRANT INSERT, TRIGGER ON public.notes TO {eve}")
    db.sql("CREATE TRIGGER after AFTER UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.nothing()")
    db.sql(
        """CREATE FUNCTION public.call(text) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$
               SELECT onagui.sync_user_registration($1::jsonb)$$"""
    )
    db.sql(lay("later", "public.notes", "eve"), role=eve)
    session = db.session(eve)
    with session.transaction():
        session.execute("INSERT INTO public.notes VALUES (1)")
        session.execute("SELECT public.call(%s)", [json.dumps({"userId": str(id), "email": "e@example.com", "username": "x"})])
    assert ran_as(db, "eve") == {eve}


@pytest.mark.parametrize("anew", ["", "CREATE TABLE eve.t2 (n int); {trap};"])
def test_queued_again(db, eve, anew):
    """What fires puts itself in the queue once more, for whoever comes next; or something that was not there when it was looked."""
    table = "eve.t2" if anew else "eve.t"
    id = auth_user(db, "e@example.com")
    db.sql(
        f"""CREATE TABLE eve.c (u uuid CONSTRAINT fk REFERENCES onagui.app_users DEFERRABLE);
           CREATE TABLE eve.t (n int);
           CREATE OR REPLACE FUNCTION eve.trap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               INSERT INTO eve.ran_as VALUES (current_user);
               IF NEW.n < 2 THEN
                   {anew.format(trap=lay("fk", "eve.t2", "eve"))}
                   SET CONSTRAINTS eve.fk DEFERRED;
                   INSERT INTO {table} VALUES (NEW.n + 1);
               END IF;
               RETURN NULL; END$$""",
        role=eve,
    )
    session = db.session(eve)
    with session.transaction():
        register(session, id, "e@example.com", username="one")
    db.sql(lay("fk", "eve.t", "eve"), role=eve)
    with session.transaction():
        session.execute("INSERT INTO eve.t VALUES (1)")
        register(session, id, "e@example.com", username="x")
    assert db.sql("SELECT who, count(*) FROM eve.ran_as GROUP BY who", role=ADMIN) == [(eve, 2)]


def test_with_its_own_search_path(db):
    """A fix pins the path; what waits is code of the application, which looks names up as it does at COMMIT."""
    db.install()
    db.sql(
        """CREATE SCHEMA app; CREATE TABLE app.ran (n int);
           CREATE TABLE public.posts (n int, u uuid REFERENCES onagui.app_users);
           CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO ran VALUES (NEW.n); RETURN NULL; END$$;
           CREATE CONSTRAINT TRIGGER note AFTER INSERT ON public.posts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note()"""
    )
    app, _ = mismatched(db, "a@example.com")
    with db.session().transaction():
        db.sql("SET LOCAL search_path = app")
        db.sql("INSERT INTO public.posts VALUES (1, %s)", [app])
        assert fix_one(db, "a@example.com")["outcome"] == "done"
        assert db.one("SELECT n FROM app.ran") == 1
        assert db.one("SHOW search_path") == "app"
        assert db.one("SELECT current_user::text") == "postgres"


@pytest.mark.parametrize("calls", [False, True])
def test_row_security_of_the_caller(db, calls):
    """A deferred check that looks at a table with policies sees what the caller sees."""
    db.install()
    db.sql(NOTHING.format(kind=""))
    db.sql(
        """CREATE TABLE public.teams (id int PRIMARY KEY, hidden boolean); INSERT INTO public.teams VALUES (1, false), (2, true);
           ALTER TABLE public.teams ENABLE ROW LEVEL SECURITY;
           CREATE POLICY seen ON public.teams FOR SELECT TO authenticated USING (NOT hidden);
           CREATE TABLE public.members (team int, u uuid);
           GRANT SELECT ON public.teams TO authenticated; GRANT SELECT, INSERT ON public.members TO authenticated;
           CREATE FUNCTION public.may_join() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               IF NOT EXISTS (SELECT FROM public.teams WHERE id = NEW.team) THEN RAISE EXCEPTION 'no such team'; END IF;
               RETURN NULL; END$$;
           CREATE CONSTRAINT TRIGGER may_join AFTER INSERT ON public.members DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION public.may_join();
           CREATE TRIGGER after AFTER UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.nothing()"""
    )
    id = db.auth.signup("a@example.com")
    with pytest.raises(psycopg.Error), db.session("authenticator").acting_as("authenticated", sub=id) as request:
        request.execute("INSERT INTO public.members VALUES (2, %s)", [id])
        if calls:
            body = {"userId": str(id), "email": "a@example.com", "username": "x"}
            request.execute("SELECT onagui.sync_user_registration(%s)", [json.dumps(body)])
    assert db.sql("SELECT * FROM public.members", role=ADMIN) == []


def test_a_sign_up_goes_on(db):
    """The Auth server's session has a trigger waiting that raises: it is for COMMIT to say so, and the app side is recorded."""
    db.install()
    db.sql(NOTHING.format(kind=""))
    db.sql(
        """CREATE TABLE public.log (n int); GRANT INSERT, SELECT ON public.log TO supabase_auth_admin;
           CREATE FUNCTION public.not_yet() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               IF (SELECT count(*) FROM public.log) < 2 THEN RAISE EXCEPTION 'not yet'; END IF; RETURN NULL; END$$;
           CREATE CONSTRAINT TRIGGER not_yet AFTER INSERT ON public.log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.not_yet();
           CREATE TRIGGER after AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.nothing()"""
    )
    session = db.session("supabase_auth_admin")
    with session.transaction():
        session.execute("INSERT INTO public.log VALUES (1)")
        session.execute("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'a@example.com')")
        session.execute("INSERT INTO public.log VALUES (2)")
    [entry] = audit(db)
    assert (entry["action"], entry["details"]["error"]["message"]) == ("failure", "not yet")
    assert fix_one(db, "a@example.com")["outcome"] == "done"


TOUCH = """
    CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.updated_at := now(); RETURN NEW; END$$;
    CREATE TRIGGER touch BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.touch();
    CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"""


def later(table, events="INSERT"):
    return f"CREATE CONSTRAINT TRIGGER later AFTER {events} ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.nothing();"


def calls(table, body, when="AFTER INSERT"):
    return f"""
        CREATE FUNCTION public.calls() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN {body}; RETURN NULL; END$$;
        CREATE TRIGGER calls {when} ON {table} FOR EACH ROW EXECUTE FUNCTION public.calls();"""


def test_a_sign_up_where_auths_tables_owner_has_a_trigger_waiting(db):
    """Events of the statement that is running are not for anybody to fire yet, and are in nobody's way."""
    db.install()
    db.sql("ALTER TABLE auth.users OWNER TO postgres; GRANT USAGE, CREATE ON SCHEMA auth TO postgres", role=ADMIN)
    db.sql(TOUCH + later("auth.users"))
    db.sql("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'a@example.com')")
    assert (db.warnings, audit(db)) == ([], [])
    assert db.one("SELECT email FROM onagui.app_users") == "a@example.com"


def test_a_sign_up_by_a_trigger(db):
    db.install()
    db.sql(TOUCH + "CREATE TABLE public.invitations (email text);" + later("public.invitations"))
    db.sql(calls("public.invitations", "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), NEW.email)"))
    db.sql("INSERT INTO public.invitations VALUES ('a@example.com')")
    assert (db.warnings, audit(db)) == ([], [])
    assert db.one("SELECT email FROM onagui.app_users") == "a@example.com"


def test_a_registration_by_a_trigger(db):
    db.install()
    id = db.auth.signup("a@example.com")
    db.sql(TOUCH + "CREATE TABLE public.profiles (id uuid, name text);" + later("public.profiles"))
    body = "PERFORM onagui.sync_user_registration(jsonb_build_object('userId', NEW.id, 'email', 'a@example.com', 'username', NEW.name))"
    db.sql(calls("public.profiles", body))
    db.sql("GRANT INSERT ON public.profiles TO authenticated")
    with db.session("authenticator").acting_as("authenticated", sub=id) as request:
        request.execute("INSERT INTO public.profiles VALUES (%s, 'ann')", [id])
    assert db.one("SELECT username FROM onagui.app_users") == "ann"


def test_emails_that_are_brought_back(db):
    db.install()
    db.sql(TOUCH + later("onagui.app_users", "INSERT OR UPDATE"))
    db.sql("GRANT USAGE ON SCHEMA auth TO postgres; GRANT UPDATE, SELECT ON auth.users TO postgres", role=ADMIN)
    db.sql(calls("onagui.app_users", "UPDATE auth.users SET email = lower(NEW.email) WHERE id = NEW.id AND email <> lower(NEW.email)", "AFTER UPDATE"))
    id = db.auth.signup("a@example.com")
    db.sql("UPDATE onagui.app_users SET email = 'B@example.com' WHERE id = %s", [id])
    assert (db.warnings, [entry["action"] for entry in audit(db)]) == ([], ["update_email"])
    assert db.sql("SELECT a.email, u.email FROM onagui.app_users a JOIN auth.users u USING (id)", role=ADMIN) == [("b@example.com",) * 2]


def test_a_fix_by_a_trigger_of_what_a_fix_moves(db):
    db.install()
    db.sql(TOUCH + "CREATE TABLE public.posts (u uuid REFERENCES onagui.app_users);" + later("public.posts", "UPDATE"))
    db.sql(calls("public.posts", "PERFORM onagui.fix_user_ids(ARRAY['b@example.com'], true)", "AFTER UPDATE"))
    a, _ = mismatched(db, "a@example.com")
    mismatched(db, "b@example.com")
    db.sql("INSERT INTO public.posts VALUES (%s)", [a])
    assert fix_one(db, "a@example.com")["outcome"] == "done"
    assert [entry["outcome"] for entry in audit(db)] == ["done", "done"]


def test_fixes_whose_outcomes_are_kept(db):
    db.install()
    db.sql(TOUCH + "CREATE TABLE public.fixes (email text, outcome text, u uuid REFERENCES onagui.app_users);" + later("public.fixes"))
    emails = ["a@example.com", "b@example.com"]
    for email in emails:
        mismatched(db, email)
    done = db.sql(
        """INSERT INTO public.fixes SELECT f.email, f.outcome FROM unnest(%s::text[]) e, LATERAL onagui.fix_user_ids(ARRAY[e], true) f
           RETURNING email, outcome""",
        [emails],
    )
    assert done == [(email, "done") for email in emails]


def test_beside_what_waits_by_a_foreign_key(db):
    db.install()
    db.sql(TOUCH + "CREATE TABLE public.posts (n int, u uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED);" + later("public.posts"))
    for name in "ab":
        mismatched(db, f"{name}@example.com")
    with db.session().transaction():
        db.sql("INSERT INTO public.posts VALUES (1, NULL)")
        assert fix_one(db, "a@example.com")["outcome"] == "done"
        db.sql("INSERT INTO public.posts VALUES (2, (SELECT id FROM onagui.app_users WHERE email = 'a@example.com'))")
        assert fix_one(db, "b@example.com")["outcome"] == "done"


@pytest.mark.parametrize("way", ["definer", "index"])
def test_not_with_the_search_path_of_anothers_code(db, plain, way):
    """What looks names up by the session's path must not find those of whoever's code happens to run, with the session's rights."""
    mallory = plain("mallory")
    db.install()
    db.sql(TOUCH)
    db.sql(f"GRANT authenticated TO {mallory}; CREATE SCHEMA mal AUTHORIZATION {mallory}; GRANT USAGE ON SCHEMA mal TO PUBLIC", role=ADMIN)
    db.sql(
        """CREATE TABLE public.ran (who text); GRANT ALL ON public.ran TO PUBLIC;
           CREATE TABLE public.posts (n int); GRANT ALL ON public.posts TO PUBLIC;
           CREATE FUNCTION public.helper() RETURNS void LANGUAGE sql AS $$INSERT INTO public.ran VALUES ('honest')$$;
           CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM helper(); RETURN NULL; END$$;
           CREATE CONSTRAINT TRIGGER note AFTER INSERT ON public.posts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note()"""
    )
    id = db.auth.signup("e@example.com")
    body = json.dumps({"userId": str(id), "email": "e@example.com", "username": "x"})
    call = f"""PERFORM set_config('request.jwt.claims', '{{"sub":"{id}"}}', true), onagui.sync_user_registration('{body}')"""
    db.sql("CREATE FUNCTION mal.helper() RETURNS void LANGUAGE sql AS $$INSERT INTO public.ran VALUES (current_user)$$", role=mallory)
    if way == "definer":
        db.sql(f"CREATE FUNCTION mal.f() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = mal AS $$BEGIN {call}; END$$", role=mallory)
        trap = "SELECT mal.f()"
    else:
        head = "CREATE OR REPLACE FUNCTION mal.f(int) RETURNS int LANGUAGE plpgsql"
        db.sql(f"CREATE TABLE mal.t (n int); INSERT INTO mal.t VALUES (1); {head} IMMUTABLE AS $$BEGIN RETURN $1; END$$; CREATE INDEX ON mal.t (mal.f(n))", role=mallory)
        db.sql(f"{head} AS $$BEGIN PERFORM set_config('search_path', 'mal', true); {call}; RETURN $1; END$$", role=mallory)
        trap = "ANALYZE mal.t"
    session = db.session(ADMIN)
    with session.transaction():
        session.execute("INSERT INTO public.posts VALUES (1)")
        session.execute(trap)
    assert db.one("SELECT username FROM onagui.app_users") == "x"
    assert db.sql("SELECT who FROM public.ran") == [("honest",)]


def test_a_function_that_has_no_search_path(db):
    """As the Auth documentation has them: what waits looks names up as at COMMIT all the same."""
    db.install()
    db.sql(TOUCH)
    db.sql(
        """CREATE TABLE public.teams (id int); INSERT INTO public.teams VALUES (1);
           CREATE TABLE public.members (team int, u uuid);
           GRANT SELECT ON public.teams TO authenticated;
           CREATE FUNCTION public.may_join() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
               IF NOT EXISTS (SELECT FROM teams WHERE id = NEW.team) THEN RAISE EXCEPTION 'no such team'; END IF; RETURN NULL; END$$;
           CREATE CONSTRAINT TRIGGER may_join AFTER INSERT ON public.members DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.may_join();
           CREATE FUNCTION public.join_team(body jsonb) RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$BEGIN
               INSERT INTO public.members VALUES (1, (body ->> 'userId')::uuid);
               RETURN onagui.sync_user_registration(body); END$$"""
    )
    id = db.auth.signup("a@example.com")
    with db.session("authenticator").acting_as("authenticated", sub=id) as request:
        body = json.dumps({"userId": str(id), "email": "a@example.com", "username": "zoe"})
        assert request.one("SELECT public.join_team(%s)", [body])["success"]
    assert db.one("SELECT username FROM onagui.app_users") == "zoe"
