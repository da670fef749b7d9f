"""onagui.sync_health(): each check finds what it is for, and its remedy, pasted into psql, mends it."""

import uuid

import pytest

import support
from support import expect_error

CHECKS = [
    "version",
    "tables",
    "triggers",
    "other triggers",
    "settings",
    "column mapping",
    "e-mail look-up",
    "privileges",
    "row security",
    "unindexed references",
    "possible references",
    "published references",
    "recent failures",
    "pending links",
    "users out of step",
]


def findings(db, check=None, role="postgres"):
    """(status, detail, remedy) of a check, in a session of its own: settings of roles and databases hold for new ones only."""
    connection = db.connect(role)
    rows = connection.execute("SELECT * FROM onagui.sync_health()").fetchall()
    connection.close()
    return [row[1:] for row in rows if check in (None, row[0])]


def psql(db, text):
    """As a DBA pastes it."""
    return db.server.program("psql", "-X", "-v", "ON_ERROR_STOP=1", "-q", "-d", db.name, "-f", "-", input=text)


def is_fine(db, check):
    return all(status == "ok" for status, _, _ in findings(db, check))


def mend(db, check, status="warn", says=""):
    """The check finds something; its remedies mend it."""
    found = [row for row in findings(db, check) if row[0] != "ok"]
    assert found, f"{check} found nothing"
    assert {row[0] for row in found} == {status}
    assert says in found[0][1], found
    for _, _, remedy in found:
        psql(db, remedy)
    assert is_fine(db, check), findings(db, check)
    return found


@pytest.fixture
def clinic(db):
    return db.install()


def dba(db, *statements):
    for statement in statements:
        db.sql(statement, role="supabase_admin")


def test_a_fresh_install_is_healthy(clinic):
    rows = clinic.sql("SELECT * FROM onagui.sync_health()")
    assert list(dict.fromkeys(row[0] for row in rows)) == CHECKS
    assert [row for row in rows if row[1] != "ok" or row[3] is not None] == []
    clinic.auth.signup("ada@x.org")
    assert all(status == "ok" for status, _, _ in findings(clinic))


@pytest.mark.parametrize(
    "damage",
    [
        "SELECT onagui.disable_sync()",
        "DROP TRIGGER trigger_sync_auth_user_deletes ON auth.users",
        "ALTER TABLE auth.users DISABLE TRIGGER trigger_sync_auth_user_to_app_users",
        "ALTER TABLE auth.users ENABLE REPLICA TRIGGER trigger_sync_auth_user_changes",
        """DROP TRIGGER trigger_sync_auth_user_to_app_users ON auth.users;
           CREATE FUNCTION public.other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
           CREATE TRIGGER trigger_sync_auth_user_to_app_users AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.other()""",
        "SELECT onagui.enable_sync(true); ALTER TABLE auth.users DISABLE TRIGGER trigger_sync_auth_user_deletes",
        """CREATE TRIGGER again AFTER INSERT ON auth.users REFERENCING NEW TABLE AS new_users FOR EACH STATEMENT
           EXECUTE FUNCTION onagui.sync_auth_user_to_app_users()""",
        """CREATE TABLE public."Other t" (id uuid);
           CREATE TRIGGER "wrong place" AFTER INSERT ON public."Other t" REFERENCING NEW TABLE AS new_users FOR EACH STATEMENT
           EXECUTE FUNCTION onagui.sync_auth_user_to_app_users()""",
    ],
)
def test_triggers(clinic, damage):
    always = "enable_sync(true)" in damage
    dba(clinic, damage)
    mend(clinic, "triggers", "fail")
    assert clinic.one("SELECT bool_and(tgenabled = %s) FROM pg_trigger WHERE tgname = 'trigger_sync_auth_user_deletes'", ["A" if always else "O"])
    id = clinic.auth.signup("ada@x.org")
    assert clinic.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [id]) == 1


def test_a_column_that_came_later(db):
    dba(db, "ALTER TABLE auth.users DROP COLUMN deleted_at")
    db.install()
    assert is_fine(db, "triggers")
    dba(db, "ALTER TABLE auth.users ADD COLUMN deleted_at timestamptz")
    mend(db, "triggers", "fail", "not as enable_sync() makes it")


def test_another_trigger_that_writes_app_users(clinic):
    dba(
        clinic,
        """CREATE FUNCTION public.handle_new_user() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO onagui.app_users (id) VALUES (NEW.id) ON CONFLICT DO NOTHING; RETURN NEW; END'""",
        "CREATE TRIGGER \"on auth user created\" AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.handle_new_user()",
    )
    [(_, _, remedy)] = mend(clinic, "other triggers", says="handle_new_user")
    assert "\n-- or, as the function's owner, with whatever else it is the trigger of: DROP FUNCTION public.handle_new_user() CASCADE;\n-- What else" in remedy


@pytest.mark.parametrize("path", ["private", ""])
def test_another_schemas_table_with_a_views_name(clinic, path):
    dba(
        clinic,
        "CREATE VIEW public.profiles AS SELECT id, username FROM onagui.app_users",
        "CREATE SCHEMA private; CREATE TABLE private.profiles (id uuid)",
        f"""CREATE FUNCTION private.f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '{path}' AS
            $$BEGIN INSERT INTO {'private.' if not path else ''}profiles VALUES (NEW.id); RETURN NEW; END$$""",
        "CREATE TRIGGER zz AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION private.f()",
    )
    assert is_fine(clinic, "other triggers")


@pytest.mark.parametrize("column", ["team_id", "invite_token"])
def test_a_unique_column_that_is_not_who_the_user_is(db, column):
    db.install(app_users=False)
    db.sql(f"CREATE TABLE onagui.app_users (user_no bigint PRIMARY KEY, {column} uuid UNIQUE NOT NULL, email text)")
    [(_, _, remedy)] = [row for row in findings(db, "tables") if row[0] == "fail"]
    assert remedy == "ALTER TABLE onagui.app_users ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE;"


def test_a_functions_name_does_not_end_a_remedys_comment(clinic):
    name = 'public."x\nSELECT 1/0; --"'
    dba(
        clinic,
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF false THEN INSERT INTO onagui.app_users VALUES (NEW.id); END IF; RETURN NULL; END$$",
        f"CREATE TRIGGER other AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION {name}()",
    )
    [(_, _, remedy)] = mend(clinic, "other triggers")
    drop, *comments = remedy.split("\n")
    assert drop == "DROP TRIGGER other ON auth.users;" and all(comment.startswith("-- ") for comment in comments)


def handle_new_user(db, body):
    dba(
        db,
        f"CREATE OR REPLACE FUNCTION public.handle_new_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN {body}; RETURN NEW; END$$",
        "CREATE OR REPLACE TRIGGER on_auth_user_created AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.handle_new_user()",
    )


@pytest.mark.parametrize(
    "body, through",
    [
        ("INSERT INTO public.users (id) VALUES (NEW.id) ON CONFLICT DO NOTHING", "public.users"),
        ('insert\n  into "public"."users" (id) VALUES (NEW.id) ON CONFLICT DO NOTHING', "public.users"),
        ('UPDATE public."All users" SET email = NEW.email WHERE id = NEW.id', 'public."All users"'),
        ("DELETE FROM users WHERE email = NEW.email", "public.users"),
        ("INSERT INTO public.inbox VALUES (NEW.id)", "public.inbox"),
        ("PERFORM FROM onagui.app_users; UPDATE public.users SET email = NEW.email WHERE id = NEW.id", "public.users"),
    ],
)
def test_another_trigger_that_writes_app_users_through_a_view(clinic, body, through):
    dba(
        clinic,
        "CREATE VIEW public.users AS SELECT * FROM onagui.app_users",
        'CREATE VIEW public."All users" AS SELECT id, email FROM public.users',
        "CREATE TABLE public.inbox (id uuid)",
        "CREATE RULE fill AS ON INSERT TO public.inbox DO ALSO UPDATE onagui.app_users a SET email = '' WHERE a.id = NEW.id",
    )
    handle_new_user(clinic, body)
    [(_, detail, _)] = mend(clinic, "other triggers", says="handle_new_user")
    assert detail.endswith(f", which seems to write app_users as well, through {through}")


