"""The rehearsal foretells what the fix then meets: CHECKs, partitions, domains; required columns of rows to be made."""

import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, fix_one, mismatched, undo


@pytest.fixture
def db(db):
    return db.install()


def rehearsed(db, email=None, policy="error"):
    """What a rehearsal says, which leaves no trace."""
    session = db.session("postgres")
    with session.transaction():
        session.execute("SET TRANSACTION READ ONLY")
        row = fix_one(db, email, apply=False, policy=policy)
        assert session.one("SELECT pg_current_xact_id_if_assigned()") is None
    return row


def foretold(db, *tables, email=None, sqlstate="23514", outcome="refused"):
    """The error that the rehearsal names, and the fix then meets; nothing has changed."""
    before = content(db, "onagui.app_users", *tables)
    plan, done = rehearsed(db, email), fix_one(db, email)
    assert (plan["outcome"], done["outcome"]) == (outcome, outcome), (plan, done)
    assert plan["action"] == done["action"]
    assert plan["details"] == done["details"]
    assert content(db, "onagui.app_users", *tables) == before
    error = plan["details"]["error"]
    assert error["sqlstate"] == sqlstate, error
    return error


def goes_well(db, email=None, policy="error"):
    plan, done = rehearsed(db, email, policy), fix_one(db, email, policy=policy)
    assert (plan["outcome"], done["outcome"]) == ("planned", "done"), (plan, done)
    for part in "references", "conflicts":
        assert plan["details"].get(part) == done["details"].get(part), (plan, done)
    return done


ORDERS = "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, kind text DEFAULT 'a', CONSTRAINT fine CHECK ({}))"
EVENTS = "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, kind text DEFAULT 'a') PARTITION BY LIST ({});"
MOVES = (
    "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, note text) PARTITION BY LIST (user_id);"
    "CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('{app}'); CREATE TABLE orders_b PARTITION OF orders (of_b) FOR VALUES IN ('{auth}')"
)
BLOCKS = {
    "a check": (ORDERS.format("user_id <> '{auth}'"), "3 rows in public.orders (fine)."),
    "a check of two columns": (ORDERS.format("user_id <> '{auth}' OR id > 2"), "2 rows in public.orders (fine)."),
    "a generated column": (
        "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, code text GENERATED ALWAYS AS (left(user_id::text, 36)) STORED,"
        " CONSTRAINT fine CHECK (code <> '{auth}'))",
        "3 rows in public.orders (fine).",
    ),
    "a check of a partition": (
        EVENTS.format("kind") + "CREATE TABLE orders_a PARTITION OF orders (CONSTRAINT fine CHECK (user_id <> '{auth}')) FOR VALUES IN ('a')",
        "3 rows in public.orders (fine).",
    ),
    "a check of the partitioned table": (
        EVENTS.format("kind") + "CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('a'); ALTER TABLE orders ADD CONSTRAINT fine CHECK (user_id <> '{auth}')",
        "3 rows in public.orders (fine).",
    ),
    "a generated column that may not be NULL": (
        "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, code text GENERATED ALWAYS AS (nullif(user_id, '{auth}')::text) STORED NOT NULL)",
        "3 rows in public.orders ({not_null}).",
    ),
    "a generated column that is too short": (
        "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users,"
        " code varchar(3) GENERATED ALWAYS AS (CASE WHEN user_id = '{auth}' THEN 'long' ELSE 'no ' END) STORED)",
        "3 rows in public.orders (character varying(3) of code).",
    ),
    "a check of the partition they come to": (
        MOVES.replace("of_b", "CONSTRAINT fine CHECK (id > 1)"),
        "1 row in public.orders (fine).",
    ),
    "what the partition they come to requires": (
        MOVES.replace("of_b", "note NOT NULL"),
        "3 rows in public.orders ({note_not_null}).",
    ),
    "no partition": (EVENTS.format("user_id") + "CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('{app}')", "3 rows in public.orders (no partition takes it)."),
    "no partition below": (
        EVENTS.format("kind")
        + "CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('a') PARTITION BY LIST (user_id); CREATE TABLE orders_b PARTITION OF orders_a FOR VALUES IN ('{app}')",
        "3 rows in public.orders (no partition takes it).",
    ),
}  # fmt: skip


def three_orders(db, ddl, app, auth):
    db.sql(ddl.replace("%%", "%").replace("{app}", str(app)).replace("{auth}", str(auth)))
    db.sql("INSERT INTO orders (id, user_id) SELECT i, %s FROM generate_series(1, 3) i", [app])


