"""Many sign-ups in one statement, and many statements in one session."""

import uuid

import pytest

from support import audit

INSERT = """INSERT INTO auth.users (id, email, email_confirmed_at, raw_user_meta_data)
            SELECT gen_random_uuid(), 'u' || i || '@example.com', now(), jsonb_build_object('username', 'user' || i)
              FROM generate_series(1, %s) i"""


@pytest.fixture
def app(db):
    return db.install()


def load(db, count=10000):
    """Inserts users 1 to count and returns how many transaction ids that took, subtransactions included."""
    session = db.session("supabase_auth_admin")
    before = int(session.one("SELECT pg_current_xact_id()::text"))
    session.execute(INSERT, [count])
    return int(session.one("SELECT pg_current_xact_id()::text")) - before


def made(db):
    return db.one("SELECT count(*) FROM onagui.app_users")


def failed(db):
    return sorted((entry["email"], entry["details"]["error"]["sqlstate"]) for entry in audit(db, action="failure"))


def test_all_go_well(app):
    # The statement's own, its subtransaction's, and the one that asks.
    assert load(app) <= 3
    assert made(app) == 10000
    assert audit(app) == []


def test_copy(app):
    with app.session("supabase_auth_admin").cursor() as cursor:
        with cursor.copy("COPY auth.users (id, email, raw_user_meta_data) FROM STDIN") as copy:
            for i in range(1000):
                copy.write_row((uuid.uuid4(), f"u{i}@example.com", '{"username": "same"}'))
    assert made(app) == 1000
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE username LIKE 'same%'") == 1000
    assert audit(app) == []


@pytest.mark.parametrize("unique", [True, False])
def test_one_bad_row_does_not_cost_the_others_theirs(app, unique):
    if not unique:
        app.sql("DROP INDEX onagui.app_users_email_key")
    app.sql("ALTER TABLE onagui.app_users ADD CHECK (email <> 'u4321@example.com')")
    assert load(app) < 64
    assert made(app) == 9999
    assert failed(app) == [("u4321@example.com", "23514")]
    assert [w.sqlstate for w in app.warnings] == ["23514"]


def test_bad_rows_here_and_there(app):
    app.sql("ALTER TABLE onagui.app_users ADD CHECK (email !~ '^u(1|77|5000|9999|10000)@')")
    app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (gen_random_uuid(), 'u3@example.com', 'user8')")
    assert load(app) < 500
    assert made(app) == 10000 - 5 + (1 - 1)
    assert failed(app) == sorted((f"u{i}@example.com", "23514") for i in (1, 77, 5000, 9999, 10000))
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE username ~ '^user8_[0-9a-f]{8}$'") == 1
    # One warning tells of all that failed alike; the linked one's is another matter.
    assert len([w for w in app.warnings if w.sqlstate == "23514"]) == 1


def test_many_rows_with_the_same_fault(app):
    """A rule that every tenth row breaks: the value is left out, by few subtransactions that stay."""
    app.sql("ALTER TABLE onagui.app_users ADD CONSTRAINT nice CHECK (username !~ '0$')")
    load(app, 2000)
    assert made(app) == 2000
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE username IS NULL") == 200
    entries = audit(app)
    assert len(entries) == 200
    assert all(entry["details"]["left_out"] == ["username"] and entry["outcome"] == "done" for entry in entries)
    assert app.one("SELECT count(DISTINCT xmin::text) FROM onagui.app_users") <= 3


def test_a_trigger_that_raises_for_some(app):
    """SQLSTATE 42501, which is mostly nobody's row's fault."""
    app.sql(
        """CREATE FUNCTION public.picky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.email IN ('u7@example.com', 'u8@example.com', 'u900@example.com') THEN
                   RAISE EXCEPTION 'not %', NEW.email USING ERRCODE = '42501'; END IF;
               RETURN NEW; END $$;
           CREATE TRIGGER picky BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.picky()"""
    )
    load(app, 1000)
    assert made(app) == 997
    assert failed(app) == sorted((f"u{i}@example.com", "42501") for i in (7, 8, 900))


def test_a_trigger_that_discards_some(app):
    app.sql(
        """CREATE FUNCTION public.picky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.email = 'u7@example.com' THEN RETURN NULL; END IF; RETURN NEW; END $$;
           CREATE TRIGGER picky BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.picky()"""
    )
    load(app, 1000)
    assert made(app) == 999
    assert failed(app) == [("u7@example.com", "09000")]


