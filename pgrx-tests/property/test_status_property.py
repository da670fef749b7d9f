"""onagui.sync_status() against a slow, obvious reading of the contract, on random populations."""

import os
import random
import uuid
from collections import Counter

import pytest

STATUSES = ["SYNCED", "EMAIL_MISMATCH", "MISMATCHED", "DUPLICATE", "MISSING_IN_APP_USERS", "MISSING_IN_AUTH", "PENDING", "CONFLICT"]

#: For each shape of the tables; there are eight of them.
POPULATIONS = 75

EMAILS = [None, None, "", " ", "  ", "\t"] + [
    spelling
    for email in ("a@x.org", "b@x.org", "c@x.org", "d@x.org", "\u00e9@x.org", "_z@x.org")
    for spelling in (email, email, email, email, email.upper(), f" {email}", f"{email} ", f"   {email}  ", f"{email} .", email.replace("@", " @"))
]

MINIMAL_AUTH = """
    DROP TABLE auth.users CASCADE;
    CREATE TABLE auth.users (id uuid PRIMARY KEY, email text);
"""
PLAIN_APP = "CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, created_at timestamptz DEFAULT now())"

#: name: (statements of the superuser, onagui_sync.link_by_email)
SHAPES = {
    "as installed": ("SELECT onagui.create_app_users()", "verified"),
    "email not unique": (
        "SELECT onagui.create_app_users(); DROP INDEX onagui.app_users_email_key; CREATE INDEX ON onagui.app_users (lower(btrim(email)))",
        "verified",
    ),
    "no indexes on email": (f"DROP INDEX auth.users_instance_id_email_idx; {PLAIN_APP}", "verified"),
    "index on the key in auth": (f"CREATE INDEX ON auth.users (lower(btrim(email))); {PLAIN_APP}", "always"),
    "citext": (
        "CREATE EXTENSION citext; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email citext, created_at date)",
        "verified",
    ),
    "partitioned": (
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email varchar(255)) PARTITION BY HASH (id);
           CREATE TABLE onagui.app_users_0 PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 2, REMAINDER 0);
           CREATE TABLE onagui.app_users_1 PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 2, REMAINDER 1);
           CREATE INDEX ON onagui.app_users (lower(email))""",
        "never",
    ),
    "least columns": (f"{MINIMAL_AUTH} CREATE TABLE onagui.app_users (id uuid UNIQUE, email text)", "verified"),
    "children left out": (
        f"{PLAIN_APP}; CREATE TABLE onagui.app_users_old () INHERITS (onagui.app_users);"
        "INSERT INTO onagui.app_users_old (id, email) VALUES (gen_random_uuid(), 'a@x.org'), (gen_random_uuid(), 'b@x.org')",
        "always",
    ),
}


def key(email):
    return (email or "").strip(" ").lower() or None


def expected(auth, app, known, always):
    """The rows (status, auth id, app id) of a population, by the contract's words.

    auth: {id: (email, confirmed, deleted)}; app: [(id, email)]; known: ids that were deleted.
    """
    users = {id: (key(email), confirmed or always) for id, (email, confirmed, deleted) in auth.items() if not deleted}
    known = known | set(auth)
    with_email = lambda k: [id for id, (their, _) in users.items() if k and their == k]
    rows_with_email = lambda k: [place for place, (_, email) in enumerate(app) if k and key(email) == k]
    own = {id: place for place, (id, _) in enumerate(app) if id in users}
    rows = []
    shown = set()  # places of app rows that a row above names
    for id, (k, confirmed) in users.items():
        if id in own:
            place = own[id]
            shown.add(place)
            rows.append(("SYNCED" if key(app[place][1]) == k else "EMAIL_MISMATCH", id, id))
            continue
        namesakes = rows_with_email(k)
        if len(with_email(k)) > 1 or len(namesakes) > 1:
            rows.append(("CONFLICT", id, None))
        elif not namesakes:
            rows.append(("MISSING_IN_APP_USERS", id, None))
        elif app[namesakes[0]][0] in users:
            rows.append(("CONFLICT", id, None))  # somebody else's own row
        else:
            shown.add(namesakes[0])
            other = app[namesakes[0]][0]
            if other is None or other in known:
                status = "CONFLICT"
            else:
                status = "MISMATCHED" if confirmed else "PENDING"
            rows.append((status, id, other))
    for place, (id, email) in enumerate(app):
        if place in shown:
            continue
        same = with_email(key(email))
        if not same:
            rows.append(("MISSING_IN_AUTH", None, id))
        elif len(same) > 1 or id is None or id in known or same[0] not in own:
            rows.append(("CONFLICT", None, id))
        else:
            rows.append(("DUPLICATE" if users[same[0]][1] else "PENDING", same[0], id))
    return rows


def populate(connection, rng, has_all_columns, nullable_ids, only):
    """Random rows in both tables and among the known ids."""
    ids = [uuid.UUID(int=rng.getrandbits(128)) for _ in range(rng.randint(1, 10))]
    # Few e-mails make conflicts, many make pairs.
    few = rng.sample(EMAILS, rng.randint(1, len(EMAILS) // 2)) + rng.choice([0, 2]) * [f"u{n}@x.org" for n in range(12)]
    taken = []
    connection.execute("DELETE FROM auth.users")
    connection.execute("DELETE FROM onagui.sync_known_id")
    connection.execute("DELETE FROM ONLY onagui.app_users" if only else "DELETE FROM onagui.app_users")
    for id in rng.sample(ids, rng.randint(0, len(ids))):
        email = rng.choice(few)
        taken.append(email)
        if has_all_columns:
            instance = rng.choice([None, uuid.UUID(int=0), uuid.UUID(int=0), uuid.UUID(int=7)])
            values = [
                instance,
                id,
                email,
                rng.choice(["2024-01-01", "2024-01-01", None]),
                rng.choice([None, None, None, "2024-02-02"]),
                rng.random() < 0.5,
            ]
            connection.execute(
                "INSERT INTO auth.users (instance_id, id, email, email_confirmed_at, deleted_at, is_sso_user, created_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, now()) ON CONFLICT DO NOTHING",
                values,
            )
        else:
            connection.execute("INSERT INTO auth.users (id, email) VALUES (%s, %s)", [id, email])
    for id in ids:
        if rng.random() < 0.15:
            connection.execute("INSERT INTO onagui.sync_known_id (auth_user_id) VALUES (%s)", [id])
    for id in rng.sample(ids, rng.randint(0, len(ids))):
        if rng.random() < 0.4:
            id = None if nullable_ids and rng.random() < 0.4 else uuid.UUID(int=rng.getrandbits(128))
        email = rng.choice(taken) if taken and rng.random() < 0.5 else rng.choice(few)
        connection.execute("INSERT INTO onagui.app_users (id, email) VALUES (%s, %s) ON CONFLICT DO NOTHING", [id, email])


def population(connection, has_all_columns, only):
    columns = "email_confirmed_at IS NOT NULL, deleted_at IS NOT NULL" if has_all_columns else "true, false"
    auth = {id: (email, confirmed, gone) for id, email, confirmed, gone in connection.execute(f"SELECT id, email, {columns} FROM auth.users")}
    app = connection.execute(f"SELECT id, email::text FROM {only} onagui.app_users").fetchall()
    known = {id for (id,) in connection.execute("SELECT auth_user_id FROM onagui.sync_known_id")}
    return auth, app, known


def check(connection, rng, auth, app, known, always):
    want = expected(auth, app, known, always)
    rows = connection.execute("SELECT * FROM onagui.sync_status()").fetchall()
    short = lambda rows: Counter((row[3], row[1], row[2]) for row in rows)
    assert short(rows) == Counter(want)

    emails = {id: email for id, (email, _, _) in auth.items()}
    app_emails = Counter((id, email) for id, email in app)
    for email, auth_id, app_id, status, _, _, detail in rows:
        theirs = emails.get(auth_id) or None
        assert email == theirs if theirs else (app_id, email) in app_emails or not email
        assert (detail is None) == (status == "SYNCED")

    summary = dict(connection.execute("SELECT * FROM onagui.sync_summary()").fetchall())
    assert summary == {status: sum(row[0] == status for row in want) for status in STATUSES}

    some = rng.sample(STATUSES, rng.randint(0, 3))
    assert short(connection.execute("SELECT * FROM onagui.sync_status(%s)", [some])) == Counter(row for row in want if row[0] in some)

    # Whoever has the e-mail on either side: also one who is not matched by it, but shown with it.
    given = rng.choice(EMAILS)
    concerned = Counter(
        (status, auth_id, app_id)
        for status, auth_id, app_id in want
        if key(given)
        and (
            key(given) == key(emails.get(auth_id))
            or any(key(given) == key(email) for id, email in app if id == app_id and (id or (status, auth_id) == ("MISSING_IN_AUTH", None)))
        )
    )
    found = short(connection.execute("SELECT * FROM onagui.sync_status(p_email => %s)", [given or ""]))
    if any(id is None for id, _ in app):  # rows without an id cannot be told apart here
        found = Counter({row: n for row, n in found.items() if row[2] or row[1]})
        concerned = Counter({row: n for row, n in concerned.items() if row[2] or row[1]})
    assert found == concerned


@pytest.mark.parametrize("shape", SHAPES)
def test_status_is_what_the_contract_says(db, shape):
    seed = int(os.environ.get("ONAGUI_SEED") or random.SystemRandom().getrandbits(32))
    setup, link_by_email = SHAPES[shape]
    if shape == "citext":
        db.require("citext")
        setup = setup.replace("CREATE EXTENSION citext;", "")
    db.install(app_users=False)
    connection = db.session("supabase_admin")
    connection.execute("SELECT onagui.disable_sync()")
    for statement in setup.split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("SELECT set_config('onagui_sync.link_by_email', %s, false)", [link_by_email])
    has_all_columns = shape != "least columns"
    nullable_ids = shape == "least columns"
    only = "" if shape == "partitioned" else "ONLY"
    for number in range(POPULATIONS):
        rng = random.Random(f"{seed}/{shape}/{number}")
        populate(connection, rng, has_all_columns, nullable_ids, only)
        auth, app, known = population(connection, has_all_columns, only)
        try:
            check(connection, rng, auth, app, known, link_by_email == "always")
        except AssertionError as error:
            raise AssertionError(
                f"population {number} of {shape!r}; to see it again: ONAGUI_SEED={seed}\nauth: {auth}\napp: {app}\nknown: {known}\n{error}"
            ) from error