@pytest.mark.parametrize("case", BLOCKS)
def test_what_the_tables_would_not_take(db, case):
    ddl, detail = BLOCKS[case]
    three_orders(db, ddl, *mismatched(db, "ann@example.com"))
    error = foretold(db, "orders")
    old = db.server.number < 18
    detail = detail.replace("{not_null}", "NOT NULL of code" if old else "orders_code_not_null")
    detail = detail.replace("{note_not_null}", "NOT NULL of note" if old else "orders_b_note_not_null")
    assert error["detail"] == detail and error["hint"]


@pytest.mark.parametrize("ddl", [ORDERS.format("user_id <> '{auth}'"), MOVES.replace("of_b", "CONSTRAINT fine CHECK (id > 3)")], ids=["of the table", "of the partition"])
def test_a_merge_that_a_check_forbids(db, ddl):
    three_orders(db, ddl, *duplicate(db, "ann@example.com"))
    assert foretold(db, "orders", email="ann@example.com")["detail"] == "3 rows in public.orders (fine)."


def test_a_row_of_nulls_does_not_collide_with_null(db):
    app, auth = duplicate(db, "ann@example.com")
    db.sql("CREATE TYPE pair AS (a int, b int)")
    db.sql("CREATE TABLE orders (user_id uuid REFERENCES onagui.app_users, code pair, UNIQUE NULLS NOT DISTINCT (user_id, code))")
    db.sql("INSERT INTO orders VALUES (%s, NULL), (%s, ROW(NULL, NULL))", [app, auth])
    goes_well(db, "ann@example.com")


def test_a_row_refers_by_half_a_pair(db):
    app, _ = mismatched(db, "ann@example.com")
    db.sql(
        """CREATE TYPE pair AS (a int, b int);
           CREATE TABLE accounts (user_id uuid REFERENCES onagui.app_users, code pair, PRIMARY KEY (user_id, code));
           CREATE TABLE items (user_id uuid, code pair, FOREIGN KEY (user_id, code) REFERENCES accounts)"""
    )
    db.sql("INSERT INTO accounts VALUES (%s, ROW(1, NULL))", [app])
    db.sql("INSERT INTO items VALUES (%(app)s, ROW(1, NULL)), (%(app)s, NULL)", {"app": app})
    assert goes_well(db)["rows_changed"] == 2


def test_a_row_that_breaks_a_check_already_cannot_be_changed_at_all(db):
    app, auth = mismatched(db, "ann@example.com")
    three_orders(db, "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users)", app, auth)
    db.sql("ALTER TABLE orders ADD CONSTRAINT fine CHECK (id < 3) NOT VALID")
    assert foretold(db, "orders")["detail"] == "1 row in public.orders (fine)."


def test_an_email_that_a_check_forbids(db):
    db.sql("ALTER TABLE onagui.app_users ADD CONSTRAINT ours CHECK (email LIKE '%@example.com')")
    app_user(db, "old@example.com", auth_user(db, "new@example.org"))
    assert foretold(db)["detail"] == "1 row in onagui.app_users (ours)."


def test_a_domain_is_asked_too(db):
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"CREATE DOMAIN user_id AS uuid CHECK (value <> '{auth}')")
    three_orders(db, "CREATE TABLE orders (id int, user_id user_id REFERENCES onagui.app_users)", app, auth)
    plan, done = rehearsed(db), fix_one(db, None)
    for row in plan, done:
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "23514"), row


def test_a_domain_of_the_email_costs_nobody_else_their_answer(db):
    db.sql("CREATE DOMAIN address AS text CHECK (value LIKE '%@example.com'); ALTER TABLE onagui.app_users ALTER email TYPE address")
    for name, there in ("ann", "org"), ("bob", "com"), ("eve", "org"):
        app_user(db, f"old.{name}@example.com", auth_user(db, f"{name}@example.{there}"))
    plan, done = fix(db, None, apply=False), fix(db, None)
    for row in plan + done:
        good = row["email"].endswith("com")
        assert row["outcome"] == ("failed" if not good else "done" if row["audit_id"] else "planned"), row
        assert good or row["details"]["error"]["sqlstate"] == "23514"


