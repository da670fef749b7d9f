"""Triggers, rules, defaults and owners of onagui.app_users that get in the way, or try to."""

import uuid

import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, fix_one, log, mismatched, undo
from walk import Walk

from support import audit

TABLE = "CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text, n int DEFAULT 0, updated_at timestamptz);"


@pytest.fixture
def app(db):
    db.install(app_users=False)
    db.sql(TABLE)
    db.sql("CREATE TABLE public.diary (what text)")
    return db


def trigger(app, body, when, level="ROW", table="onagui.app_users", more=""):
    name = f"f{uuid.uuid4().hex[:8]}"
    app.sql(
        f"""CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$;
            CREATE TRIGGER {name} {when} ON {table} {more} FOR EACH {level} EXECUTE FUNCTION public.{name}()""",
        role=ADMIN,
    )
    return name


def errors(app):
    return [entry["details"]["error"]["sqlstate"] for entry in audit(app, action="failure")]


# --- code that does not get in the way


HARMLESS = {
    "statement triggers": [("INSERT INTO public.diary VALUES (TG_OP); RETURN NULL;", "BEFORE INSERT OR UPDATE OR DELETE", "STATEMENT", ""),
                           ("INSERT INTO public.diary VALUES (TG_OP); RETURN NULL;", "AFTER INSERT OR UPDATE OR DELETE", "STATEMENT", "")],
    "transition tables": [("INSERT INTO public.diary SELECT email FROM made; RETURN NULL;", "AFTER INSERT", "STATEMENT", "REFERENCING NEW TABLE AS made"),
                          ("INSERT INTO public.diary SELECT o.email FROM was o JOIN now_is n USING (id); RETURN NULL;", "AFTER UPDATE", "STATEMENT",
                           "REFERENCING OLD TABLE AS was NEW TABLE AS now_is"),
                          ("INSERT INTO public.diary SELECT email FROM gone; RETURN OLD;", "AFTER DELETE", "ROW", "REFERENCING OLD TABLE AS gone")],
    "row triggers": [("NEW.n := coalesce(OLD.n, 0) + 1; RETURN NEW;", "BEFORE INSERT", "ROW", ""),
                     ("INSERT INTO public.diary VALUES (NEW.email); RETURN NULL;", "AFTER INSERT OR UPDATE", "ROW", "")],
    "a trigger that writes app_users": [
        ("UPDATE onagui.app_users SET n = 1 WHERE id = NEW.id AND n = 0; RETURN NULL;", "AFTER INSERT OR UPDATE", "ROW", "")],
    "a trigger that reads the status": [
        ("INSERT INTO public.diary SELECT sync_status FROM onagui.sync_status(p_email => NEW.email); RETURN NULL;", "AFTER INSERT", "ROW", "")],
}  # fmt: skip


@pytest.mark.parametrize("code", HARMLESS)
def test_code_that_does_not_get_in_the_way(app, code):
    for body, when, level, more in HARMLESS[code]:
        trigger(app, body, when, level, more=more)
    if code == "a trigger that reads the status":
        app.sql("GRANT EXECUTE ON FUNCTION onagui.sync_status TO postgres", role=ADMIN)
    walk = Walk(app).all()
    assert walk.health("e-mail look-up", "unindexed references") == []


def test_rules_that_do_something_as_well(app):
    app.sql(
        """CREATE RULE made AS ON INSERT TO onagui.app_users DO ALSO INSERT INTO public.diary VALUES (NEW.email);
           CREATE RULE changed AS ON UPDATE TO onagui.app_users DO ALSO INSERT INTO public.diary VALUES (OLD.email || NEW.email);
           CREATE RULE gone AS ON DELETE TO onagui.app_users DO ALSO INSERT INTO public.diary VALUES (OLD.email);
           CREATE UNIQUE INDEX ON onagui.app_users (lower(btrim(email)))"""
    )
    walk = Walk(app)
    app.auth.signup("zoe@example.com")
    assert app.sql("SELECT what FROM public.diary") == [("zoe@example.com",)]
    walk.all()


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
def test_rules_that_do_nothing_instead(app, event):
    app.sql(f"CREATE RULE no AS ON {event} TO onagui.app_users DO INSTEAD NOTHING")
    id = app.auth.signup("ann@example.com")
    if event == "INSERT":
        assert errors(app) == ["09000"]
        assert fix_one(app, "ann@example.com")["details"]["error"]["sqlstate"] == "09000"
        return
    assert audit(app) == []
    app.auth.change_email(id, "anna@example.com")
    assert errors(app) == (["09000"] if event == "UPDATE" else [])
    mismatched(app, "bob@example.com")
    duplicate(app, "dan@example.com")
    before = app.sql("SELECT * FROM onagui.app_users WHERE email = 'bob@example.com'")
    rows = {row["email"]: row for row in fix(app, ["bob@example.com", "dan@example.com"]) if row["action"] != "none"}
    failing = {"UPDATE": "bob", "DELETE": "dan"}[event]
    row = rows[f"{failing}@example.com"]
    # RETURNING is not to be had where a rule does nothing instead.
    assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", {"UPDATE": "55000", "DELETE": "0A000"}[event]), row
    if event == "UPDATE":
        assert app.sql("SELECT * FROM onagui.app_users WHERE email = 'bob@example.com'") == before