@pytest.mark.parametrize(
    "body",
    [
        "UPDATE auth.users SET phone = NULL WHERE id = NEW.id AND false",
        "PERFORM FROM public.users WHERE id = NEW.id",
        "PERFORM FROM only onagui . app_users a JOIN app_users b USING (id)",
        "INSERT INTO public.users_log VALUES (NEW.id)",
    ],
)
def test_other_triggers_are_named(clinic, body):
    """What their functions do is not known for sure."""
    assert findings(clinic, "other triggers") == [("ok", "nothing else on auth.users writes app users, or refers to them before they are there", None)]
    dba(clinic, "CREATE VIEW public.users AS SELECT * FROM onagui.app_users; CREATE TABLE public.users_log (id uuid)")
    handle_new_user(clinic, body)
    [(status, detail, _)] = findings(clinic, "other triggers")
    assert status == "ok" and detail.startswith("no other trigger on auth.users seems to write app users")
    assert detail.endswith("; there are: on_auth_user_created (public.handle_new_user)")


def have_app_users_fire_it(db, remedy, trigger):
    """Whether a function suits, only a person can tell."""
    assert remedy.startswith("-- ") and "\n" not in remedy
    dba(db, remedy[remedy.index("CREATE") : remedy.index(";") + 1], f"DROP TRIGGER {trigger} ON auth.users")
    assert is_fine(db, "other triggers")


def test_a_trigger_that_writes_what_refers_to_app_users_too_early(clinic):
    dba(
        clinic,
        """CREATE TABLE public."Profiles.x" (id uuid PRIMARY KEY REFERENCES onagui.app_users)""",
        """CREATE FUNCTION public.handle_new_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS
           'BEGIN INSERT INTO public."Profiles.x" VALUES (NEW.id); RETURN NEW; END'""",
        "CREATE TRIGGER on_auth_user_created AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.handle_new_user()",
    )
    with expect_error("23503", hint=False):
        clinic.auth.signup("ada@x.org")
    [(status, detail, remedy)] = findings(clinic, "other triggers")
    assert status == "warn" and detail.endswith("is made after that, so that sign-ups fail")
    have_app_users_fire_it(clinic, remedy, "on_auth_user_created")
    id = clinic.auth.signup("ada@x.org")
    assert clinic.sql('SELECT id FROM public."Profiles.x"', role="supabase_admin") == [(id,)]
    # As well for whom no row is made yet.
    dba(clinic, "INSERT INTO onagui.app_users (id, email) VALUES (gen_random_uuid(), 'bob@x.org')")
    clinic.auth.confirm(clinic.auth.signup("bob@x.org", confirmed=False))
    assert clinic.one("SELECT sync_status FROM onagui.sync_status(p_email => 'bob@x.org')") == "SYNCED"


PROFILES = """
    CREATE TABLE public.profiles (id uuid PRIMARY KEY REFERENCES onagui.app_users {});
    INSERT INTO onagui.app_users (id, email) VALUES (gen_random_uuid(), 'bob@x.org')"""
PROFILE = "INSERT INTO public.profiles VALUES (NEW.id)"


@pytest.mark.parametrize("key, name", [("DEFERRABLE INITIALLY DEFERRED", "on_auth_user_created"), ("", "zz")])
def test_a_trigger_that_writes_what_refers_to_whom_not_everybody_becomes(clinic, key, name):
    """Deferred or late, it is well with those who get their row at once, and nobody finds out about the others."""
    dba(clinic, PROFILES.format(key), "SELECT onagui.enable_sync(true)")
    handle_new_user(clinic, PROFILE)
    dba(clinic, f"ALTER TRIGGER on_auth_user_created ON auth.users RENAME TO {name}" if name != "on_auth_user_created" else "SELECT 1")
    clinic.auth.signup("ada@x.org")
    with expect_error("23503", hint=False):
        clinic.auth.signup("bob@x.org", confirmed=False)
    [(status, detail, remedy)] = findings(clinic, "other triggers")
    assert status == "warn" and detail.endswith("who is PENDING or in CONFLICT has not got, so that their sign-ups fail")
    dba(clinic, "ALTER FUNCTION public.handle_new_user() SET search_path = ''")
    have_app_users_fire_it(clinic, remedy, name)
    clinic.auth.signup("bob@x.org", confirmed=False)
    dan = clinic.auth.signup("dan@x.org")
    assert clinic.one("SELECT count(*) FROM public.profiles WHERE id = %s", [dan], role="supabase_admin") == 1


@pytest.mark.parametrize(
    "body",
    [
        "/* INSERT INTO public.profiles */ PERFORM 1; -- INSERT INTO public.profiles\n PERFORM 2",
        "INSERT INTO crm.profiles VALUES (NEW.id)",
        "PERFORM FROM public.profiles",
        "UPDATE public.profiles SET note = '' WHERE id = NEW.id",
    ],
)
def test_a_trigger_that_writes_nothing_that_refers_to_app_users(clinic, body):
    dba(clinic, PROFILES.format(", note text"), "CREATE SCHEMA crm; CREATE TABLE crm.profiles (id uuid REFERENCES auth.users)")
    handle_new_user(clinic, body)
    assert is_fine(clinic, "other triggers")


