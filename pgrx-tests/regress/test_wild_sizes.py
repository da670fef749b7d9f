"""As many tables, columns and letters as there can be."""

import uuid

from repairs import ADMIN, content, duplicate, fix_one, mismatched, undo
from walk import Walk

from support import expect_error

TABLES = 1000
#: MaxHeapAttributeNumber.
COLUMNS = 1600


def test_a_thousand_referring_tables(db):
    # How long it takes is not what is tested: on a busy machine a merge may well be more than half a minute.
    db.sql("SET statement_timeout = 0")
    db.install()
    db.sql(
        f"""DO $$ BEGIN FOR i IN 1..{TABLES} LOOP
                EXECUTE format('CREATE TABLE public.t%s (n int, user_id uuid REFERENCES onagui.app_users)', i);
                EXECUTE format('CREATE INDEX ON public.t%s (user_id)', i);
                IF i % 100 = 0 THEN COMMIT; END IF;
            END LOOP; END $$"""
    )
    # As autovacuum does soon: the planner knows then how large the catalog is.
    db.sql("ANALYZE pg_class, pg_index, pg_constraint, pg_trigger, pg_attribute, pg_depend", role=ADMIN)
    moved, own = mismatched(db, "ann@example.com")
    spare, kept = duplicate(db, "bob@example.com")
    db.sql(f"DO $$ BEGIN FOR i IN 1..{TABLES} LOOP EXECUTE format('INSERT INTO public.t%s VALUES (1, %L), (1, %L)', i, '{moved}', '{spare}'); END LOOP; END $$")
    for email, action in ("ann@example.com", "rekey"), ("bob@example.com", "merge"):
        planned = fix_one(db, email, apply=False)
        assert (planned["action"], planned["outcome"], planned["rows_changed"]) == (action, "planned", TABLES)
        row = fix_one(db, email)
        assert (row["outcome"], row["details"]) == ("done", planned["details"])
        assert len(row["details"]["references"]) == TABLES
        assert db.sql(f"SELECT user_id FROM public.t{TABLES} WHERE user_id = ANY (%s)", [[own, kept]])
        undo(db, row["audit_id"])
    assert sorted(db.sql(f"SELECT user_id FROM public.t{TABLES}")) == sorted([(moved,), (spare,)])
    # A confirmation links in the middle of a sign-up.
    zoe = uuid.uuid4()
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'zoe@example.com')", [zoe])
    db.sql("INSERT INTO public.t1 VALUES (1, %s)", [zoe])
    id = db.auth.signup("zoe@example.com")
    assert db.one("SELECT count(*) FROM public.t1 WHERE user_id = %s", [id]) == 1
    assert db.warnings == []


def test_as_many_columns_as_there_can_be(db):
    db.install(app_users=False)
    # Columns that were dropped count as well.
    more = ", ".join(f"c{i} int DEFAULT {i}" for i in range(COLUMNS - 13))
    db.sql(f"CREATE TABLE onagui.app_users ({', '.join(f'gone{i} int' for i in range(10))}, id uuid PRIMARY KEY, email text, username text, {more})")
    db.sql("ALTER TABLE onagui.app_users " + ", ".join(f"DROP gone{i}" for i in range(10)))
    many = ", ".join(f"u{i} uuid" for i in range(COLUMNS - 60))
    keys = ", ".join(f"FOREIGN KEY (u{i}) REFERENCES onagui.app_users" for i in range(20))
    db.sql(f"CREATE TABLE public.wide ({many}, {keys})")
    assert Walk(db).all().health("e-mail look-up", "unindexed references") == []
    for make, email in (mismatched, "x@example.com"), (duplicate, "y@example.com"):
        app, _ = make(db, email)
        db.sql(f"INSERT INTO public.wide ({', '.join(f'u{i}' for i in range(20))}) VALUES ({', '.join(['%s'] * 20)})", [app] * 20)
        before = content(db, "onagui.app_users", "public.wide")
        planned = fix_one(db, email, apply=False)
        row = fix_one(db, email)
        assert (row["outcome"], row["rows_changed"], planned["rows_changed"]) == ("done", 1, 1)
        [reference] = row["details"]["references"]
        assert (reference["table"], set(reference["columns"])) == ("public.wide", {f"u{i}" for i in range(20)})
        undo(db, row["audit_id"])
        assert content(db, "onagui.app_users", "public.wide") == before


def test_names_as_they_may_be(db):
    """Quoted, in mixed case, beyond ASCII, as long as can be, and with everything in them that needs care."""
    db.install()
    names = ["Select", 'say "hi"', "it's", "Größe Straße", "ユーザー", "a" * 63, "ä" * 31, "%s %I {0} $1", "tab\there", "line\nbreak", "-- no", "x;y", "\\n\\", "😀"]
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        db.session(ADMIN).execute(
            f"""CREATE SCHEMA {quoted};
                CREATE TABLE {quoted}.{quoted} ({quoted} uuid, "{'k' + name[:20].replace('"', '""')}" int, CONSTRAINT {quoted} FOREIGN KEY ({quoted}) REFERENCES onagui.app_users,
                                                EXCLUDE USING btree ({quoted} WITH =, "{'k' + name[:20].replace('"', '""')}" WITH =));
                CREATE TABLE {quoted}.soft ({quoted} text)""".encode()
        )
        db.sql("SELECT onagui.register_reference(format('%%I.soft', %s::text)::regclass, %s)", [name, name], role=ADMIN)
    spare, own = duplicate(db, "ann@example.com")
    tables = []
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        tables += [f"{quoted}.{quoted}", f"{quoted}.soft"]
        db.session(ADMIN).execute(
            f"""INSERT INTO {quoted}.{quoted} VALUES ('{spare}', 1), ('{spare}', 2), ('{own}', 2); INSERT INTO {quoted}.soft VALUES ('{spare}')""".encode()
        )
    tables = [table.replace("%", "%%") for table in tables]
    before = {table: sorted(row for (row,) in db.session(ADMIN).execute(f"SELECT t::text FROM {table} t".encode(), []).fetchall()) for table in tables}
    planned = fix_one(db, "ann@example.com", apply=False)
    assert (planned["outcome"], planned["rows_changed"], len(planned["details"]["conflicts"])) == ("refused", 3 * len(names), len(names))
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done", row
    columns = {column for reference in row["details"]["references"] for column in reference["columns"]}
    assert columns == set(names)
    undo(db, row["audit_id"])
    after = {table: sorted(row for (row,) in db.session(ADMIN).execute(f"SELECT t::text FROM {table} t".encode(), []).fetchall()) for table in tables}
    assert after == before
    with expect_error("23505", detail="Größe Straße"):
        db.sql("SELECT onagui.fix_user_id_mismatch('ann@example.com', false)")
    assert db.sql("SELECT * FROM onagui.sync_health()") and db.one("SELECT onagui.sync_report()")