DOMAINS = """CREATE DOMAIN good AS text CHECK (value <> 'bad'); CREATE DOMAIN there AS text NOT NULL; CREATE DOMAIN short AS varchar(3);
    CREATE DOMAIN short_and_good AS varchar(3) CHECK (value <> 'bad'); GRANT USAGE ON SCHEMA public TO PUBLIC;"""
#: A type, a value that it does not take, one that it does; the outcome and its error.
UNFIT = [
    ("good", "'bad'", "'fine'", "failed", "23514"),
    ("there", "NULL", "'fine'", "failed", "23502"),
    ("short", "'long'", "'no '", "refused", "23514"),
    ("short_and_good", "'bad'", "'no'", "failed", "23514"),
    ("short_and_good", "'badly'", "'no'", "refused", "23514"),
    ("char(3)", "'long'", "'no '", "refused", "23514"),
    ("bit(3)", "B'1111'", "B'101'", "refused", "23514"),
    ("bit varying(3)", "B'1111'", "B'1'", "refused", "23514"),
    ("numeric(3,1)", "100.5", "99.94", "failed", "22003"),
    ("smallint", "100000", "1", "failed", "22003"),
]


@pytest.mark.parametrize("kind, bad, good, outcome, sqlstate", UNFIT)
@pytest.mark.parametrize("action", ["rekey", "merge", "update_email", "create"])
def test_a_generated_value_that_its_type_refuses(db, action, kind, bad, good, outcome, sqlstate):
    db.sql(DOMAINS)
    table, column = ("orders", "user_id") if action in ("rekey", "merge") else ("onagui.app_users", "email")
    value, email = "ann@example.com", "ann@example.com" if action == "merge" else None
    if table == "orders":
        app, value = (mismatched if action == "rekey" else duplicate)(db, "ann@example.com")
        db.sql("CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users)")
        db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    else:
        auth = auth_user(db, "ann@example.com")
        if action == "update_email":
            app_user(db, "old@example.com", auth)
    generated = f"ALTER TABLE {table} ADD code {kind} GENERATED ALWAYS AS (CASE WHEN {{}} THEN {{}} ELSE {good} END) STORED"
    db.sql(generated.format(f"{column} = '{value}'", bad))
    foretold(db, table, email=email, sqlstate=sqlstate, outcome=outcome)
    db.sql(f"ALTER TABLE {table} DROP code; {generated.format('true', good)}")
    assert goes_well(db, email)["action"] == action


def test_a_generated_value_that_stays_is_not_asked_for(db):
    app, auth = mismatched(db, "ann@example.com")
    db.sql("CREATE DOMAIN small AS int")
    three_orders(db, "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, code small GENERATED ALWAYS AS (id * 10) STORED, CHECK (id > 0))", app, auth)
    db.sql("ALTER DOMAIN small ADD CHECK (value < 20) NOT VALID")
    goes_well(db)


def test_what_would_write_is_not_let(db):
    """A domain's CHECK is asked with each value; whatever it does, a rehearsal writes nothing."""
    app, auth = mismatched(db, "ann@example.com")
    db.sql(
        """CREATE TABLE tried (what text);
           CREATE FUNCTION fine(uuid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.tried VALUES ('domain'); RETURN true; END $$;
           CREATE DOMAIN user_id AS uuid CHECK (public.fine(value))"""
    )
    db.sql("CREATE TABLE orders (id int, user_id user_id UNIQUE REFERENCES onagui.app_users)")
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    db.sql("TRUNCATE tried")
    row = fix_one(db, None, apply=False)
    assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("failed", "25006"), row
    assert db.one("SELECT count(*) FROM tried") == 0
    assert fix_one(db, None)["outcome"] == "done"


PASSES = {
    "a check that is NULL": ORDERS.format("user_id <> NULL::uuid"),
    "a check of other columns": ORDERS.format("id > 0"),
    "a check of another partition": EVENTS.format("kind")
    + "CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('a'); CREATE TABLE orders_b PARTITION OF orders (CHECK (false)) FOR VALUES IN ('b')",
    "a default partition": EVENTS.format("user_id") + "CREATE TABLE orders_a PARTITION OF orders FOR VALUES IN ('{app}'); CREATE TABLE orders_b PARTITION OF orders DEFAULT",
    "a row of NULLs where a value must be": "CREATE TYPE pair AS (a int, b int);"
    "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, code pair GENERATED ALWAYS AS (CASE WHEN user_id <> '{app}' THEN ROW(NULL, NULL)::pair ELSE ROW(1, 2)::pair END) STORED NOT NULL)",
    "a partition that requires what they have": MOVES.replace("of_b", "id NOT NULL, CHECK (note IS NULL)"),
    "what the partition they leave requires": MOVES.replace(" (of_b)", "").replace("orders_a PARTITION OF orders", "orders_a PARTITION OF orders (CHECK (user_id = '{app}'))"),
    "hash partitions": "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users) PARTITION BY HASH (user_id);"
    "CREATE TABLE orders_a PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE orders_b PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
}  # fmt: skip