@pytest.mark.parametrize(
    "body",
    [
        "UPDATE public.profiles p SET note = '', made_for = NEW.id WHERE p.note = NEW.email",
        "update only public . profiles set made_for=NEW.id",
        "INSERT INTO public.parts_1 VALUES (NEW.id)",
        """PERFORM '{"Accept":"*/*"}'; INSERT INTO public.parts VALUES (NEW.id); PERFORM '{"Accept":"*/*"}'""",
        "-- all of /api/*\n INSERT INTO public.parts VALUES (NEW.id);\n -- and */* too\n PERFORM 1",
        "PERFORM 'https://xn--mnchen.de'; INSERT INTO public.parts VALUES (NEW.id)",
    ],
)
def test_other_ways_to_write_what_refers_to_app_users(clinic, body):
    dba(
        clinic,
        PROFILES.format(", note text, made_for uuid REFERENCES onagui.app_users"),
        "CREATE TABLE public.parts (id uuid REFERENCES onagui.app_users) PARTITION BY HASH (id)",
        "CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )
    handle_new_user(clinic, body)
    dba(clinic, "CREATE OR REPLACE TRIGGER on_auth_user_created AFTER INSERT ON auth.users FOR EACH ROW WHEN (true) EXECUTE FUNCTION public.handle_new_user('a')")
    [(status, detail, remedy)] = findings(clinic, "other triggers")
    assert status == "warn" and detail.endswith("is made after that, so that sign-ups fail"), detail
    assert "; with its WHEN and its arguments; " in remedy and remedy.endswith("; then DROP TRIGGER on_auth_user_created ON auth.users;"), remedy


def test_a_trigger_that_writes_what_refers_to_whom_a_confirmation_makes(clinic):
    dba(clinic, PROFILES.format("DEFERRABLE INITIALLY DEFERRED"))
    handle_new_user(clinic, PROFILE)
    dba(
        clinic,
        """DROP TRIGGER on_auth_user_created ON auth.users;
           CREATE TRIGGER on_auth_user_confirmed AFTER UPDATE OF email_confirmed_at ON auth.users FOR EACH ROW
           WHEN (OLD.email_confirmed_at IS NULL AND NEW.email_confirmed_at IS NOT NULL) EXECUTE FUNCTION public.handle_new_user()""",
    )
    bob = clinic.auth.signup("bob@x.org", confirmed=False)
    with expect_error("23503", hint=False):
        clinic.auth.confirm(bob)
    dba(clinic, "CREATE TRIGGER on_auth_user_deleted AFTER DELETE ON auth.users FOR EACH ROW EXECUTE FUNCTION public.handle_new_user()")
    [(status, detail, remedy)] = findings(clinic, "other triggers")
    assert status == "warn" and detail.endswith("so that they cannot confirm their e-mail"), detail
    where = remedy[remedy.index("WHERE") :]
    handle_new_user(clinic, f"INSERT INTO public.profiles SELECT NEW.id {where}")
    dba(clinic, "DROP TRIGGER on_auth_user_created ON auth.users")
    assert is_fine(clinic, "other triggers")
    clinic.auth.confirm(bob)
    assert clinic.one("SELECT sync_status FROM onagui.sync_status(p_email => 'bob@x.org')") == "SYNCED"


@pytest.mark.parametrize(
    "damage, says",
    [
        ("DROP TABLE onagui.app_users", "onagui.app_users does not exist"),
        ("ALTER TABLE onagui.app_users DROP COLUMN email", "no column email"),
        ("ALTER TABLE onagui.app_users DROP COLUMN id", "no column id"),
        ("ALTER TABLE onagui.app_users ALTER COLUMN id TYPE text", "column id of onagui.app_users has a type onagui_sync cannot use. It is text; it must be"),
        ("ALTER TABLE onagui.app_users ALTER COLUMN email TYPE jsonb USING to_jsonb(email)", "cannot use. It is jsonb; it must be"),
        ("ALTER TABLE onagui.app_users DROP COLUMN email, ADD COLUMN email text GENERATED ALWAYS AS (lower(username)) STORED", "email is generated"),
        ("ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_pkey", "neither primary key nor unique"),
        ('ALTER TABLE onagui.app_users ADD COLUMN "Tenant id" uuid NOT NULL', '"Tenant id" is NOT NULL'),
    ],
)
def test_tables(clinic, damage, says):
    if "jsonb" in damage:
        dba(clinic, "DROP INDEX onagui.app_users_email_key")
    dba(clinic, damage)
    assert len(findings(clinic)) >= len(CHECKS)  # all the others answer, too
    assert not any("XX000" in detail for _, detail, _ in findings(clinic))
    mend(clinic, "tables", "fail", says)


@pytest.mark.parametrize("columns, then", [("", "ADD COLUMN id uuid NOT NULL"), (', "User uid" uuid NOT NULL UNIQUE', 'RENAME COLUMN "User uid" TO id')])
def test_ids_of_another_type_are_not_cast(clinic, columns, then):
    """Nothing that must fail is offered for pasting."""
    dba(clinic, f"DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id bigint PRIMARY KEY, email text{columns})")
    [(status, _, remedy)] = findings(clinic, "tables")
    assert status == "fail" and remedy.startswith("-- bigint cannot become uuid.") and then in remedy and "\n" not in remedy
    dba(clinic, "ALTER TABLE onagui.app_users RENAME COLUMN id TO old_id; ALTER TABLE onagui.app_users ALTER COLUMN old_id ADD GENERATED ALWAYS AS IDENTITY")
    mend(clinic, "tables", "fail", "no column id")


TEXT_IDS = "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id text PRIMARY KEY{}, email text); INSERT INTO onagui.app_users VALUES ('{}', 'ann@x.org')"
A_UUID = "51f00000-0000-4000-8000-000000000001"


@pytest.mark.parametrize("default", ["", " DEFAULT gen_random_uuid()::text", " DEFAULT 'x'"])
def test_text_ids_become_uuids(clinic, default):
    dba(clinic, TEXT_IDS.format(default, A_UUID))
    mend(clinic, "tables", "fail", "It is text")
    assert clinic.one("SELECT id::text FROM onagui.app_users", role="supabase_admin") == A_UUID
    kept = clinic.sql("SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'onagui.app_users'::regclass", role="supabase_admin")
    assert kept == ([("gen_random_uuid()",)] if "uuid" in default else [])


@pytest.mark.parametrize(
    ("more", "id", "says"),
    [
        ("CREATE TABLE posts (author text REFERENCES onagui.app_users)", A_UUID, "drop constraint posts_author_fkey on table public.posts; then"),
        ("CREATE POLICY own ON onagui.app_users USING (id = current_user)", A_UUID, "drop policy own on table"),
        ("CREATE VIEW u AS SELECT id FROM onagui.app_users", A_UUID, "drop rule _RETURN on view public.u; then"),
        ("ALTER TABLE onagui.app_users ADD CHECK (length(id) = 36)", A_UUID, "drop constraint app_users_id_check on table onagui.app_users; then"),
        ("CREATE INDEX by_id ON onagui.app_users (lower(id))", A_UUID, "drop index onagui.by_id; then"),
        ("CREATE INDEX by_id ON onagui.app_users (id text_pattern_ops)", A_UUID, "drop index onagui.by_id; then"),
        ("CREATE INDEX by_id ON onagui.app_users (email) WHERE id <> ''", A_UUID, "drop index onagui.by_id; then"),
        ("CREATE TRIGGER t BEFORE UPDATE OF id ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", A_UUID, "drop trigger t on"),
        ("ALTER TABLE onagui.app_users ADD short text GENERATED ALWAYS AS (left(id, 8)) STORED", A_UUID, "short of table onagui.app_users; then"),
        ("SELECT 1", "{" + A_UUID, "Not all ids are uuids. Rename the column, then: ALTER TABLE"),
        ("SELECT 1", "clx0", "Not all ids are uuids. Rename the column, then: ALTER TABLE"),
    ],
)
def test_text_ids_that_cannot_simply_become_uuids(clinic, more, id, says):
    """Nothing that must fail is offered for pasting."""
    dba(clinic, TEXT_IDS.format("", id), more)
    [(status, _, remedy)] = findings(clinic, "tables")
    assert status == "fail" and remedy.startswith("-- ") and says in remedy and "\n" not in remedy, remedy


def test_a_column_of_the_replica_identity(clinic):
    dba(clinic, "ALTER TABLE onagui.app_users ADD code text NOT NULL UNIQUE, REPLICA IDENTITY USING INDEX app_users_code_key")
    [(_, _, remedy)] = [row for row in findings(clinic, "tables") if "code" in row[1]]
    assert remedy.startswith("-- code is of the primary key, or of the replica identity. ")


UNIQUE = "uuid NOT NULL UNIQUE DEFAULT gen_random_uuid()"


@pytest.mark.parametrize(
    "columns, then",
    [
        (f"user_id {UNIQUE}, device {UNIQUE}, PRIMARY KEY (user_id), email text", "RENAME COLUMN user_id TO id"),
        (f'n bigint PRIMARY KEY DEFAULT 1, "User id" {UNIQUE}, team uuid, email text', 'RENAME COLUMN "User id" TO id'),
        ("n bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, team uuid, email text", "ADD COLUMN id"),
        (f"one {UNIQUE}, other {UNIQUE}, email text", "ADD COLUMN id"),
        ("one uuid DEFAULT gen_random_uuid(), other int DEFAULT 1, email text, UNIQUE (one, other)", "ADD COLUMN id"),
    ],
)
def test_a_key_under_another_name(clinic, columns, then):
    """Who is there already has an id then, by which they are linked."""
    dba(clinic, f"DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users ({columns})")
    dba(clinic, "INSERT INTO onagui.app_users (email) VALUES ('ada@x.org')")
    [(_, _, remedy)] = mend(clinic, "tables", "fail", "no column id")
    assert then in remedy
    ada = clinic.auth.signup("ada@x.org")
    assert clinic.sql("SELECT id, email FROM onagui.app_users", role="supabase_admin") == [(ada, "ada@x.org")]


def test_a_table_with_partitions_and_no_id(clinic):
    dba(clinic, "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (n int, email text) PARTITION BY LIST (n)")
    [(_, _, remedy)] = findings(clinic, "tables")
    psql(clinic, remedy)
    assert "neither primary key nor unique" in findings(clinic, "tables")[0][1]


@pytest.mark.parametrize(
    "columns, then",
    [
        ("e_mail text", "RENAME COLUMN e_mail TO email"),
        ('"E-Mail" varchar(200), mail_id bigint', 'RENAME COLUMN "E-Mail" TO email'),
        ("email_address text NOT NULL, email_sent boolean", "RENAME COLUMN email_address TO email"),
        ("mail jsonb, address text", "ADD COLUMN email text"),
    ],
)
def test_an_email_under_another_name(clinic, columns, then):
    dba(clinic, f"DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, {columns})")
    [(_, _, remedy)] = mend(clinic, "tables", "fail", "no column email")
    assert then in remedy


@pytest.mark.parametrize("columns, named", [("mail text, email_address text", "mail, email_address"), ("contact_email text", "contact_email")])
def test_what_may_be_the_email_is_for_a_person_to_say(clinic, columns, named):
    dba(clinic, f"DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, {columns})")
    [(_, _, remedy)] = findings(clinic, "tables")
    assert remedy.startswith(f"-- Is it one of {named}? Then: ALTER TABLE onagui.app_users RENAME COLUMN ... TO email;")
    assert len(remedy.splitlines()) == 1


@pytest.mark.parametrize(
    "columns, values",
    [
        ("key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, auth_user_id uuid UNIQUE REFERENCES auth.users ON DELETE CASCADE", ""),
        ("key uuid PRIMARY KEY DEFAULT gen_random_uuid(), auth_id uuid UNIQUE", ""),
        ('key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Auth ID" text UNIQUE', "::text"),
    ],
)
def test_the_column_that_holds_auths_ids_is_the_id(clinic, columns, values):
    """An id of its own beside it would make everybody two users."""
    clinic.auth.signup("ann@example.com")
    clinic.auth.signup("bob@example.com")
    column = columns.split(", ")[1].split(" uuid")[0].split(" text")[0]
    dba(
        clinic,
        "DROP TABLE onagui.app_users",
        f"CREATE TABLE onagui.app_users ({columns}, email text)",
        f"INSERT INTO onagui.app_users ({column}, email) SELECT id{values}, 'other.' || email FROM auth.users",
    )
    # Nobody of auth's is known for this one.
    nobody = "REFERENCES auth" not in columns
    if nobody:
        dba(clinic, f"INSERT INTO onagui.app_users ({column}, email) VALUES (NULL, 'nobody@example.com')")
    [(_, _, remedy)] = [row for row in findings(clinic, "tables") if row[0] == "fail"]
    assert remedy.startswith(f"ALTER TABLE onagui.app_users RENAME COLUMN {column} TO id;")
    psql(clinic, remedy)
    for _ in range(3):
        for _, _, remedy in findings(clinic, "tables"):
            psql(clinic, remedy or "")
    statuses = dict(clinic.sql("SELECT sync_status, users FROM onagui.sync_summary() WHERE users > 0"))
    assert statuses == {"EMAIL_MISMATCH": 2} | ({"MISSING_IN_AUTH": 1} if nobody else {})


def test_ids_that_are_unique_within_a_tenant(clinic):
    dba(
        clinic,
        "DROP TABLE onagui.app_users",
        "CREATE TABLE onagui.app_users (tenant int DEFAULT 1, id uuid NOT NULL, email text, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant)",
        "CREATE TABLE onagui.p1 PARTITION OF onagui.app_users FOR VALUES IN (1)",
    )
    [(status, detail, _)] = findings(clinic, "tables")
    assert (status, detail) == ("warn", "onagui.app_users.id is unique only together with other columns: nothing else keeps a second row with an id out")
    clinic.auth.signup("ann@example.com")
    assert clinic.one("SELECT count(*) FROM onagui.app_users", role="supabase_admin") == 1


def test_a_required_column_that_a_trigger_sets(clinic):
    dba(
        clinic,
        "ALTER TABLE onagui.app_users ADD slug text NOT NULL",
        "CREATE FUNCTION public.slug() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.slug := NEW.id; RETURN NEW; END'",
        "CREATE TRIGGER slug BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.slug()",
    )
    [(status, detail, remedy)] = findings(clinic, "tables")
    assert (status, detail.endswith("unless a trigger sets it (slug)")) == ("warn", True)
    assert all(line.startswith("-- ") for line in remedy.splitlines())
    clinic.auth.signup("ann@example.com")
    assert clinic.one("SELECT slug = id::text FROM onagui.app_users")


@pytest.mark.parametrize(
    "event, body",
    [
        ("DELETE", "UPDATE onagui.app_users SET email = NULL WHERE id = OLD.id; RETURN NULL"),
        ("DELETE", "DELETE FROM onagui.app_users WHERE id = OLD.id; RETURN NULL"),
        ("UPDATE", "UPDATE onagui.app_users SET full_name = NEW.raw_user_meta_data ->> 'full_name' WHERE id = NEW.id; RETURN NULL"),
        ("INSERT", "IF tg_table_name IN ('users', 'app_users') THEN PERFORM pg_notify('x', NEW.id::text); END IF; RETURN NULL"),
        ("INSERT", "PERFORM 1 FROM public.other o, onagui.app_users u; RETURN NULL"),
    ],
)
def test_a_trigger_that_makes_no_app_user_may_stay(clinic, event, body):
    dba(
        clinic,
        f"CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$DECLARE r onagui.app_users%ROWTYPE; BEGIN {body}; END$$",
        f"CREATE TRIGGER other AFTER {event} ON auth.users FOR EACH ROW EXECUTE FUNCTION public.f()",
    )
    assert is_fine(clinic, "other triggers")


@pytest.mark.parametrize(
    "role, cmd, using, is_open",
    [
        ("anon", "SELECT", "true", True),
        ("anon", "ALL", "true", True),
        ("anon", "SELECT", "auth.uid() = id", False),
        ("authenticated", "SELECT", "true", False),
        ("authenticated", "UPDATE", "auth.uid() = id", True),
        ("authenticated", "DELETE", "true", False),
    ],
)
def test_emails_that_clients_may_read_or_change(clinic, role, cmd, using, is_open):
    dba(
        clinic,
        f"GRANT USAGE ON SCHEMA onagui TO {role}",
        f"GRANT ALL ON onagui.app_users TO {role}",
        f"CREATE POLICY p ON onagui.app_users FOR {cmd} TO {role} USING ({using})",
    )
    if not is_open:
        assert is_fine(clinic, "privileges")
        return
    mend(clinic, "privileges", says="e-mail in onagui.app_users")
    columns = clinic.sql("SELECT a.attname FROM pg_attribute a WHERE attrelid = 'onagui.app_users'::regclass AND attnum > 0 AND has_column_privilege(%s, attrelid, attnum, %s)", [role, "SELECT" if role == "anon" else "UPDATE"])
    assert ("username",) in columns and ("email",) not in columns


def test_an_email_that_clients_may_change_beside_no_other_column(clinic):
    dba(
        clinic,
        "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text)",
        "GRANT USAGE ON SCHEMA onagui TO authenticated; GRANT UPDATE ON onagui.app_users TO PUBLIC",
    )
    mend(clinic, "privileges", says="may change the e-mail in onagui.app_users")


def columns_of(db, role, what):
    query = "SELECT attname FROM pg_attribute WHERE attrelid = 'onagui.app_users'::regclass AND attnum > 0 AND has_column_privilege(%s, attrelid, attnum, %s) ORDER BY 1"
    return [name for (name,) in db.sql(query, [role, what])]


def test_the_remedy_for_open_emails_gives_nobody_what_they_have_not_got(clinic):
    dba(
        clinic,
        "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, full_name text, is_admin bool NOT NULL DEFAULT false)",
        "GRANT USAGE ON SCHEMA onagui TO anon, authenticated",
        "GRANT SELECT (id, email, full_name) ON onagui.app_users TO anon, authenticated; GRANT UPDATE (full_name, email) ON onagui.app_users TO authenticated",
    )
    assert [remedy for *_, remedy in mend(clinic, "privileges", says="e-mail in onagui.app_users")] == [
        "REVOKE SELECT (email) ON onagui.app_users FROM anon;",
        "REVOKE UPDATE (email) ON onagui.app_users FROM authenticated;",
    ]
    assert columns_of(clinic, "authenticated", "UPDATE") == ["full_name"]
    assert columns_of(clinic, "anon", "SELECT") == ["full_name", "id"]


def test_the_remedy_for_open_emails_takes_nothing_from_the_others(clinic):
    dba(
        clinic,
        "GRANT USAGE ON SCHEMA onagui TO anon, authenticated",
        "GRANT SELECT, UPDATE ON onagui.app_users TO PUBLIC",
        "CREATE POLICY p ON onagui.app_users USING (true)",
    )
    before = {role: columns_of(clinic, role, "SELECT") for role in ("authenticated", "service_role")}
    mend(clinic, "privileges", says="e-mail in onagui.app_users")
    assert {role: columns_of(clinic, role, "SELECT") for role in before} == before
    assert columns_of(clinic, "service_role", "UPDATE") == before["service_role"]
    for role in "anon", "authenticated":
        assert columns_of(clinic, role, "UPDATE") == ["created_at", "full_name", "metadata", "updated_at", "username"]
    assert columns_of(clinic, "anon", "SELECT") == ["created_at", "full_name", "id", "updated_at", "username"]


def test_emails_in_other_columns_are_open_too(clinic):
    dba(
        clinic,
        "ALTER TABLE onagui.app_users ADD COLUMN domain text GENERATED ALWAYS AS (split_part(email, '@', 2)) STORED, ADD COLUMN contact text, ADD COLUMN size text",
        "INSERT INTO onagui.sync_column VALUES ('contact', 'user_meta', 'email'), ('size', 'user_meta', 'size')",
        "GRANT USAGE ON SCHEMA onagui TO anon; GRANT SELECT (id, username, metadata, domain, contact, size) ON onagui.app_users TO anon",
        "CREATE POLICY p ON onagui.app_users FOR SELECT USING (true)",
    )
    found = mend(clinic, "privileges", says="anon may read everybody's e-mail in onagui.app_users (contact, domain, metadata)")
    assert len(found) == 1
    assert columns_of(clinic, "anon", "SELECT") == ["id", "size", "username"]


@pytest.mark.parametrize("rows, says", [(1, "has 1 row without an id"), (1000, "has 1000 rows without an id"), (1200, "has more than 1000 rows without an id")])
def test_rows_without_an_id(clinic, rows, says):
    dba(
        clinic,
        "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid UNIQUE, email text)",
        f"INSERT INTO onagui.app_users (email) SELECT i || '@x.org' FROM generate_series(1, {rows}) i",
    )
    assert clinic.sql("SELECT DISTINCT status FROM onagui.sync_health() WHERE check_name = 'tables'") == [("warn",)]
    mend(clinic, "tables", says=says)
    ada = clinic.auth.signup("1@x.org")
    assert clinic.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [ada], role="supabase_admin") == 1