# --- code that changes what is written


@pytest.mark.parametrize("bulk", [False, True])
def test_a_trigger_that_gives_another_id(app, bulk):
    """A row under another id is not the user's."""
    trigger(app, "NEW.id := pg_catalog.gen_random_uuid(); RETURN NEW;", "BEFORE INSERT")
    if bulk:
        app.sql("INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), i || '@example.com' FROM generate_series(1, 3) i", role="supabase_auth_admin")
    else:
        app.auth.signup("ann@example.com", confirmed=False)
    count = 3 if bulk else 1
    assert app.one("SELECT count(*) FROM onagui.app_users") == 0
    assert len(audit(app)) == count and set(errors(app)) == {"09000"}
    assert {row["details"]["error"]["sqlstate"] for row in fix(app, None)} == {"09000"}


def test_a_trigger_that_keeps_the_id(app):
    """Immutable ids: the re-key is seen not to have happened, also where nothing refers to the user."""
    trigger(app, "NEW.id := OLD.id; RETURN NEW;", "BEFORE UPDATE")
    app.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users)")
    moved, own = mismatched(app, "ann@example.com")
    row = fix_one(app, "ann@example.com")
    assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "55000"), row
    app.sql("INSERT INTO public.notes VALUES (%s)", [moved])
    row = fix_one(app, "ann@example.com")
    assert row["outcome"] == "failed" and row["details"]["error"]["sqlstate"] in ("55000", "23503")
    app.sql("UPDATE auth.users SET email_confirmed_at = NULL WHERE id = %s", [own], role=ADMIN)
    app.auth.confirm(own)
    assert app.sql("SELECT id FROM onagui.app_users") == [(moved,)]
    assert len(errors(app)) == 3 and log(app, action="link") == []


def test_a_trigger_that_keeps_a_reference(app):
    app.sql("CREATE TABLE public.notes (n int PRIMARY KEY, user_id uuid); SELECT onagui.register_reference('public.notes', 'user_id')")
    trigger(app, "NEW.user_id := OLD.user_id; RETURN NEW;", "BEFORE UPDATE", table="public.notes")
    moved, _ = mismatched(app, "ann@example.com")
    app.sql("INSERT INTO public.notes VALUES (1, %s)", [moved])
    row = fix_one(app, "ann@example.com")
    assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "55000"), row
    assert app.sql("SELECT user_id FROM public.notes") == [(moved,)]


def test_a_trigger_that_writes_another_email(app):
    """What the application makes of an address is its own affair; status tells that it is another one."""
    trigger(app, "NEW.email := 'x' || NEW.email; RETURN NEW;", "BEFORE INSERT OR UPDATE")
    id = app.auth.signup("ann@example.com")
    assert app.sql("SELECT id, email FROM onagui.app_users") == [(id, "xann@example.com")]
    assert app.sql("SELECT sync_status FROM onagui.sync_status()") == [("EMAIL_MISMATCH",)]


def test_a_trigger_that_sends_the_row_elsewhere(app):
    """The old way to partition: RETURN NULL after an INSERT into another table."""
    app.sql("CREATE TABLE public.app_users_1 () INHERITS (onagui.app_users)")
    trigger(app, "INSERT INTO public.app_users_1 SELECT NEW.*; RETURN NULL;", "BEFORE INSERT")
    app.auth.signup("ann@example.com")
    assert set(errors(app)) == {"09000"} and app.one("SELECT count(*) FROM onagui.app_users") == 0
    assert app.one("SELECT count(*) FROM auth.users", role=ADMIN) == 1


def test_a_trigger_that_discards_on_delete(app):
    trigger(app, "RETURN NULL;", "BEFORE DELETE")
    duplicate(app, "dan@example.com")
    before = content(app, "onagui.app_users")
    row = fix_one(app, "dan@example.com")
    assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "55000")
    assert content(app, "onagui.app_users") == before