@pytest.mark.parametrize("case", PASSES)
def test_what_the_tables_would_take(db, case):
    three_orders(db, PASSES[case], *mismatched(db, "ann@example.com"))
    assert goes_well(db)["rows_changed"] == 3


def test_a_hash_partition_that_is_missing(db):
    db.sql("CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users) PARTITION BY HASH (user_id)")
    db.sql("CREATE TABLE orders_a PARTITION OF orders FOR VALUES WITH (MODULUS 2, REMAINDER 0)")
    fits = set()
    for number in range(40):
        app, auth = mismatched(db, f"u{number}@example.com")
        accepts = "SELECT satisfies_hash_partition('orders'::regclass, 2, 0, %s::uuid)"
        if not db.one(accepts, [app]):
            continue
        db.sql("INSERT INTO orders VALUES (1, %s)", [app])
        if db.one(accepts, [auth]):
            fits.add(True)
            goes_well(db, f"u{number}@example.com")
        else:
            fits.add(False)
            assert foretold(db, "orders", email=f"u{number}@example.com")["detail"] == "1 row in public.orders (no partition takes it)."
        if len(fits) == 2:
            return
    raise AssertionError(fits)


def test_a_check_that_is_not_enforced(db):
    if int(db.server.major.split("-")[0]) < 18:
        pytest.skip("from PostgreSQL 18 on")
    app, auth = mismatched(db, "ann@example.com")
    three_orders(db, ORDERS.format("user_id <> '{auth}'").replace("))", ") NOT ENFORCED)"), app, auth)
    goes_well(db)


def test_a_row_that_lacks_what_is_required_by_now(db):
    if db.server.number < 18:
        pytest.skip("from PostgreSQL 18 on")
    three_orders(db, "CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, note text)", *mismatched(db, "ann@example.com"))
    db.sql("ALTER TABLE orders ADD CONSTRAINT noted NOT NULL note NOT VALID")
    assert foretold(db, "orders")["detail"] == "3 rows in public.orders (noted)."


def goes_on_and_fails(db):
    plan, done = fix_one(db, None, apply=False), fix_one(db, None)
    assert (plan["outcome"], done["outcome"], done["details"]["error"]["sqlstate"]) == ("planned", "failed", "23514"), (plan, done)


def test_a_check_of_the_whole_row_is_not_tried(db):
    three_orders(db, ORDERS.format("orders::text NOT LIKE '%{auth}%'"), *mismatched(db, "ann@example.com"))
    goes_on_and_fails(db)


def test_a_check_that_could_do_anything_is_not_tried(db):
    """The rehearsal is a read; the fix then says what the server says."""
    app, auth = mismatched(db, "ann@example.com")
    db.sql(
        """CREATE TABLE tried (at timestamptz DEFAULT now());
           CREATE FUNCTION fine(uuid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.tried DEFAULT VALUES; RETURN false; END $$;"""
        + ORDERS.format("true")
    )
    db.sql("INSERT INTO orders VALUES (1, %s)", [app])
    db.sql("ALTER TABLE orders ADD CHECK (public.fine(user_id)) NOT VALID")
    fix_one(db, None, apply=False)
    assert db.one("SELECT count(*) FROM tried") == 0
    goes_on_and_fails(db)