def test_users_without_the_email_that_app_users_must_have(clinic):
    """No fix makes their rows, and so none may be asked for."""
    dba(clinic, "ALTER TABLE onagui.app_users ALTER COLUMN email SET NOT NULL")
    assert is_fine(clinic, "tables")
    clinic.auth.signup(phone="4912345")
    bob = clinic.auth.signup(phone="4912346")
    clinic.sql("UPDATE auth.users SET deleted_at = now() WHERE id = %s", [bob], role="supabase_auth_admin")
    ann = clinic.auth.signup("ann@x.org")
    [(status, detail, _)] = findings(clinic, "users out of step")
    assert (status, detail) == ("ok", "1 user in step, 1 without what app users must have")
    dba(clinic, f"DELETE FROM onagui.app_users WHERE id = '{ann}'")
    mended = clinic.one("SELECT count(*) FROM onagui.fix_user_ids() WHERE outcome = 'planned'")
    assert findings(clinic, "users out of step")[0][1].startswith(f"{mended} user out of step")
    mend(clinic, "tables", says="auth.users has 1 user without an e-mail who cannot have an app user")
    mend(clinic, "users out of step", says="2 users out of step")


def test_users_without_a_value_that_app_users_must_have(clinic):
    dba(clinic, 'ALTER TABLE onagui.app_users ALTER COLUMN username SET NOT NULL, ADD COLUMN "Company" varchar(20) NOT NULL')
    dba(clinic, "INSERT INTO onagui.sync_column VALUES ('Company', 'user_meta', 'company')")
    clinic.auth.signup("ann@x.org", meta={"company": "Initech"})
    assert is_fine(clinic, "tables")
    clinic.auth.signup("bob@x.org")
    clinic.auth.signup(phone="4912345", meta={"company": "Initech"})
    assert findings(clinic, "users out of step") == [("ok", "1 user in step, 2 without what app users must have", None)]
    assert findings(clinic, "recent failures") == [("ok", "2 failures in the last day, all mended since, or for want of what app users must have", None)]
    assert [detail for _, detail, _ in mend(clinic, "tables", says="without a value for ")] == [
        "auth.users has 1 user without a value for username who cannot have an app user: onagui.app_users.username is NOT NULL",
        'auth.users has 1 user without a value for "Company" who cannot have an app user: onagui.app_users."Company" is NOT NULL',
    ]
    mend(clinic, "users out of step", says="2 users out of step")