def test_a_trigger_for_each_statement_that_wants_one_row(app):
    """It was written for sign-ups one by one, and fails without a row, too, but in another way."""
    app.sql(
        """CREATE TABLE public.profiles (user_id uuid REFERENCES onagui.app_users);
           CREATE FUNCTION public.make() RETURNS trigger LANGUAGE plpgsql AS $$
               DECLARE one record;
               BEGIN
                   SELECT * INTO STRICT one FROM fresh;
                   IF one.email = 'u7@example.com' THEN RAISE EXCEPTION 'not this one'; END IF;
                   INSERT INTO public.profiles VALUES (one.id);
                   RETURN NULL;
               END $$;
           CREATE TRIGGER make AFTER INSERT ON onagui.app_users REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION public.make()"""
    )
    load(app, 300)
    assert made(app) == app.one("SELECT count(*) FROM public.profiles") == 299
    assert failed(app) == [("u7@example.com", "P0001")]


def test_nothing_goes(app):
    app.sql("DROP TABLE onagui.app_users")
    assert load(app, 20000) < 10
    assert len(audit(app, action="failure")) == 20000
    assert [w.message[:60] for w in app.warnings] == ["onagui_sync could not write the app user of 20000 auth users"]


def test_nobody_passes_the_check(app):
    app.sql("ALTER TABLE onagui.app_users ADD CHECK (email IS NULL)")
    load(app, 500)
    assert made(app) == 0
    assert len(audit(app, action="failure")) == 500
    assert len(app.warnings) == 1


def test_rows_without_an_email_among_others(app):
    app.sql("ALTER TABLE onagui.app_users ALTER email SET NOT NULL")
    app.sql(
        """INSERT INTO auth.users (id, email, phone)
           SELECT gen_random_uuid(), CASE WHEN i % 3 > 0 THEN 'u' || i || '@example.com' END, i FROM generate_series(1, 300) i""",
        role="supabase_auth_admin",
    )
    assert made(app) == 200
    assert {entry["details"]["error"]["sqlstate"] for entry in audit(app, action="failure")} == {"23502"}
    assert len(audit(app, action="failure")) == 100


@pytest.mark.parametrize("unique", [True, False])
def test_one_email_on_many_auth_users(app, unique):
    if not unique:
        app.sql("DROP INDEX onagui.app_users_email_key")
    session = app.session("supabase_auth_admin")
    before = int(session.one("SELECT pg_current_xact_id()::text"))
    session.execute(
        """INSERT INTO users (id, email, is_sso_user) SELECT gen_random_uuid(), 'same@example.com', true FROM generate_series(1, 2000)"""
    )
    assert int(session.one("SELECT pg_current_xact_id()::text")) - before < 64
    assert made(app) == 1
    entries = audit(app)
    assert len(entries) == 1999
    assert {entry["action"] for entry in entries} == {"conflict"}


def test_same_usernames_in_one_statement(app):
    app.sql(
        """INSERT INTO auth.users (id, email, raw_user_meta_data)
           SELECT ('01934567-0000-7000-8000-' || lpad(i::text, 12, '0'))::uuid, 'u' || i || '@example.com', '{"username": "ann"}'
             FROM generate_series(1, 4) i""",
        role="supabase_auth_admin",
    )
    assert app.sql("SELECT username FROM onagui.app_users ORDER BY id") == [
        ("ann",),
        ("ann_01934567",),
        ("ann_01934567000070008000000000000003",),
        ("ann_01934567000070008000000000000004",),
    ]
    assert audit(app) == []


@pytest.mark.parametrize("unique", [True, False])
def test_audit_all_records_each_signup_once(app, unique):
    """Made, already there, taken over, with another username, cut, pending, failed: one entry each."""
    if not unique:
        app.sql("DROP INDEX onagui.app_users_email_key")
    app.sql("ALTER TABLE onagui.app_users ALTER full_name TYPE varchar(5), ADD CHECK (email <> 'bad@example.com')")
    ids = {name: uuid.uuid4() for name in ("plain", "there", "other", "taken", "cut", "pending", "bad", "gone", "twice", "again")}
    app.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'there@example.com'), (%s, 'before@example.com')", [ids["there"], ids["other"]])
    app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (gen_random_uuid(), 'pending@example.com', 'taken')")
    session = app.connect("supabase_admin")
    session.execute("SET onagui_sync.audit = 'all'")
    rows = [
        (id, "twice@example.com" if name == "again" else f"{name}@example.com", '{"username": "%s", "full_name": "%s"}' % (name, "Annabelle" if name == "cut" else "Ann"))
        for name, id in ids.items()
    ]
    with session.cursor() as cursor:
        with cursor.copy("COPY auth.users (id, email, raw_user_meta_data, is_sso_user, deleted_at) FROM STDIN") as copy:
            for id, email, meta in rows:
                copy.write_row((id, email, meta, "t", "2026-01-01" if id == ids["gone"] else None))
    session.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'single@example.com')", [uuid.UUID(int=1)])
    found = {}
    for entry in audit(app):
        found.setdefault(entry["auth_user_id"], []).append(entry["action"])
    first, second = found.pop(ids["twice"]), found.pop(ids["again"])
    assert sorted(first + second) == ["conflict", "signup"]
    assert found == {
        ids["plain"]: ["signup"],
        ids["there"]: ["signup"],
        ids["other"]: ["update_email"],
        ids["taken"]: ["signup"],
        ids["cut"]: ["signup"],
        ids["pending"]: ["pending"],
        ids["bad"]: ["failure"],
        uuid.UUID(int=1): ["signup"],
    }