REQUIRED = {
    "a required column": ("ADD tenant int NOT NULL", "23502", "(tenant)"),
    "a name with quotes": ("""ADD "it's" int NOT NULL""", "23502", "(it's)"),
    "a required mapped one": ("ALTER full_name SET NOT NULL", "23502", "(full_name)"),
    "a domain": ("ADD size public.size", "23502", None),
    "a check": ("ADD CONSTRAINT fine CHECK (email NOT LIKE 'ann%')", "23514", "(fine)"),
    "a check with a default": ("ADD kind text DEFAULT 'guest', ADD CONSTRAINT fine CHECK (kind <> 'guest') NOT VALID", "23514", "(fine)"),
    "a check of what is generated": ("ADD at text GENERATED ALWAYS AS (split_part(email, '@', 2)) STORED, ADD CONSTRAINT fine CHECK (at <> 'example.com') NOT VALID", "23514", "(fine)"),
    "a check of what is generated, beside a number": ("ADD n serial, ADD at text GENERATED ALWAYS AS (split_part(email, '@', 2)) STORED, ADD CONSTRAINT fine CHECK (at <> 'example.com') NOT VALID", "23514", "(fine)"),
    "an e-mail that is too long": ("ALTER email TYPE varchar(10)", "22001", "varchar(10)|character varying(10)"),
    "a phone that is another's": ("ADD phone text NOT NULL UNIQUE", "23505", "(app_users_phone_key)"),
    "a default that is another's": ("ADD seat int UNIQUE DEFAULT 1", "23505", "(app_users_seat_key)"),
}  # fmt: skip


def missing(db):
    """An auth user without a row."""
    db.sql("CREATE DOMAIN public.size AS int NOT NULL", role=ADMIN)
    auth_user(db, "ann@example.com", phone="123")


@pytest.mark.parametrize("case", REQUIRED)
def test_a_row_that_cannot_be_made(db, case):
    ddl, sqlstate, detail = REQUIRED[case]
    missing(db)
    db.sql(f"ALTER TABLE onagui.app_users {ddl}")
    if "UNIQUE" in ddl:
        app_user(db, "bob@e.com", auth_user(db, "bob@e.com"), **({"phone": "123"} if "phone" in ddl else {}))
    outcome = "failed" if "domain" in case else "refused"
    error = foretold(db, sqlstate=sqlstate, outcome=outcome)
    assert fix_one(db, None)["action"] == "create"
    if detail:
        assert any(part in error["detail"] for part in detail.split("|")) and error["hint"], error


@pytest.mark.parametrize(
    "ddl",
    [
        "ADD number int GENERATED ALWAYS AS IDENTITY UNIQUE CHECK (number > 0)",
        "ADD number serial NOT NULL CHECK (number > 0)",
        "ADD token uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(), ADD half text GENERATED ALWAYS AS (left(email, 3)) STORED, ADD CHECK (half = 'ann')",
        "ADD at timestamptz NOT NULL DEFAULT now(), ADD CHECK (at <= now())",
        "ADD tenant int NOT NULL DEFAULT 7, ADD CHECK (tenant = 7)",
        "ADD phone text UNIQUE",
        "ADD code public.code DEFAULT gen_random_uuid(), ADD copy public.code GENERATED ALWAYS AS (code) STORED",
        "ADD number public.number DEFAULT nextval('public.numbers')",
        "ADD pair public.pair NOT NULL DEFAULT ROW(NULL, NULL)",
        "ALTER full_name TYPE varchar(3)",
    ],
)
def test_a_row_that_can_be_made(db, ddl):
    missing(db)
    db.sql(
        """CREATE DOMAIN code AS uuid NOT NULL; CREATE DOMAIN number AS bigint CHECK (value IS NOT NULL);
           CREATE SEQUENCE numbers; CREATE TYPE pair AS (a int, b int)""",
        role=ADMIN,
    )
    db.sql("GRANT USAGE ON SEQUENCE numbers TO PUBLIC", role=ADMIN)
    db.sql(f"ALTER TABLE onagui.app_users {ddl}")
    goes_well(db)


def test_a_username_that_is_taken_gets_another_ending(db):
    missing(db)
    app_user(db, "bob@example.com", auth_user(db, "bob@example.com"), username="ann")
    db.sql("ALTER TABLE onagui.app_users ADD UNIQUE (username)")
    goes_well(db)


def test_what_a_trigger_fills_is_not_foretold(db):
    missing(db)
    db.sql(
        """ALTER TABLE onagui.app_users ADD tenant int NOT NULL;
           CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant = 1; RETURN NEW; END $$;
           CREATE TRIGGER fill BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION fill()"""
    )
    goes_well(db)