def test_a_value_that_a_trigger_gives_is_not_missed(clinic):
    dba(
        clinic,
        "ALTER TABLE onagui.app_users ALTER COLUMN username SET NOT NULL",
        "CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.username := coalesce(NEW.username, NEW.id::text); RETURN NEW; END'",
        "CREATE TRIGGER fill BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.fill()",
        "ALTER TABLE auth.users DISABLE TRIGGER USER",
    )
    clinic.auth.signup(phone="4912345")
    dba(clinic, "ALTER TABLE auth.users ENABLE TRIGGER USER")
    assert is_fine(clinic, "tables")
    mend(clinic, "users out of step", says="1 user out of step")


def test_an_email_that_the_columns_default_gives_is_not_missed(clinic):
    dba(clinic, "DROP INDEX onagui.app_users_email_key; CREATE INDEX ON onagui.app_users (lower(btrim(email)))")
    dba(clinic, "ALTER TABLE onagui.app_users ALTER COLUMN email SET NOT NULL, ALTER COLUMN email SET DEFAULT ''")
    clinic.auth.signup(phone="4912345")
    assert is_fine(clinic, "tables")
    assert findings(clinic, "users out of step") == [("ok", "1 user in step", None)]


def test_an_email_that_a_trigger_gives_is_not_missed(clinic):
    dba(
        clinic,
        "ALTER TABLE onagui.app_users ALTER COLUMN email SET NOT NULL",
        "CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.email := coalesce(NEW.email, NEW.id || ''@none''); RETURN NEW; END'",
        "CREATE TRIGGER fill BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.fill()",
        "ALTER TABLE auth.users DISABLE TRIGGER USER",
    )
    clinic.auth.signup(phone="4912345")
    dba(clinic, "ALTER TABLE auth.users ENABLE TRIGGER USER")
    assert is_fine(clinic, "tables")
    psql(clinic, findings(clinic, "users out of step")[0][2])
    assert findings(clinic, "users out of step") == [("ok", "0 users in step, 1 whose e-mail auth does not have", None)]