def test_a_plan_for_two_serves_many(app):
    """Kept plans must not be the ones that suit two rows."""
    app.sql("DROP INDEX onagui.app_users_email_key")
    session = app.session("supabase_auth_admin")
    session.execute("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'x@example.com'), (gen_random_uuid(), 'y@example.com')")
    session.execute("SET statement_timeout = '20s'")
    session.execute(INSERT, [20000])
    assert made(app) == 20002


def test_memory_stays_flat(app):
    """Backend memory after 2,000 and after 8,000 further sign-ups of one session, each a statement of its own."""
    used = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts"
    admin = app.session("supabase_admin")

    def sign_up(count, start):
        admin.execute(
            """DO $$ DECLARE i int; BEGIN FOR i IN %s..%s LOOP
                   INSERT INTO auth.users (id, email, raw_user_meta_data)
                   VALUES (gen_random_uuid(), 'u' || i || '@example.com', jsonb_build_object('username', CASE WHEN i %% 10 = 0 THEN 'same' ELSE 'u' || i END));
                   COMMIT; END LOOP; END $$"""
            % (start, start + count - 1)
        )

    sign_up(2000, 1)
    before = admin.one(used)
    sign_up(8000, 2001)
    after = admin.one(used)
    assert made(app) == 10000
    assert after - before < 300_000, f"{before} bytes became {after}"


def test_memory_within_one_transaction(app):
    """The same without commits in between: only what the server itself keeps for each subtransaction may grow."""
    admin = app.session("supabase_admin")
    with admin.transaction():
        def sign_up(start):
            admin.execute(
                f"""DO $$ DECLARE i int; BEGIN FOR i IN {start}..{start + 4999} LOOP
                       INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'u' || i || '@example.com'); END LOOP; END $$"""
            )
        used = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts"
        sign_up(1)
        before = admin.one(used)
        sign_up(5001)
        after = admin.one(used)
    assert (after - before) / 5000 < 2000, f"{(after - before) / 5000} bytes a sign-up"


def test_deletes_of_many(app):
    load(app, 12000)
    app.sql("DELETE FROM auth.users", role="supabase_auth_admin")
    assert app.one("SELECT count(*) FROM onagui.sync_known_id", role="supabase_admin") == 12000
    assert len(audit(app, action="delete")) == 12000
    assert made(app) == 12000


def test_truncate_of_many(app):
    load(app, 12000)
    app.sql("TRUNCATE auth.users CASCADE", role="supabase_auth_admin")
    assert app.one("SELECT count(*) FROM onagui.sync_known_id", role="supabase_admin") == 12000


def test_many_links_in_one_statement(app):
    app.sql("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), 'U' || i || '@example.com' FROM generate_series(1, 200) i")
    load(app, 300)
    assert made(app) == 300
    assert app.one("SELECT count(*) FROM onagui.app_users a JOIN auth.users u USING (id, email)", role="supabase_admin") == 300
    assert len(audit(app, action="link")) == 200


def test_two_confirmed_users_of_one_email_and_one_row(app):
    b = uuid.uuid4()
    app.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'same@example.com')", [b])
    app.sql(
        """INSERT INTO auth.users (id, email, email_confirmed_at, is_sso_user)
           SELECT gen_random_uuid(), 'same@example.com', now(), true FROM generate_series(1, 2)""",
        role="supabase_auth_admin",
    )
    # Whose it is, a person must say.
    assert [entry["action"] for entry in audit(app)] == ["conflict", "conflict"]
    assert app.sql("SELECT id FROM onagui.app_users") == [(b,)]