@pytest.mark.parametrize(
    "default, sqlstate",
    [("1 / 0", "22012"), ("'x'::text::int", "22P02"), ("public.raises()", "P0077"), ("nextval('public.spent')", "2200H")],
)
def test_a_default_that_raises(app, default, sqlstate):
    app.sql(
        """CREATE FUNCTION public.raises() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = 'P0077'; END $$;
           CREATE SEQUENCE public.spent MAXVALUE 2; SELECT nextval('public.spent'), nextval('public.spent')"""
    )
    app.sql(f"ALTER TABLE onagui.app_users ALTER n SET DEFAULT {default}")
    app.auth.signup("ann@example.com")
    assert set(errors(app)) == {sqlstate}
    app.sql("INSERT INTO auth.users (id, email) SELECT gen_random_uuid(), i || '@example.com' FROM generate_series(1, 3) i", role="supabase_auth_admin")
    assert set(errors(app)) == {sqlstate}
    assert {(row["outcome"], row["details"]["error"]["sqlstate"]) for row in fix(app, None)} == {("failed", sqlstate)}
    app.sql("ALTER TABLE onagui.app_users ALTER n DROP DEFAULT")
    assert {row["outcome"] for row in fix(app, None)} == {"done"}


# --- event triggers


def test_event_triggers(db):
    db.sql(
        """CREATE TABLE public.ddl (tag text, who text);
           CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
               $$ BEGIN INSERT INTO public.ddl SELECT TG_TAG, session_user; END $$;
           CREATE FUNCTION public.note_end() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
               $$ BEGIN INSERT INTO public.ddl SELECT command_tag, object_identity FROM pg_event_trigger_ddl_commands(); END $$;
           CREATE FUNCTION public.note_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
               $$ BEGIN INSERT INTO public.ddl SELECT 'dropped', object_identity FROM pg_event_trigger_dropped_objects(); END $$;
           CREATE EVENT TRIGGER a ON ddl_command_start EXECUTE FUNCTION public.note();
           CREATE EVENT TRIGGER b ON ddl_command_end EXECUTE FUNCTION public.note_end();
           CREATE EVENT TRIGGER c ON sql_drop EXECUTE FUNCTION public.note_drop()""",
        role=ADMIN,
    )
    db.install()
    Walk(db).all()
    db.sql("SELECT onagui.disable_sync(); SELECT onagui.enable_sync(p_always => true); SELECT onagui.enable_sync()")
    assert db.one("SELECT count(*) FROM public.ddl WHERE tag = 'CREATE TRIGGER'", role=ADMIN) > 0
    db.sql("DROP EXTENSION onagui_sync")
    assert db.one("SELECT count(*) FROM public.ddl WHERE tag = 'dropped'", role=ADMIN) > 0


# --- owners


def role(app, name, options=""):
    app.sql(f"DO $$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$; ALTER ROLE {name} {options or 'LOGIN'}", role=ADMIN)


def test_an_owner_that_may_not_log_in(app):
    role(app, "wild_keeper")
    app.sql("ALTER TABLE onagui.app_users OWNER TO wild_keeper; GRANT USAGE ON SCHEMA public TO wild_keeper", role=ADMIN)
    app.auth.signup("before@example.com")
    role(app, "wild_keeper", "NOLOGIN PASSWORD NULL CONNECTION LIMIT 0 VALID UNTIL '2001-01-01'")
    assert Walk(app).all().health("e-mail look-up", "unindexed references") == []