@pytest.mark.parametrize("key", [False, True])
def test_a_required_column_takes_a_default_as_well(clinic, key):
    dba(clinic, 'ALTER TABLE onagui.app_users ADD COLUMN "Tenant id" uuid NOT NULL')
    if key:
        dba(clinic, 'ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_pkey, ADD UNIQUE (id), ADD PRIMARY KEY ("Tenant id", id)')
    [(status, _, remedy)] = findings(clinic, "tables")
    first, mapping, second = remedy.split("\n")
    assert status == "fail" and first.startswith("--") == key
    assert mapping.endswith("INSERT INTO onagui.sync_column VALUES ('Tenant id', 'app_meta', '...');") and mapping.startswith("-- or")
    assert second.endswith('ALTER TABLE onagui.app_users ALTER COLUMN "Tenant id" SET DEFAULT ...;') and second.startswith("-- or")
    psql(clinic, remedy)
    assert is_fine(clinic, "tables") != key
    if key:
        dba(clinic, second.split(": ")[1].replace("...", "gen_random_uuid()"))
        assert is_fine(clinic, "tables")


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_is_not_put_away_without_a_word(clinic, kind):
    dba(clinic, f"ALTER TABLE onagui.app_users RENAME TO people; CREATE {kind} onagui.app_users AS SELECT * FROM onagui.people")
    assert not any("XX000" in detail for _, detail, _ in findings(clinic))
    [(status, detail, remedy)] = findings(clinic, "tables")
    assert status == "fail" and f"is a {kind.lower()}" in detail
    assert remedy.startswith("--") and "\n" not in remedy and "sees nobody" in remedy
    psql(clinic, remedy.rpartition(": ")[2])
    assert is_fine(clinic, "tables")


def test_ids_that_repeat(clinic):
    dba(
        clinic,
        "ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_pkey",
        "INSERT INTO onagui.app_users (id) SELECT '51f00000-0000-4000-8000-000000000001' FROM generate_series(1, 2)",
    )
    [(status, _, remedy)] = findings(clinic, "tables")
    assert status == "fail" and remedy.startswith("-- Some rows have the same id.")
    assert "51f00000-0000-4000-8000-000000000001" in psql(clinic, remedy).stdout


@pytest.mark.parametrize("damage", ["DROP COLUMN email CASCADE", "DROP COLUMN email CASCADE, ADD COLUMN email int"])
def test_columns_of_auth_are_for_the_auth_server_to_make(clinic, damage):
    dba(clinic, f"ALTER TABLE auth.users {damage}")
    found = [row for row in findings(clinic) if row[0] != "ok"]
    assert len(found) > 3
    assert all("ALTER TABLE auth.users" not in (remedy or "") for _, _, remedy in found), found


def test_auth_users_missing(db):
    dba(db, "DROP TABLE auth.users CASCADE")
    db.install()
    [(status, detail, remedy)] = [row for row in findings(db, "tables") if row[0] != "ok"]
    assert (status, detail) == ("fail", "table auth.users does not exist")
    assert "enable_sync" in remedy
    psql(db, remedy)


@pytest.mark.parametrize("value", ["enabled=off", "link_by_email=always", "on_error=raise"])
@pytest.mark.parametrize("place", ["DATABASE {db}", "ROLE postgres", "ROLE postgres IN DATABASE {db}"])
def test_settings(clinic, value, place):
    name, _, value = value.partition("=")
    place = place.format(db=clinic.name)
    dba(clinic, f"ALTER {place} SET onagui_sync.{name} = {value}")
    try:
        mend(clinic, "settings", "fail" if name == "enabled" else "warn", says=f"onagui_sync.{name} is {value}")
    finally:
        dba(clinic, f"ALTER {place} RESET onagui_sync.{name}")


@pytest.mark.parametrize("place", ["ROLE supabase_auth_admin", "ROLE supabase_auth_admin IN DATABASE {db}"])
def test_settings_of_another_role(clinic, place):
    """The Auth server's, which whoever asks does not have."""
    place = place.format(db=clinic.name)
    dba(clinic, f"ALTER {place} SET onagui_sync.enabled = false")
    try:
        mend(clinic, "settings", "fail", says="onagui_sync.enabled is off for role supabase_auth_admin")
    finally:
        dba(clinic, f"ALTER {place} RESET onagui_sync.enabled")


@pytest.mark.parametrize(
    "setting, says",
    [
        ("link_by_mail = 'never'", "onagui_sync.link_by_mail = never: there is no such setting"),
        ("link_by_email = 'nevr'", "onagui_sync.link_by_email = nevr: it takes no such value, verified is in force"),
        ("enabled = 'perhaps'", "onagui_sync.enabled = perhaps: it takes no such value, on is in force"),
        ("lock_timeout = '-5'", "onagui_sync.lock_timeout = -5: it takes no such value"),
    ],
)
@pytest.mark.parametrize("place", ["DATABASE {db}", "ROLE supabase_auth_admin IN DATABASE {db}"])
def test_settings_that_mean_nothing(clinic, setting, says, place):
    """ALTER takes them from a session that does not know the settings."""
    place = place.format(db=clinic.name)
    clinic.connect("supabase_admin").execute(f"ALTER {place} SET onagui_sync.{setting}")
    mend(clinic, "settings", says=says)


def test_settings_that_are_in_force(clinic):
    for name, value in ("link_by_email", "never"), ("enabled", "TRUE"), ("audit", "All"), ("lock_timeout", "2 s"), ("lock_timeout", "1.5min"), ("lock_timeout", ".5s"), ("enabled", " y"):
        clinic.connect("supabase_admin").execute(f"ALTER DATABASE {clinic.name} SET onagui_sync.{name} = '{value}'")
        [(status, detail, _)] = [row[1:] for row in clinic.connect("postgres").execute("SELECT * FROM onagui.sync_health()").fetchall() if row[0] == "settings"]
        assert (status, detail) == ("ok", "nothing is switched off, onagui_sync.link_by_email is never")


def test_mapping(clinic):
    clinic.sql("INSERT INTO onagui.sync_column VALUES ('no''such', 'column', 'phone'), ('full_name', 'column', 'nothing')")
    found = mend(clinic, "column mapping", says="has no effect")
    assert len(found) == 2
    assert clinic.one("SELECT count(*) FROM onagui.sync_column") == 0


@pytest.mark.parametrize(
    "setup, unique",
    [
        ("DROP INDEX onagui.app_users_email_key", True),
        ("DROP INDEX onagui.app_users_email_key; INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), 'Ada@x.org' FROM generate_series(1, 2)", False),
        ("DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email varchar(200) UNIQUE)", True),
        ("DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text) PARTITION BY HASH (id)", False),
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'onagui.app_users_email_key'::regclass", True),
    ],
)
def test_index_on_the_email(clinic, setup, unique):
    dba(clinic, setup)
    [(_, _, remedy)] = mend(clinic, "e-mail look-up", says="no index on the e-mail")
    assert ("UNIQUE" in remedy) == unique


def test_index_on_the_email_of_citext(clinic):
    clinic.require("citext")
    dba(clinic, "DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email citext UNIQUE)")
    mend(clinic, "e-mail look-up")


def test_index_in_auth(clinic):
    dba(clinic, "DROP INDEX auth.users_instance_id_email_idx")
    mend(clinic, "e-mail look-up", says="auth.users")


