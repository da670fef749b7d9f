"""Databases in other encodings, locales and collations than UTF-8 and C."""

import json
import re
from pathlib import Path

import psycopg
import pytest
from repairs import ADMIN, app_user, auth_user, content, fix, fix_one, mismatched, undo
from walk import REGISTER, Walk

from support import audit, expect_error


@pytest.fixture
def odd(server):
    made = []

    def make(options):
        made.append(server.odd_database(options))
        return made[-1].install()

    yield make
    for database in made:
        database.drop()


def needs_icu(server):
    with server.connect() as connection:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("CREATE COLLATION public.has_icu (provider = icu, locale = 'und')")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip(f"this build of PostgreSQL {server.major} has no ICU")


#: A word that the encoding can write; one that it cannot.
ENCODINGS = {
    "LATIN1": ("Müller", "Жуков"),
    "LATIN2": ("Łódź", "山田"),
    "WIN1251": ("Жуков", "Łódź"),
    "KOI8R": ("Жуков", "Müller"),
    "EUC_JP": ("山田太郎", "김철수"),
    "EUC_KR": ("김철수", "Łódź"),
    "EUC_CN": ("简体", "Łódź"),
    "SQL_ASCII": ("Müller山", None),
    "UTF8": ("Müller山😀", None),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings(odd, encoding):
    word, _ = ENCODINGS[encoding]
    db = odd(f"ENCODING '{encoding}' LOCALE 'C'")
    # The index of the standard table says what the same e-mail is; here letters beyond ASCII have no other case.
    db.sql("DROP INDEX onagui.app_users_email_key; CREATE INDEX ON onagui.app_users (lower(btrim(email)))")
    db.sql(
        f"""CREATE SCHEMA "{word}"; CREATE TABLE "{word}"."t {word}" ("{word}" uuid CONSTRAINT "c {word}" REFERENCES onagui.app_users, x text, UNIQUE (x, "{word}"));
            CREATE INDEX ON "{word}"."t {word}" ("{word}")""",
        role=ADMIN,
    )
    walk = Walk(db).all(f"{word}.example")
    assert walk.health("unindexed references") == []

    # Names, values, and a username that is taken.
    ids = [db.auth.signup(f"{word}{i}@x.example", {"username": word, "full_name": f"Dr. {word}", "k": [word]}) for i in range(2)]
    rows = db.sql("SELECT id, username, full_name, metadata -> 'k' ->> 0 FROM onagui.app_users WHERE id = ANY (%s)", [ids])
    assert set(rows) == {(ids[0], word, f"Dr. {word}", word), (ids[1], f"{word}_{ids[1].hex[:8]}", f"Dr. {word}", word)}
    with db.session("authenticator").acting_as("service_role") as api:
        body = {"userId": str(ids[0]), "email": f"{word}0@x.example", "username": f"{word}!", "metadata": {"w": word}}
        user = json.loads(api.one(REGISTER, [json.dumps(body, ensure_ascii=False)]))["data"]["user"]
    assert (user["username"], user["metadata"]) == (f"{word}!", {"w": word})
    table = f'"{word}"."t {word}"'
    app, auth = mismatched(db, f"{word}9@x.example")
    db.sql(f"INSERT INTO {table} VALUES (%s, %s)", [app, word], role=ADMIN)
    before = content(db, table, "onagui.app_users")
    row = fix_one(db, f" {word}9@X.EXAMPLE")
    assert row["details"]["references"] == [{"table": table, "columns": [word], "rows": 1}]
    assert undo(db, row["audit_id"]) and content(db, table, "onagui.app_users") == before
    assert f"{word}9@x.example" in db.one("SELECT onagui.sync_report()")
    assert db.sql("SELECT email FROM onagui.sync_status(p_email => %s)", [f" {word}9@x.example "]) == [(f"{word}9@x.example",)]
    assert db.one("SELECT onagui.fix_user_id_mismatch(%s)", [f"{word}9@x.example"]).startswith(f"FIXED: {word}9@x.example: ")
    with expect_error("P0002", detail=f'"no{word}@x.example"'):
        db.sql("SELECT onagui.fix_user_id_mismatch(%s)", [f"no{word}@x.example"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_in_the_applications_words(odd, encoding):
    word, _ = ENCODINGS[encoding]
    db = odd(f"ENCODING '{encoding}' LOCALE 'C'")
    db.sql(
        f"""CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION '{word}: %%', NEW.email USING ERRCODE = 'P0099', DETAIL = '{word}.', HINT = '{word}?'; END $$;
            CREATE TRIGGER "{word}" BEFORE INSERT ON onagui.app_users FOR EACH ROW WHEN (NEW.email LIKE '%%x.example') EXECUTE FUNCTION public.no();
            ALTER TABLE onagui.app_users ADD CONSTRAINT "{word}" CHECK (email NOT LIKE '%%y.example')""".replace("%%", "%"),
        role=ADMIN,
    )
    db.auth.signup(f"{word}@x.example", confirmed=False)
    [entry] = audit(db)
    assert entry["details"]["error"] == {"sqlstate": "P0099", "message": f"{word}: {word}@x.example", "detail": f"{word}.", "hint": f"{word}?"}
    assert entry["email"] == f"{word}@x.example"
    [warning] = db.warnings
    assert (warning.sqlstate, warning.detail) == ("P0099", f"{word}.") and warning.message.endswith(f": {word}: {word}@x.example")
    db.auth.signup(f"{word}@y.example", confirmed=False)
    assert f'"{word}"' in audit(db)[1]["details"]["error"]["message"]
    [row] = [row for row in fix(db, None) if row["email"].endswith("x.example")]
    assert row["details"]["error"]["message"] == f"{word}: {word}@x.example"
    db.sql("SET onagui_sync.on_error = raise", role=ADMIN)
    with expect_error("P0099", word, word, rf"{word}\?"):
        db.sql("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'z@x.example')", role=ADMIN)


def test_what_the_encoding_cannot_write_is_the_servers_to_refuse(odd):
    db = odd("ENCODING 'LATIN1' LOCALE 'C'")
    with expect_error("22P05", detail=False, hint=False):
        db.auth.signup("Жуков@x.example")
    with expect_error("22P05", detail=False, hint=False):
        db.sql("SELECT onagui.fix_user_id_mismatch('Жуков@x.example')")
    # Our own words are written as far as they can be.
    with expect_error("42703", hint=r"ADD COLUMN email \.\.\.;"):
        db.sql("ALTER TABLE onagui.app_users DROP email CASCADE")
        db.sql("SELECT * FROM onagui.sync_status()")


def test_a_client_that_knows_few_characters(db):
    """Our own words reach it, whatever it asked."""
    db.install()
    first, second = (db.auth.signup(email, {}, confirmed=True) for email in ("ann@example.com", "ben@example.com"))
    db.sql("UPDATE onagui.app_users SET id = gen_random_uuid()")
    db.sql("INSERT INTO auth.users (id, email, is_sso_user) VALUES (gen_random_uuid(), 'ann@example.com', true)", role=ADMIN)
    client = db.connect(ADMIN)
    client.execute("SET client_encoding = 'LATIN1'")
    assert len(client.execute("SELECT * FROM onagui.sync_health()").fetchall()) > 10
    assert "CONFLICT" in client.execute("SELECT onagui.sync_report()").fetchone()[0]
    client.execute("SELECT * FROM onagui.fix_user_ids()").fetchall()
    client.execute("SELECT * FROM onagui.sync_audit_log").fetchall()
    for state, query in (
        ("P0002", "SELECT onagui.fix_user_id_mismatch('nobody@example.com')"),
        ("21000", "SELECT onagui.fix_user_id_mismatch('ann@example.com')"),
        ("25001", "BEGIN; CALL onagui.fix_all_user_ids()"),
        ("22023", "SELECT onagui.fix_user_ids(p_on_conflict => 'x')"),
    ):
        with expect_error(state):
            client.execute(query)
        client.execute("ROLLBACK")


def test_our_words_are_ascii():
    """Whatever encoding a client or a database has, it can write them."""
    root = Path(__file__).parents[2]
    for source in [*root.glob("src/**/*.rs"), *root.glob("decide/src/*.rs"), *root.glob("sql/install/*.sql")]:
        for number, line in enumerate(source.read_text().splitlines(), 1):
            code = re.split(r"(?:^|\s)(?://|--\s)", line)[0]
            assert code.isascii() or "#[cfg(test)]" in source.read_text(), f"{source}:{number}: {line}"


def test_bytes_that_mean_nothing(odd):
    """In SQL_ASCII any byte goes, and comes back."""
    db = odd("ENCODING 'SQL_ASCII' LOCALE 'C'")
    db.sql(f"ALTER DATABASE {db.name} SET client_encoding = 'LATIN1'", role=ADMIN)
    db.disconnect()
    walk = Walk(db)
    for part in walk.sign_ups, walk.confirmation, walk.changes, walk.registration:
        part("müller.example")
    assert walk.health("unindexed references", "e-mail look-up") == []
    first, second = (db.auth.signup(f"j{i}@müller.example", {"username": "Jürgen"}) for i in range(2))
    assert db.one("SELECT username::bytea FROM onagui.app_users WHERE id = %s", [first]) == b"J\xfcrgen"
    assert db.one("SELECT username::bytea FROM onagui.app_users WHERE id = %s", [second]) == f"Jürgen_{second.hex[:8]}".encode("latin1")
    app, _ = mismatched(db, "ä@müller.example")
    assert db.one("SELECT outcome FROM onagui.fix_user_ids(ARRAY['ä@müller.example'], true)") == "done"
    assert db.one("SELECT email::bytea FROM onagui.sync_audit_log WHERE old_app_user_id = %s", [app]) == "ä@müller.example".encode("latin1")


# --- locales


def test_icu_as_the_databases_locale(server, odd):
    needs_icu(server)
    db = odd("ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-kn'")
    walk = Walk(db).all("straße.example")
    assert walk.health("unindexed references") == []
    assert Walk.unhappy(walk) == {}
    # What the same e-mail is, the database's own lower() says.
    app, auth = app_user(db, "ÄRZTE@X.example"), auth_user(db, "ärzte@x.example")
    assert fix_one(db, "Ärzte@x.example")["new_app_user_id"] == auth


def test_turkish(server, odd):
    needs_icu(server)
    db = odd("ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'tr'")
    db.sql("DROP INDEX onagui.app_users_email_key")
    for email in "ilker@x.example", "ILKER@x.example":
        app_user(db, email)
    auth = auth_user(db, "ilker@x.example")
    statuses = sorted(db.sql("SELECT sync_status FROM onagui.sync_status()"))
    assert statuses == [("MISMATCHED",), ("MISSING_IN_AUTH",)]
    assert fix_one(db, None)["new_app_user_id"] == auth
    assert db.sql("SELECT sync_status FROM onagui.sync_status() ORDER BY 1") == [("MISSING_IN_AUTH",), ("SYNCED",)]


def loose_collation(db, level):
    """An onagui.app_users whose texts are equal although they differ: level2 minds accents, level1 does not."""
    db.install(app_users=False)
    db.sql(
        f"""CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-{level}', deterministic = false);
            CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text COLLATE public.loose, username text COLLATE public.loose UNIQUE,
                full_name text COLLATE public.loose)""",
        role=ADMIN,
    )


def test_a_nondeterministic_collation(server, db):
    needs_icu(server)
    loose_collation(db, "level2")
    walk = Walk(db).all()
    [(_, _, says)] = walk.health("unindexed references")
    assert "no index on the e-mail" in says
    remedy = db.one("SELECT remedy FROM onagui.sync_health() WHERE check_name = 'e-mail look-up' AND status = 'warn'")
    db.sql(remedy, role=ADMIN)
    assert walk.health("unindexed references") == []
    walk.sign_ups("y.example")

    # A username is taken as the index says; letters are the address's own.
    ids = [db.auth.signup(f"{n}@z.example", {"username": n}) for n in ("Zoe", "zoE@")]
    assert db.sql("SELECT username FROM onagui.app_users WHERE id = %s", [ids[1]], role=ADMIN) == [("zoE@",)]
    other = db.auth.signup("other@z.example", {"username": "ZOE"})
    assert db.one("SELECT username FROM onagui.app_users WHERE id = %s", [other], role=ADMIN) == f"ZOE_{other.hex[:8]}"
    db.auth.change_email(other, "OTHER@z.example")
    assert db.one('SELECT email COLLATE "C" FROM onagui.app_users WHERE id = %s', [other], role=ADMIN) == "OTHER@z.example"

    # In a merge rows collide as their index says.
    db.sql("DROP INDEX onagui.app_users_lower_idx; CREATE TABLE public.tags (user_id uuid REFERENCES onagui.app_users, tag text COLLATE public.loose, PRIMARY KEY (user_id, tag))", role=ADMIN)
    own = auth_user(db, "dup@y.example")
    app_user(db, "dup@y.example", own)
    spare = app_user(db, "dup@y.example")
    db.sql("INSERT INTO public.tags VALUES (%s, 'Red'), (%s, 'RED'), (%s, 'blue')", [own, spare, spare], role=ADMIN)
    before = content(db, "public.tags", "onagui.app_users")
    [row] = [row for row in fix(db, "dup@y.example", apply=False) if row["action"] == "merge"]
    assert (row["outcome"], row["details"]["conflicts"]) == ("refused", [{"table": "public.tags", "constraint": "tags_pkey", "rows": 1}])
    [row] = [row for row in fix(db, "dup@y.example", policy="keep_auth") if row["action"] == "merge"]
    assert row["outcome"] == "done" and sorted(db.sql("SELECT tag FROM public.tags", role=ADMIN)) == [("Red",), ("blue",)]
    undo(db, row["audit_id"])
    assert content(db, "public.tags", "onagui.app_users") == before


def test_a_collation_does_not_make_two_addresses_one(server, db):
    """Whoever owns jose@ must not inherit what belongs to José."""
    needs_icu(server)
    loose_collation(db, "level1")
    jose = app_user(db, "josé@x.example")
    assert db.one("SELECT count(*) FROM onagui.app_users WHERE email = 'JOSE@x.example'", role=ADMIN) == 1
    stranger = db.auth.signup("jose@x.example")
    assert sorted(db.sql("SELECT id FROM onagui.app_users", role=ADMIN)) == sorted([(jose,), (stranger,)])
    assert sorted(db.sql("SELECT sync_status FROM onagui.sync_status()")) == [("MISSING_IN_AUTH",), ("SYNCED",)]
    assert db.sql("SELECT app_user_id FROM onagui.sync_status(p_email => 'jose@x.example')") == [(stranger,)]
    assert [row["action"] for row in fix(db, "josé@x.example")] == ["none"]
    owner = db.auth.signup("josé@x.example")
    assert sorted(db.sql("SELECT id FROM onagui.app_users", role=ADMIN)) == sorted([(owner,), (stranger,)])


def test_another_collation_on_each_side(db):
    db.sql('ALTER TABLE auth.users ALTER email TYPE varchar(255) COLLATE "POSIX"', role=ADMIN)
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text COLLATE "C", username text COLLATE "POSIX" UNIQUE);
           CREATE UNIQUE INDEX ON onagui.app_users (lower(btrim(email)))"""
    )
    walk = Walk(db).all()
    # Auth's own index does not serve a comparison by the database's collation; the remedy makes one that does.
    [remedy] = db.sql("SELECT remedy FROM onagui.sync_health() WHERE check_name = 'e-mail look-up' AND status = 'warn'")
    db.sql(remedy[0], role=ADMIN)
    assert walk.health("unindexed references") == []