@pytest.mark.parametrize(
    "taken, given",
    [
        ("REVOKE ALL ON onagui.app_users FROM wild_owner", "GRANT ALL ON onagui.app_users TO wild_owner"),
        ("REVOKE UPDATE ON onagui.app_users FROM wild_owner", "GRANT UPDATE ON onagui.app_users TO wild_owner"),
        ("REVOKE USAGE ON SCHEMA onagui FROM PUBLIC", "GRANT USAGE ON SCHEMA onagui TO PUBLIC"),
    ],
    ids=["everything", "update", "schema"],
)
def test_an_owner_without_rights(app, taken, given):
    """Nothing is written with more rights than the owner has; health names what is missing, and the remedy gives it back."""
    role(app, "wild_owner")
    app.sql("ALTER TABLE onagui.app_users OWNER TO wild_owner", role=ADMIN)
    walk = Walk(app)
    old = app_user(app, "boss@example.com")
    app.sql(taken, role=ADMIN)
    found = [row for row in walk.health("e-mail look-up", "unindexed references", "users out of step") if row[0] == "privileges" and row[1] == "fail"]
    assert {"wild_owner" in detail for _, _, detail in found} == {True}, found
    boss = app.auth.signup("boss@example.com")
    assert errors(app) and set(errors(app)) == {"42501"}
    assert app.sql("SELECT id FROM onagui.app_users", role=ADMIN) == [(old,)]
    [row] = fix(app, "boss@example.com", role=ADMIN)
    assert (row["action"], row["outcome"], row["details"]["error"]["sqlstate"]) == ("rekey", "failed", "42501"), row
    for (remedy,) in app.sql("SELECT remedy FROM onagui.sync_health() WHERE check_name = 'privileges' AND status <> 'ok'", role=ADMIN):
        app.sql(remedy, role=ADMIN)
    assert walk.health("e-mail look-up", "unindexed references", "users out of step", "recent failures") == []
    [row] = fix(app, "boss@example.com")
    assert row["outcome"] == "done" and walk.row(boss)
    app.sql(given, role=ADMIN)
    for connection in app._opened:
        connection.notices.clear()
    walk.all("later.example")


def test_nobody_owns_it_with_more_rights(app):
    """The owner of a table of references may be stripped of its rights, too."""
    role(app, "wild_owner")
    app.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users); ALTER TABLE public.notes OWNER TO wild_owner; REVOKE ALL ON public.notes FROM wild_owner", role=ADMIN)
    moved, own = mismatched(app, "ann@example.com")
    app.sql("INSERT INTO public.notes VALUES (%s)", [moved], role=ADMIN)
    row = fix_one(app, "ann@example.com", apply=False)
    assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "42501"), row
    row = fix_one(app, "ann@example.com")
    assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "42501")
    assert app.sql("SELECT user_id FROM public.notes", role=ADMIN) == [(moved,)]
    app.sql("GRANT ALL ON public.notes TO wild_owner", role=ADMIN)
    assert fix_one(app, "ann@example.com")["new_app_user_id"] == own


def test_a_published_table_that_cannot_be_identified(app):
    """The server lets nobody change it."""
    app.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users)")
    app.sql("CREATE PUBLICATION all_notes FOR TABLE public.notes", role=ADMIN)
    moved, _ = mismatched(app, "ann@example.com")
    app.sql("INSERT INTO public.notes VALUES (%s)", [moved])
    for apply in False, True:
        row = fix_one(app, "ann@example.com", apply)
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("refused", "55000"), row
        assert '"all_notes" publishes updates of public.notes, which has no replica identity' in row["details"]["error"]["detail"]
        assert "REPLICA IDENTITY FULL" in row["details"]["error"]["hint"]
    app.sql("ALTER TABLE public.notes REPLICA IDENTITY FULL")
    assert fix_one(app, "ann@example.com", False)["outcome"] == "planned"
    assert fix_one(app, "ann@example.com")["outcome"] == "done"
    auth_user(app, "new@example.com")
    assert undo(app, fix_one(app, "new@example.com")["audit_id"])


PUBLICATIONS = {
    "by the table": "FOR TABLE public.notes",
    "by its root": "FOR TABLE public.notes WITH (publish_via_partition_root)",
    "all": "FOR ALL TABLES",
    "by the schema": "FOR TABLES IN SCHEMA public",
}


@pytest.mark.parametrize("how", PUBLICATIONS)
@pytest.mark.parametrize("partitioned", [False, True])
def test_publications(app, how, partitioned):
    app.sql(f"CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users, n int) {'PARTITION BY LIST (n)' if partitioned else ''}")
    if partitioned:
        app.sql("CREATE TABLE public.notes_1 PARTITION OF public.notes FOR VALUES IN (1)")
    moved, _ = mismatched(app, "ann@example.com")
    app.sql("INSERT INTO public.notes VALUES (%s, 1)", [moved])
    mismatched(app, "bob@example.com")
    assert fix_one(app, "ann@example.com", False)["outcome"] == "planned"
    app.sql(f"CREATE PUBLICATION news {PUBLICATIONS[how]}", role=ADMIN)
    for apply in False, True:
        row = fix_one(app, "ann@example.com", apply)
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("refused", "55000"), row
    # Nobody has to change a row for this one.
    assert fix_one(app, "bob@example.com", False)["outcome"] == "planned"
    assert fix_one(app, "bob@example.com")["outcome"] == "done"
    app.sql("ALTER PUBLICATION news SET (publish = 'insert, delete')", role=ADMIN)
    assert fix_one(app, "ann@example.com", False)["outcome"] == "planned"
    assert fix_one(app, "ann@example.com")["outcome"] == "done"