@pytest.mark.parametrize(
    "damage",
    [
        "GRANT EXECUTE ON FUNCTION onagui.sync_status(text[], text, bigint) TO PUBLIC",
        "GRANT EXECUTE ON FUNCTION onagui.fix_user_ids(text[], boolean, text, bigint), onagui.undo_fix(bigint) TO anon",
        "GRANT EXECUTE ON PROCEDURE onagui.fix_all_user_ids(integer, text) TO authenticated",
        "GRANT SELECT ON onagui.user_sync_status, onagui.sync_audit_log TO authenticated",
        "GRANT EXECUTE ON FUNCTION onagui.enable_sync(boolean) TO service_role",
        "GRANT DELETE ON onagui.sync_audit_log TO service_role",
        "REVOKE EXECUTE ON FUNCTION onagui.sync_status(text[], text, bigint) FROM service_role",
        "GRANT CREATE ON SCHEMA onagui TO PUBLIC, anon",
    ],
)
def test_privileges(clinic, damage):
    dba(clinic, damage)
    mend(clinic, "privileges")


def test_forced_row_security_matters_only_to_definer_triggers(clinic):
    dba(
        clinic,
        "ALTER TABLE onagui.app_users FORCE ROW LEVEL SECURITY",
        "CREATE ROLE app_owner",
    ) if not clinic.one("SELECT count(*) FROM pg_roles WHERE rolname = 'app_owner'") else dba(
        clinic, "ALTER TABLE onagui.app_users FORCE ROW LEVEL SECURITY"
    )
    assert is_fine(clinic, "row security")
    dba(
        clinic,
        "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN NEW; END'",
        "ALTER FUNCTION public.touch() OWNER TO app_owner",
        "CREATE TRIGGER touch BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.touch()",
    )
    mend(clinic, "row security", says="forced")


@pytest.mark.parametrize("name", ["public.users", "Public . Users", '"public"."users"'])
def test_another_trigger_that_writes_a_table_which_is_gone(clinic, name):
    dba(
        clinic,
        "CREATE TABLE public.users (id uuid)",
        f"CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN insert into {name} (id) VALUES (NEW.id); RETURN NEW; END'",
        "CREATE TRIGGER fill AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.fill()",
    )
    assert is_fine(clinic, "other triggers")
    dba(clinic, "ALTER TABLE public.users RENAME TO former")
    [(status, detail, remedy)] = findings(clinic, "other triggers")
    assert (status, detail) == ("warn", "trigger fill on auth.users calls public.fill(), which seems to write public.users: there is no such table, so that sign-ups fail")
    assert remedy.startswith("-- ")


def test_a_failure_says_whose_code_it_was(clinic):
    dba(
        clinic,
        "CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM NEW.user_id; RETURN NULL; END'",
        "CREATE TRIGGER fill AFTER INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.fill()",
    )
    clinic.auth.signup("ann@x.org")
    clinic.sql("SELECT * FROM onagui.fix_user_ids(p_apply => true)")  # fails as well
    [(_, detail, _)] = findings(clinic, "recent failures")
    assert detail.startswith("1 user failed in the last day") and 'the last failure: record "new" has no field "user_id" (' in detail and "public.fill()" in detail


def test_of_two_columns_that_refer_to_auth_the_unique_one_is_the_id(clinic):
    dba(
        clinic,
        "DROP TABLE onagui.app_users",
        """CREATE TABLE onagui.app_users (emp_no serial PRIMARY KEY, created_by uuid NOT NULL REFERENCES auth.users,
               user_id uuid UNIQUE REFERENCES auth.users, email text)""",
    )
    assert any(remedy.startswith("ALTER TABLE onagui.app_users RENAME COLUMN user_id TO id;") for *_, remedy in findings(clinic, "tables"))


def test_unindexed_references(clinic):
    clinic.sql(
        """CREATE SCHEMA "Odd schema";
           CREATE TABLE "Odd schema"."Müller's" (id int PRIMARY KEY, "user" uuid REFERENCES onagui.app_users);
           CREATE TABLE public.parted (user_id uuid REFERENCES onagui.app_users, n int) PARTITION BY LIST (n);
           CREATE TABLE public.part PARTITION OF public.parted FOR VALUES IN (1);
           CREATE TABLE public.partial_only (user_id uuid REFERENCES onagui.app_users, n int);
           CREATE INDEX ON public.partial_only (user_id) WHERE n > 0;
           CREATE TABLE public.all_that_refer (user_id uuid REFERENCES onagui.app_users);
           CREATE INDEX ON public.all_that_refer (user_id) WHERE user_id IS NOT NULL;
           CREATE TABLE public.second_place (n int, user_id uuid REFERENCES onagui.app_users, UNIQUE (n, user_id));
           CREATE TABLE public.fine (user_id uuid REFERENCES onagui.app_users, n int, UNIQUE (user_id, n))"""
    )
    assert len(mend(clinic, "unindexed references", says="has no index")) == 4


def test_unindexed_parts_of_keys_and_registered_columns(clinic):
    clinic.sql(
        """ALTER TABLE onagui.app_users ADD tenant int DEFAULT 1, ADD UNIQUE (tenant, id), ADD UNIQUE (tenant, username);
           CREATE TABLE public.of_tenants (tenant int, user_id uuid, FOREIGN KEY (tenant, user_id) REFERENCES onagui.app_users (tenant, id));
           CREATE INDEX ON public.of_tenants (user_id);
           CREATE TABLE public.by_name (tenant int, name text, FOREIGN KEY (tenant, name) REFERENCES onagui.app_users (tenant, username));
           CREATE INDEX ON public.by_name (tenant);
           CREATE TABLE public.events (user_id uuid, user_ref text)"""
    )
    clinic.sql("SELECT onagui.register_reference('public.events', 'user_id'), onagui.register_reference('public.events', 'user_ref')")
    found = mend(clinic, "unindexed references")
    assert [detail for _, detail, _ in found] == [
        "public.by_name (tenant, name) refers to onagui.app_users and has no index: each merge reads the whole table",
        "public.events (user_id) is registered and has no index: each fix reads the whole table",
        "public.events (user_ref) is registered and has no index: each fix reads the whole table",
    ]


def test_published_references(clinic):
    clinic.sql(
        """CREATE TABLE public.log (user_id uuid REFERENCES onagui.app_users);
           CREATE TABLE "Odd schema's" (user_id uuid);
           CREATE TABLE public.parted (user_id uuid REFERENCES onagui.app_users, n int) PARTITION BY LIST (n);
           CREATE TABLE public.part PARTITION OF public.parted FOR VALUES IN (1);
           CREATE TABLE public.whole (user_id uuid REFERENCES onagui.app_users);
           ALTER TABLE public.whole REPLICA IDENTITY FULL;
           CREATE TABLE public.with_key (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users);
           CREATE TABLE public.inserted (user_id uuid REFERENCES onagui.app_users);
           CREATE TABLE public.anothers (n int)"""
    )
    clinic.sql("""SELECT onagui.register_reference('"Odd schema''s"', 'user_id')""")
    clinic.sql("CREATE PUBLICATION inserts FOR TABLE public.inserted WITH (publish = 'insert')", role="supabase_admin")
    tables = """public.log, "Odd schema's", public.parted, public.whole, public.with_key, public.anothers, onagui.app_users"""
    clinic.sql(f"CREATE PUBLICATION everything FOR TABLE {tables}", role="supabase_admin")
    user = uuid.uuid4()
    clinic.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'somebody@example.com')", [user])
    clinic.sql("INSERT INTO public.log VALUES (%s)", [user])
    with expect_error("55000", detail=False):
        clinic.sql("UPDATE public.log SET user_id = user_id")
    found = mend(clinic, "published references")
    assert sorted(detail.split(" is published by ")[0] for _, detail, _ in found) == ["public.\"Odd schema's\"", "public.log", "public.part"]
    what = 'is published by "everything" and has no replica identity: the server refuses each UPDATE there, also those of fixes'
    assert all(detail.endswith(what) for _, detail, _ in found)
    clinic.sql("UPDATE public.log SET user_id = user_id")


