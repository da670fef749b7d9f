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
    with pytest.raises(psycopg.Error) as failure, session.transaction():
        session.execute("INSERT INTO eve.t VALUES (1)")
        register(session, id, "e@example.com", username="x")
    assert failure.value.sqlstate == "55000"
    assert ran_as(db, "eve") == set()


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