def test_of_many_each_gets_their_own_answer(db):
    """Two thousand rows are looked at in a few statements."""
    session = db.session(ADMIN)
    with session.transaction():
        session.execute("SET LOCAL onagui_sync.enabled = off")
        session.execute(
            """INSERT INTO auth.users (id, email, phone, email_confirmed_at)
               SELECT gen_random_uuid(), 'u' || i || '@example.com', i, now() FROM generate_series(1, 2500) i"""
        )
    db.sql("ALTER TABLE onagui.app_users ADD phone int NOT NULL CHECK (phone % 500 <> 7)")
    plan = {row["email"]: row["outcome"] for row in db.rows("SELECT email, outcome FROM onagui.fix_user_ids()")}
    done = {row["email"]: row["outcome"] for row in db.rows("SELECT email, outcome FROM onagui.fix_user_ids(p_apply => true)")}
    assert {email for email, outcome in plan.items() if outcome != "planned"} == {f"u{i}@example.com" for i in (7, 507, 1007, 1507, 2007)}
    assert {email: {"planned": "done"}.get(outcome, outcome) for email, outcome in plan.items()} == done


SPARES = """
    CREATE TABLE roles (user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE, role text, since int, PRIMARY KEY (user_id, role));
    CREATE TABLE grants (id int GENERATED ALWAYS AS IDENTITY, user_id uuid, role text, FOREIGN KEY (user_id, role) REFERENCES roles);
    CREATE TABLE settings (user_id uuid UNIQUE REFERENCES onagui.app_users, theme text);
    CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY, user_id uuid REFERENCES onagui.app_users);
    ALTER TABLE onagui.app_users ADD invited_by uuid REFERENCES onagui.app_users"""


@pytest.mark.parametrize("policy", ["error", "keep_auth", "keep_app"])
@pytest.mark.parametrize("colliding", [False, True])
def test_several_spare_users_of_one_person(db, policy, colliding):
    """Their rows may collide with each other: the later one meets what the earlier one has brought."""
    db.sql(SPARES)
    first, auth = duplicate(db, "ann@example.com")
    spares = [first, app_user(db, " ann@example.com", full_name="Ann"), app_user(db, "ann@example.com ", invited_by=first), app_user(db, "Ann@example.com")]
    for number, id in enumerate([*spares, auth]):
        role = "reader" if colliding else f"role {number}"
        db.sql("INSERT INTO roles VALUES (%s, %s, %s), (%s, %s, %s)", [id, role, number, id, f"own {number}", number])
        db.sql("INSERT INTO grants (user_id, role) VALUES (%s, %s)", [id, role])
        if number in (1, 3) and colliding:
            db.sql("INSERT INTO settings VALUES (%s, %s)", [id, f"theme {number}"])
        db.sql("INSERT INTO orders (user_id) SELECT %s FROM generate_series(0, %s)", [id, number])
    tables = ["onagui.app_users", "roles", "grants", "settings", "orders"]
    before = content(db, *tables)
    plan, done = fix(db, None, False, policy), fix(db, None, True, policy)

    def told(row):
        told = {part: row["details"].get(part) for part in ("conflicts", "references", "reason")}
        return row["old_app_user_id"], row["outcome"].replace("planned", "done"), row["rows_changed"], told

    assert len(plan) == len(done) == len(spares)
    for planned, did in zip(plan, done):
        assert told(planned) == told(did)
    refused = [row for row in done if row["outcome"] == "refused"]
    assert len(refused) == (4 if colliding and policy == "error" else 0)
    for row in reversed([row for row in done if row["outcome"] == "done"]):
        undo(db, row["audit_id"])
    assert content(db, *tables) == before


@pytest.mark.parametrize("action, rows, outcomes", [("", "one two", ["done", "refused"]), ("ON DELETE CASCADE", "two", ["done", "done"]), ("", "", ["done", "done"])])
def test_what_only_the_first_of_two_spare_users_gives(db, action, rows, outcomes):
    """The first one's username is taken over, though no row that refers to it need change."""
    db.sql(f"CREATE TABLE signs (id int PRIMARY KEY, name text UNIQUE REFERENCES onagui.app_users (username) {action}, user_id uuid REFERENCES onagui.app_users)")
    first, auth = duplicate(db, "ann@example.com")
    spares = sorted([first, app_user(db, " ann@example.com")])
    db.sql("UPDATE onagui.app_users SET username = NULL WHERE id = %s", [auth])
    for id, name in zip(spares, ("one", "two")):
        db.sql("UPDATE onagui.app_users SET username = %s WHERE id = %s", [name, id])
        db.sql("INSERT INTO signs SELECT length(%s) + ascii(%s), %s WHERE %s = ANY (%s)", [name, name, name, name, rows.split()])
    plan, done = fix(db, None, False), fix(db, None, True)
    assert [row["outcome"] for row in done] == outcomes
    for planned, did in zip(plan, done, strict=True):
        assert planned["outcome"].replace("planned", "done") == did["outcome"], (planned, did)
        assert planned["rows_changed"] == did["rows_changed"]
        assert planned["details"].get("conflicts") == did["details"].get("conflicts")