def test_possible_references(clinic):
    clinic.sql(
        """CREATE TABLE public.notes (id int PRIMARY KEY, user_id uuid, "createdBy_userId" text, size text);
           CREATE TABLE public."Some logs" (app_user_id varchar(40), user_ids text, superuser_idea uuid);
           CREATE TABLE public.has_key (user_id uuid PRIMARY KEY REFERENCES onagui.app_users);
           CREATE TABLE public.to_auth (user_id uuid PRIMARY KEY REFERENCES auth.users);
           CREATE TABLE public.numbers (user_id bigint, created_by bigint);
           CREATE TABLE public.files (owner uuid, author text, ownership uuid);
           CREATE TABLE public.derived (doc jsonb, user_id text GENERATED ALWAYS AS (doc ->> 'user') STORED)"""
    )
    found = [detail.split(" ")[0] for status, detail, _ in findings(clinic, "possible references") if status == "warn"]
    assert found[-1] == "public.notes.user_id" and len(found) == 4 and "public.files.owner" in found
    mend(clinic, "possible references", says="not registered")


NAMES = ["invited_by", "granted_by_id", "edited_by", "createdby", "sender", "recipient_id", "follower_id", "followee", "reviewer_id", "actor_id", "manager_id",
         "user_uuid"]  # fmt: skip


def test_names_of_possible_references(clinic):
    others = ["by", "standby", "sender_name", "order_id"]
    clinic.sql(f"CREATE TABLE public.t ({', '.join(f'{name} uuid' for name in NAMES + others)})")
    assert len(mend(clinic, "possible references", says="not registered")) == len(NAMES)


def test_ids_in_arrays(clinic):
    columns = ["user_ids uuid[]", "member_ids uuid[]", "members uuid[]", '"Users" uuid[]', "participant_ids uuid[]", "shared_by uuid[]", "author_id uuid[]",
               "app_userids text[]", "team_member_ids text[]", "app_user_ids varchar(40)[]"]  # fmt: skip
    others = ["tags uuid[]", "users text[]", "authors text[]", "ids uuid[]", "user_ids_n int", "order_ids uuid[]", "member_numbers int[]"]
    clinic.sql(f"CREATE TABLE public.\"The\n teams\" (id uuid PRIMARY KEY, {', '.join(columns)})")
    clinic.sql(f"CREATE TABLE public.other ({', '.join(others)}, user_ids uuid[] GENERATED ALWAYS AS (others_ids) STORED, others_ids uuid[])")
    found = [row for row in findings(clinic, "possible references") if row[0] != "ok"]
    assert len(found) == len(columns), found
    for status, detail, remedy in found:
        assert status == "warn" and "The\n teams" in detail and "ids in arrays" in detail, detail
        assert remedy.startswith("-- ") and "\n" not in remedy
    assert "array_replace(user_ids, " in "".join(remedy for _, detail, remedy in found if ".user_ids " in detail)


def test_copies_of_what_is_answered_are_no_references(clinic):
    clinic.sql("CREATE TABLE public.fixes AS SELECT * FROM onagui.fix_user_ids(); CREATE TABLE public.status AS SELECT * FROM onagui.user_sync_status")
    clinic.sql("CREATE TABLE public.log AS SELECT email, old_app_user_id, new_app_user_id FROM onagui.fix_user_ids()")
    assert is_fine(clinic, "possible references")
    # A table that says who is who is no copy.
    clinic.sql("CREATE TABLE public.links (auth_user_id uuid, app_user_id uuid); CREATE TABLE public.feeds (app_user_id uuid, sync_status text)")
    clinic.sql("ALTER TABLE public.status ADD COLUMN user_id uuid")
    assert len(mend(clinic, "possible references", says="not registered")) == 4


@pytest.mark.parametrize("change", ["ALTER TABLE papers RENAME TO files", "ALTER TABLE papers RENAME holder TO owned", "DROP TABLE papers"])
def test_registered_references_that_are_not_there(clinic, change):
    """Fixes pass them over: their rows would be left behind without a word."""
    clinic.sql("CREATE TABLE public.papers (holder uuid)")
    clinic.sql("SELECT onagui.register_reference('papers', 'holder')")
    assert is_fine(clinic, "possible references")
    clinic.sql(change)
    mend(clinic, "possible references", says="public.papers.holder is registered, but no table has such a column")


def test_recent_failures(clinic):
    clinic.sql("ALTER TABLE onagui.app_users ADD CONSTRAINT no_eve CHECK (email NOT LIKE '%eve%')")
    eve = clinic.auth.signup("o'eve@x.org")
    [(status, detail, remedy)] = findings(clinic, "recent failures")
    assert status == "warn" and "no_eve" in detail and "o''eve" in remedy
    clinic.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT no_eve")
    mend(clinic, "recent failures")
    assert clinic.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [eve]) == 1
    [(_, detail, _)] = findings(clinic, "recent failures")
    assert "mended" in detail


def test_pending_links(clinic):
    clinic.sql("INSERT INTO onagui.app_users (id, email) VALUES (gen_random_uuid(), 'ada@x.org')")
    ada = clinic.auth.signup("ada@x.org", confirmed=False)
    [(status, detail, _)] = findings(clinic, "pending links")
    assert status == "ok" and detail.startswith("1 link waiting")
    clinic.sql("UPDATE auth.users SET created_at = '2024-01-01' WHERE id = %s", [ada], role="supabase_auth_admin")
    [(status, detail, remedy)] = findings(clinic, "pending links")
    assert status == "warn" and "2024-01-01" in detail
    assert "links by itself" not in remedy  # not under link_by_email = never, nor where the auth user has a row
    assert "ada@x.org" in psql(clinic, remedy).stdout


def test_a_schema_that_was_there_before_and_is_not_open(db):
    db.sql("CREATE SCHEMA onagui")
    db.install()
    found = mend(db, "privileges", says="service_role may not use schema onagui")
    assert found[0][2] == "GRANT USAGE ON SCHEMA onagui TO anon, authenticated, service_role;"


def test_users_out_of_step(clinic):
    dba(clinic, "ALTER TABLE auth.users DISABLE TRIGGER USER")
    clinic.auth.signup("ada@x.org")
    dba(clinic, "ALTER TABLE auth.users ENABLE TRIGGER USER")
    mend(clinic, "users out of step", says="1 user out of step")


def test_versions(clinic):
    dba(clinic, "UPDATE pg_extension SET extversion = '0.0.9' WHERE extname = 'onagui_sync'")
    [(status, detail, remedy)] = findings(clinic, "version")
    assert status == "fail" and "0.0.9" in detail and remedy.startswith("ALTER EXTENSION onagui_sync UPDATE TO ")


def test_who_may_ask(clinic):
    with clinic.session("authenticator").acting_as("service_role") as api:
        assert len(api.execute("SELECT * FROM onagui.sync_health()").fetchall()) >= len(CHECKS)
    with support.expect_error("42501", detail=False, hint=False):
        with clinic.session("authenticator").acting_as("authenticated", sub=uuid.uuid4()) as api:
            api.execute("SELECT * FROM onagui.sync_health()")


def test_users_whose_email_auth_does_not_have_are_no_warning(clinic):
    """No fix touches them, and so no fix may be asked for."""
    clinic.auth.signup(phone="4912345")
    clinic.sql("UPDATE onagui.app_users SET email = 'kept@example.com'")
    [(status, detail, _)] = findings(clinic, "users out of step")
    assert (status, detail) == ("ok", "0 users in step, 1 whose e-mail auth does not have")