def rehearsed_and_done(app, email, outcome, says="", policy="error"):
    for apply in False, True:
        row = fix_one(app, email, apply, policy)
        assert row["outcome"] == (outcome if apply or outcome == "refused" else "planned"), row
        if outcome == "refused":
            assert row["details"]["error"]["sqlstate"] == "55000" and says in row["details"]["error"]["detail"], row


@pytest.mark.parametrize(
    "make, action, refused",
    [
        (mismatched, "ON UPDATE CASCADE", "refuses every UPDATE"),
        (mismatched, "ON UPDATE SET NULL", "refuses every UPDATE"),
        (mismatched, "ON UPDATE SET DEFAULT ON DELETE CASCADE", "refuses every UPDATE"),
        (mismatched, "ON DELETE CASCADE", None),
        (duplicate, "ON DELETE CASCADE", "refuses every DELETE"),
        (duplicate, "ON DELETE SET NULL", "refuses every UPDATE"),
        (duplicate, "ON UPDATE CASCADE ON DELETE RESTRICT", None),
    ],
)
def test_foreign_keys_that_act_on_published_tables(app, make, action, refused):
    """The server refuses what a foreign key does there even where it meets no row."""
    app.sql(f"CREATE TABLE public.likes (user_id uuid REFERENCES onagui.app_users {action}, post int)")
    make(app, "ann@example.com")
    app.sql("CREATE PUBLICATION news FOR ALL TABLES", role=ADMIN)
    rehearsed_and_done(app, "ann@example.com", "refused" if refused else "done", refused)


@pytest.mark.parametrize("key, outcome", [("email", "refused"), ("username", "done")])
def test_foreign_keys_to_e_mails_that_act_on_published_tables(app, key, outcome):
    app.sql(f"ALTER TABLE onagui.app_users ADD UNIQUE ({key})", role=ADMIN)
    app.sql(f"CREATE TABLE public.likes (who text REFERENCES onagui.app_users ({key}) ON UPDATE CASCADE)")
    app_user(app, "old@example.com", auth_user(app, "new@example.com"), username="ann")
    app.sql("CREATE PUBLICATION news FOR ALL TABLES", role=ADMIN)
    rehearsed_and_done(app, "new@example.com", outcome, "refuses every UPDATE")


@pytest.mark.parametrize("published, policy, outcome", [("delete", "keep_auth", "refused"), ("update", "keep_auth", "done"), ("update", "keep_app", "refused")])
def test_tables_published_for_one_kind_of_write(app, published, policy, outcome):
    """What gives way is deleted, the rest is changed."""
    app.sql("CREATE TABLE public.likes (user_id uuid REFERENCES onagui.app_users, post int, UNIQUE (user_id, post))")
    moved, own = duplicate(app, "ann@example.com")
    app.sql("INSERT INTO public.likes VALUES (%s, 1), (%s, 1)", [moved, own])
    app.sql(f"CREATE PUBLICATION news FOR ALL TABLES WITH (publish = '{published}')", role=ADMIN)
    rehearsed_and_done(app, "ann@example.com", outcome, f"publishes {published}s of public.likes", policy)


@pytest.mark.parametrize("published, outcome", [("delete", "refused"), ("update", "done")])
def test_users_published_for_one_kind_of_write(app, published, outcome):
    app.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_pkey, ADD UNIQUE (id)", role=ADMIN)
    duplicate(app, "ann@example.com")
    app.sql(f"CREATE PUBLICATION news FOR ALL TABLES WITH (publish = '{published}')", role=ADMIN)
    rehearsed_and_done(app, "ann@example.com", outcome, "publishes deletes of onagui.app_users")


def test_one_partition_that_cannot_be_identified(app):
    """It bars the whole table, and is named."""
    app.sql("CREATE TABLE public.notes (user_id uuid REFERENCES onagui.app_users, n int) PARTITION BY LIST (n)")
    for n in 1, 2:
        app.sql(f"CREATE TABLE public.notes_{n} PARTITION OF public.notes FOR VALUES IN ({n})")
    app.sql("ALTER TABLE public.notes_1 REPLICA IDENTITY FULL")
    moved, _ = mismatched(app, "ann@example.com")
    app.sql("INSERT INTO public.notes VALUES (%s, 1)", [moved])
    app.sql("CREATE PUBLICATION news FOR ALL TABLES", role=ADMIN)
    rehearsed_and_done(app, "ann@example.com", "refused", "updates of public.notes_2, which has no replica identity")