@pytest.mark.parametrize("policy", ["error", "keep_auth", "keep_app"])
@pytest.mark.parametrize("later", [0, 1])
def test_a_spare_user_whom_a_row_of_another_one_names(db, policy, later):
    """The row has come with the first; that it named the second, in another column, makes it no row of theirs."""
    db.sql(
        """CREATE TABLE members (org int, user_id uuid REFERENCES onagui.app_users, invited_by uuid REFERENCES onagui.app_users, PRIMARY KEY (org, user_id));
           CREATE TABLE seats (id int, org int, user_id uuid, FOREIGN KEY (org, user_id) REFERENCES members)"""
    )
    spares = [duplicate(db, "ann@example.com")[0], app_user(db, " ann@example.com")]
    spares = [(id, other) for id, other in zip(spares, reversed(spares))][:: 1 if later else -1]
    for number, (id, other) in enumerate(spares):
        db.sql("INSERT INTO members VALUES (1, %s, %s)", [id, other if number else None])
        db.sql("INSERT INTO seats VALUES (%s, 1, %s)", [number, id])
    plan, done = fix(db, None, False, policy), fix(db, None, True, policy)
    for planned, did in zip(plan, done, strict=True):
        assert planned["outcome"].replace("planned", "done") == did["outcome"]
        assert planned["rows_changed"] == did["rows_changed"]
        for part in "references", "conflicts":
            assert planned["details"].get(part) == did["details"].get(part), (planned, did)


def test_spare_users_who_collide_with_each_other_alone(db):
    db.sql(SPARES)
    first, auth = duplicate(db, "ann@example.com")
    for id in first, app_user(db, " ann@example.com"):
        db.sql("INSERT INTO settings VALUES (%s, 'dark')", [id])
    for apply in False, True:
        rows = fix(db, None, apply)
        assert sorted(row["outcome"] for row in rows) == ["done" if apply else "planned", "refused"], rows
        (refused,) = [row for row in rows if row["outcome"] == "refused"]
        assert refused["details"]["conflicts"] == [{"table": "public.settings", "constraint": "settings_user_id_key", "rows": 1}]


@pytest.mark.parametrize("volatility, outcome", [("STABLE", "planned"), ("IMMUTABLE", "refused")])
def test_a_check_that_reads_tables_is_not_tried(db, volatility, outcome):
    """Once it is asked, the user is there under the new id."""
    db.sql(
        f"""CREATE FUNCTION is_there(uuid) RETURNS boolean {volatility} LANGUAGE plpgsql AS $$BEGIN RETURN EXISTS (SELECT FROM onagui.app_users WHERE id = $1); END$$;
            CREATE TABLE docs (id int PRIMARY KEY, owner uuid REFERENCES onagui.app_users CHECK (is_there(owner)))"""
    )
    app, _ = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO docs VALUES (1, %s)", [app])
    assert fix_one(db, "ann@example.com", apply=False)["outcome"] == outcome
    assert fix_one(db, "ann@example.com")["outcome"] == "done"


@pytest.mark.parametrize("users", [1, 5])
def test_references_are_told_in_the_same_order(db, users):
    """Whoever owns the tables."""
    db.sql(
        """DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
           GRANT USAGE, CREATE ON SCHEMA public TO reader; GRANT USAGE ON SCHEMA onagui TO reader;
           GRANT REFERENCES, SELECT ON onagui.app_users TO reader;
           CREATE TABLE a (user_id uuid REFERENCES onagui.app_users);
           CREATE TABLE b (user_id uuid REFERENCES onagui.app_users); ALTER TABLE b OWNER TO reader;
           CREATE TABLE c (user_id uuid REFERENCES onagui.app_users)""",
        role="supabase_admin",
    )
    for n in range(users):
        app, _ = mismatched(db, f"user{n}@example.com")
        for table in "abc":
            db.sql(f"INSERT INTO {table} VALUES (%s)", [app], role="supabase_admin")
    rehearsed, fixed = ([row["details"]["references"] for row in fix(db, None, apply)] for apply in (False, True))
    assert len(fixed) == users and rehearsed == fixed
