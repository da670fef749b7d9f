"""fix_user_ids, fix_user_id, fix_user_id_mismatch: every status, every line, every error; what the audit log tells of it."""

import uuid

import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, fix_one, log, mismatched, new_id, statuses, undo
from support import expect_error


@pytest.fixture
def db(db):
    db.install()
    db.sql("CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid REFERENCES onagui.app_users)")
    return db


def everybody(db):
    """One user of each status."""
    same = auth_user(db, "synced@example.com")
    app_user(db, "synced@example.com", same)
    other = auth_user(db, "mail@example.com")
    app_user(db, "stale@example.com", other)
    mismatched(db, "mismatched@example.com")
    auth_user(db, "missing@example.com")
    app_user(db, "alone@example.com")
    mismatched(db, "pending@example.com", confirmed=False)
    for _ in range(2):
        auth_user(db, "conflict@example.com", is_sso_user=True)
    app_user(db, "conflict@example.com")
    duplicate(db, "duplicate@example.com")


def test_what_is_done_about_each_status(db):
    everybody(db)
    wanted = {
        "synced": [("none", "unchanged")],
        "mail": [("update_email", "done")],
        "mismatched": [("rekey", "done")],
        "missing": [("create", "done")],
        "alone": [("none", "unchanged")],
        "pending": [("refuse", "refused")],
        "conflict": [("refuse", "refused")] * 3,
        "duplicate": [("merge", "done"), ("none", "unchanged")],
    }
    before = content(db, "onagui.app_users", "onagui.sync_audit_log")
    for name, outcomes in wanted.items():
        rows = fix(db, f"{name}@example.com", apply=False)
        planned = [(action, {"done": "planned"}.get(outcome, outcome)) for action, outcome in outcomes]
        assert sorted((row["action"], row["outcome"]) for row in rows) == sorted(planned), rows
        assert all(row["audit_id"] is None for row in rows)
    assert content(db, "onagui.app_users", "onagui.sync_audit_log") == before
    for name, outcomes in wanted.items():
        rows = fix(db, f"{name}@example.com")
        assert sorted((row["action"], row["outcome"]) for row in rows) == sorted(outcomes), rows
        for row in rows:
            assert (row["outcome"] == "done") == (row["audit_id"] is not None), row
            if row["outcome"] == "refused":
                assert row["details"]["reason"] and row["details"]["error"]["hint"]
                assert row["details"]["error"]["sqlstate"] == ("55000" if name == "pending" else "21000")
    assert statuses(db) == {"SYNCED": 5, "MISSING_IN_AUTH": 1, "PENDING": 1, "CONFLICT": 3}


def test_every_fixable_user(db):
    everybody(db)
    plan = fix(db, None, apply=False)
    assert sorted(row["action"] for row in plan) == ["create", "merge", "rekey", "update_email"]
    assert {row["outcome"] for row in plan} == {"planned"}
    assert len(fix(db, None, apply=False, limit=2)) == 2 and fix(db, None, apply=False, limit=0) == []
    assert len(fix(db, None, limit=1)) == 1
    rows = fix(db, None)
    assert len(rows) == 3 and {row["outcome"] for row in rows} == {"done"}
    assert fix(db, None) == []


def test_lines(db):
    everybody(db)

    def line(name, **arguments):
        extra = "".join(f", {k} => {v}" for k, v in arguments.items())
        return db.one(f"SELECT onagui.fix_user_id_mismatch('{name}@example.com'{extra})")

    before = content(db, "onagui.app_users", "onagui.sync_audit_log")
    for name in "mail", "mismatched", "missing", "duplicate":
        assert line(name, p_use_auth_id="false").startswith("MANUAL: "), name
    assert line("synced", p_use_auth_id="false").startswith("OK: ")
    assert content(db, "onagui.app_users", "onagui.sync_audit_log") == before
    for name, begin in {"synced": "OK:", "mail": "FIXED:", "mismatched": "FIXED:", "missing": "CREATED:", "duplicate": "MERGED:"}.items():
        said = line(name)
        assert said.startswith(begin + " ") and "\n" not in said, said
        assert line(name).startswith("OK: ")
    with expect_error("55000", "not confirmed", hint="Wait for the confirmation.+has a row already"):
        line("pending")
    with expect_error("21000", hint="decide with onagui.fix_user_id"):
        line("conflict")
    with expect_error("P0002", "no auth user", hint="must sign up first"):
        line("alone")
    with expect_error("P0002", "nobody"):
        line("nobody")
    with expect_error("22023", hint=False):
        db.sql("SELECT onagui.fix_user_id_mismatch(NULL)")


def test_what_becomes_of_the_leaving_users_own_fields_is_told(db):
    """The row that stays is auth's whatever p_on_conflict says: nobody should find out afterwards what that cost."""
    db.sql("ALTER TABLE onagui.app_users ADD plan text DEFAULT 'free', ADD \"Banned at\" timestamptz, ADD same int DEFAULT 1, ADD note text")
    spare, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET plan = 'pro', \"Banned at\" = now(), created_at = '2020-01-01' WHERE id = %s", [spare])
    db.sql("UPDATE onagui.app_users SET note = 'new' WHERE id = %s", [auth])
    own = {"taken_over": ["Banned at"], "given_up": ["created_at", "plan", "updated_at"]}

    def told(row):
        return {name: sorted(row["details"][name]) for name in own}

    assert told(fix_one(db, "ann@example.com", apply=False)) == own
    words = "; taken over: Banned at; given up: "
    assert words in db.one("SELECT onagui.fix_user_id_mismatch('ann@example.com', false)")
    row = fix_one(db, "ann@example.com")
    assert told(row) == own
    [entry] = log(db, action="merge")
    assert told(entry) == own
    undo(db, row["audit_id"])
    said = db.one("SELECT onagui.fix_user_id_mismatch('ann@example.com')")
    assert said.startswith("MERGED: ") and words in said and said.endswith(f"; audit_id {row['audit_id'] + 2}")


@pytest.mark.parametrize("mixed_exists", [True, False])
def test_columns_that_refer_together_are_not_mixed(db, mixed_exists):
    """Also by a key that has nothing to do with users: a role of another tenant's would be made of two."""
    db.sql("CREATE TABLE roles (tenant int, role int, PRIMARY KEY (tenant, role))")
    db.sql("INSERT INTO roles VALUES (1, 1), (2, 2)" + (", (1, 2)" if mixed_exists else ""))
    db.sql("ALTER TABLE onagui.app_users ADD tenant int, ADD role int, ADD FOREIGN KEY (tenant, role) REFERENCES roles")
    spare, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET tenant = 1 WHERE id = %s", [auth])
    db.sql("UPDATE onagui.app_users SET tenant = 2, role = 2 WHERE id = %s", [spare])
    plan, row = fix_one(db, "ann@example.com", apply=False), fix_one(db, "ann@example.com")
    assert (plan["outcome"], row["outcome"]) == ("planned", "done")
    assert {"tenant", "role"} <= set(row["details"]["given_up"])
    assert plan["details"]["given_up"] == row["details"]["given_up"]
    assert db.sql("SELECT tenant, role FROM onagui.app_users WHERE id = %s", [auth]) == [(1, None)]


TEAMS = "CREATE TABLE {0} (tenant int, id int, PRIMARY KEY (tenant, id)); INSERT INTO {0} VALUES (1, 7), (1, 5), (2, 7), (2, 5)"


@pytest.mark.parametrize(
    ("match", "theirs", "ours", "then"),
    [
        ("SIMPLE", (1, 7, 5), (1, None, None), (1, 7, 5)),  # the key is the leaving user's, with what both have
        ("SIMPLE", (1, 7, 5), (None, None, None), (1, 7, 5)),
        ("FULL", (1, 7, 5), (None, None, None), (1, 7, 5)),
        ("SIMPLE", (2, 7, 5), (1, None, None), (1, None, None)),
        ("SIMPLE", (1, 7, None), (1, None, 5), (1, 7, 5)),
    ],
)
def test_keys_that_share_a_column(db, match, theirs, ours, then):
    db.sql(";".join(TEAMS.format(table) for table in ("teams", "plans")))
    keys = ", ".join(f"ADD FOREIGN KEY (tenant, {name}) REFERENCES {name}s (tenant, id) MATCH {match}" for name in ("team", "plan"))
    db.sql(f"ALTER TABLE onagui.app_users ADD tenant int, ADD team int, ADD plan int, {keys}")
    spare, auth = duplicate(db, "ann@example.com")
    for id, row in (spare, theirs), (auth, ours):
        db.sql("UPDATE onagui.app_users SET tenant = %s, team = %s, plan = %s WHERE id = %s", [*row, id])
    assert [fix_one(db, "ann@example.com", apply)["outcome"] for apply in (False, True)] == ["planned", "done"]
    assert db.sql("SELECT tenant, team, plan FROM onagui.app_users") == [then]


@pytest.mark.parametrize(("theirs", "then"), [(5, (1, 7, 5)), (None, (None, None, 5)), (6, (None, None, 5))])
def test_a_shared_column_is_taken_for_both_keys_or_for_none(db, theirs, then):
    db.sql(TEAMS.format("teams") + ";" + TEAMS.format("plans"))
    db.sql("INSERT INTO plans VALUES (1, 6)")
    keys = ", ".join(f"ADD FOREIGN KEY (tenant, {name}) REFERENCES {name}s (tenant, id)" for name in ("team", "plan"))
    db.sql(f"ALTER TABLE onagui.app_users ADD tenant int, ADD team int, ADD plan int, {keys}")
    spare, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET plan = 5 WHERE id = %s", [auth])
    db.sql("UPDATE onagui.app_users SET tenant = 1, team = 7, plan = %s WHERE id = %s", [theirs, spare])
    assert fix_one(db, "ann@example.com")["outcome"] == "done"
    assert db.sql("SELECT tenant, team, plan FROM onagui.app_users") == [then]


@pytest.mark.parametrize("kind", ["int DEFAULT 1", "int GENERATED ALWAYS AS (region * 10) STORED"])
def test_a_key_with_a_constant_or_generated_column(db, kind):
    db.sql("CREATE TABLE teams (kind int, id int, PRIMARY KEY (kind, id)); INSERT INTO teams VALUES (1, 7), (10, 7)")
    db.sql(f"ALTER TABLE onagui.app_users ADD region int DEFAULT 1, ADD kind {kind}, ADD team int, ADD FOREIGN KEY (kind, team) REFERENCES teams")
    spare, auth = duplicate(db, "ann@example.com")
    db.sql("UPDATE onagui.app_users SET team = 7 WHERE id = %s", [spare])
    assert fix_one(db, "ann@example.com")["outcome"] == "done"
    assert db.sql("SELECT team FROM onagui.app_users") == [(7,)]


def test_what_a_merge_gives_up(db):
    """What refers to the leaving user refers to the staying one; and whose e-mails differ, whose goes is told."""
    db.sql("ALTER TABLE onagui.app_users ADD made_by uuid REFERENCES onagui.app_users, ADD noted_by text")
    db.sql("SELECT onagui.register_reference('onagui.app_users', 'noted_by')")
    spare, auth = duplicate(db, "Ann@example.com")
    db.sql("UPDATE onagui.app_users SET made_by = id, noted_by = id::text")
    given_up = {"created_at", "updated_at"}
    assert set(fix_one(db, "ann@example.com", apply=False)["details"]["given_up"]) == given_up
    db.sql("UPDATE onagui.app_users SET email = 'other@example.com' WHERE id = %s", [spare])
    for apply in False, True:
        [row] = db.sql("SELECT outcome, details->'given_up' FROM onagui.fix_user_id(%s, %s, %s)", [spare, auth, apply])
        assert row[0] in ("planned", "done") and set(row[1]) == given_up | {"email"}


def test_whose_email_goes_is_told_beforehand(db):
    auth = auth_user(db, "new@example.com")
    app_user(db, "old@example.com", auth)
    told = {"before": "old@example.com", "after": "new@example.com"}
    assert fix_one(db, "new@example.com", apply=False)["details"] == told
    assert db.one("SELECT onagui.fix_user_id_mismatch('new@example.com', false)").endswith("give app user %s this e-mail, in place of old@example.com" % auth)
    assert fix_one(db, "new@example.com")["details"] == told


def test_an_app_user_without_an_id(db):
    """A column id that came later, of an older table."""
    db.sql("ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_pkey CASCADE, ALTER id DROP NOT NULL", role=ADMIN)
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (NULL, 'ann@example.com')")
    auth = auth_user(db, "ann@example.com")
    remedy = "UPDATE onagui.app_users SET id = gen_random_uuid() WHERE id IS NULL;"
    assert remedy in " ".join(db.one("SELECT onagui.sync_report()").split())
    with expect_error("21000", detail="has no id", hint="SET id = gen_random_uuid"):
        db.sql("SELECT onagui.fix_user_id_mismatch('ann@example.com')")
    db.sql(remedy)
    assert fix_one(db, "ann@example.com")["outcome"] == "done"
    assert db.sql("SELECT id FROM onagui.app_users") == [(auth,)]


def test_email_of_either_side(db):
    auth = auth_user(db, "new@example.com")
    app_user(db, "old@example.com", auth)
    assert db.one("SELECT onagui.fix_user_id_mismatch(' OLD@example.com ')").startswith("FIXED: ")
    assert db.one("SELECT email FROM onagui.app_users") == "new@example.com"


def test_emails_twice_unknown_and_null(db):
    app, auth = mismatched(db, "ann@example.com")
    rows = fix(db, ["ann@example.com", None, "ANN@example.com ", "ghost@example.com", "ann@example.com", ""])
    by = {row["email"]: row for row in rows}
    assert len(rows) == len(by), rows
    assert by["ann@example.com"]["outcome"] == "done" and by["ann@example.com"]["new_app_user_id"] == auth
    ghost = by["ghost@example.com"]
    assert (ghost["action"], ghost["outcome"], ghost["details"]["error"]["sqlstate"]) == ("refuse", "refused", "P0002")
    assert fix(db, []) == [] and fix(db, [None]) == []


def test_the_row_of_a_rekey_and_its_audit(db):
    app, auth = mismatched(db, "ann@example.com", username="ann")
    db.sql("INSERT INTO orders (user_id) VALUES (%s), (%s), (NULL)", [app, app])
    row = fix_one(db, "ann@example.com")
    assert row == {
        "email": "ann@example.com", "action": "rekey", "outcome": "done", "auth_user_id": auth, "old_app_user_id": app, "new_app_user_id": auth,
        "rows_changed": 2, "details": {"references": [{"table": "public.orders", "columns": ["user_id"], "rows": 2}]}, "audit_id": row["audit_id"],
    }
    entries = log(db, email="ann@example.com")
    assert len(entries) == 1
    entry = entries[0]
    assert entry.pop("occurred_at") and entry["details"].pop("undo")
    assert entry == {**row, "actor": "postgres", "undone_by": None}
    said = undo(db, row["audit_id"])
    assert said.startswith("UNDONE: rekey of ann@example.com")
    done, undone = log(db, email="ann@example.com")
    assert done["undone_by"] == undone["audit_id"] and undone["action"] == "undo" and undone["outcome"] == "done"
    assert (undone["old_app_user_id"], undone["new_app_user_id"], undone["rows_changed"], undone["actor"]) == (auth, app, 2, "postgres")


def test_swapped_and_chained_emails(db):
    """Three in a ring, and one who waits for an address of the ring's."""
    ids = [auth_user(db, f"new{i}@example.com") for i in range(3)]
    for i, id in enumerate(ids):
        app_user(db, f"new{(i + 1) % 3}@example.com", id)
    first = auth_user(db, "c1@example.com")
    second = auth_user(db, "c2@example.com")
    app_user(db, "c2@example.com", first)
    app_user(db, "gone@example.com", second)
    plan = fix(db, None, apply=False)
    assert {(row["action"], row["outcome"]) for row in plan} == {("update_email", "planned")}, plan
    before = content(db, "onagui.app_users")
    rows = fix(db, None)
    assert {(row["action"], row["outcome"], row["rows_changed"]) for row in rows} == {("update_email", "done", 0)}, rows
    assert statuses(db) == {"SYNCED": 5}
    assert len(log(db, action="update_email")) == 5
    by = {row["email"]: row["audit_id"] for row in rows}
    with expect_error("55000", detail="c2@example.com"):
        undo(db, by["c1@example.com"])
    undo(db, by["c2@example.com"])
    undo(db, by["c1@example.com"])
    # A ring is taken back whole: each address is another's by now.
    undo(db, by["new1@example.com"])
    assert content(db, "onagui.app_users") == before
    with expect_error("55000"):
        undo(db, by["new2@example.com"])
    undo(db, log(db, action="undo")[-1]["audit_id"])
    assert statuses(db) == {"SYNCED": 3, "EMAIL_MISMATCH": 2}


def test_one_email_update_is_undone_to_the_byte(db):
    auth = auth_user(db, "new@example.com")
    app_user(db, " Old@Example.com", auth)
    before = content(db, "onagui.app_users")
    row = fix_one(db, "new@example.com")
    assert row["details"]["before"] == " Old@Example.com" and row["details"]["after"] == "new@example.com"
    undo(db, row["audit_id"])
    assert content(db, "onagui.app_users") == before


def test_email_that_another_holds_is_refused(db):
    auth = auth_user(db, "ann@example.com")
    app_user(db, "old@example.com", auth)
    known = auth_user(db, "bob@example.com")
    app_user(db, "Ann@example.com", known)
    db.sql("UPDATE auth.users SET deleted_at = now(), email = 'x' WHERE id = %s", [known], role=ADMIN)
    for apply in False, True:
        row = next(r for r in fix(db, "ann@example.com", apply) if r["action"] == "update_email")
        assert row["outcome"] == "refused", row
        error = row["details"]["error"]
        assert error["sqlstate"] == "23505" and error["detail"]
        assert "name both in one call" in error["hint"] and "merge the two" in error["hint"]


def test_auth_without_email_does_not_wipe_the_applications(db):
    auth = auth_user(db, None)
    app_user(db, "ann@example.com", auth)
    before = content(db, "onagui.app_users")
    rows = [row for row in fix(db, None) if row["auth_user_id"] == auth] or fix(db, "ann@example.com")
    assert [row["outcome"] for row in rows] == ["unchanged"] and "auth has no e-mail" in rows[0]["details"]["reason"]
    assert content(db, "onagui.app_users") == before


def test_duplicate_beside_a_stale_email(db):
    """With unique e-mails a duplicate looks like this: the auth user's own row has an old address, another row the new one."""
    auth = auth_user(db, "ann@example.com")
    app_user(db, "old@example.com", auth, username="a")
    app = app_user(db, "ann@example.com", username="b")
    db.sql("INSERT INTO orders (user_id) VALUES (%s)", [app])
    before = content(db, "orders", "onagui.app_users")
    plan = fix(db, "ann@example.com", apply=False)
    rows = fix(db, "ann@example.com")
    assert sorted((row["action"], row["outcome"]) for row in rows) == [("merge", "done"), ("update_email", "done")], rows
    assert sorted((row["action"], row["outcome"]) for row in plan) == [("merge", "planned"), ("update_email", "planned")], plan
    assert statuses(db) == {"SYNCED": 1}
    for row in sorted(rows, key=lambda row: -row["audit_id"]):
        undo(db, row["audit_id"])
    assert content(db, "orders", "onagui.app_users") == before


def test_who_is_in_step_comes_last(db):
    duplicate(db, "ann@example.com")
    for apply in False, True:
        assert [row["action"] for row in fix(db, "ann@example.com", apply)] == ["merge", "none"]


def test_decision_in_a_conflict(db):
    one, two = (auth_user(db, "ann@example.com", is_sso_user=True) for _ in range(2))
    app = app_user(db, "ann@example.com")
    db.sql("INSERT INTO orders (user_id) VALUES (%s)", [app])
    decide = "SELECT * FROM onagui.fix_user_id(%s, %s, %s)"
    (plan,) = db.rows(decide, [app, two, False])
    assert (plan["action"], plan["outcome"], plan["rows_changed"]) == ("rekey", "planned", 1)
    (row,) = db.rows(decide, [app, two, True])
    assert (row["action"], row["outcome"], row["new_app_user_id"]) == ("rekey", "done", two)
    (again,) = db.rows(decide, [two, two, True])
    assert (again["action"], again["outcome"], again["audit_id"]) == ("none", "unchanged", None)
    with expect_error("P0002", "no such app user"):
        db.rows(decide, [app, one, True])
    with expect_error("P0002", "no such auth user"):
        db.rows(decide, [two, new_id(), True])
    undo(db, row["audit_id"])
    assert db.one("SELECT id FROM onagui.app_users") == app


def test_decision_does_not_replace_a_confirmation(db):
    app, auth = mismatched(db, "ann@example.com", confirmed=False)
    for apply in False, True:
        with expect_error("55000", "confirmed"):
            db.rows("SELECT * FROM onagui.fix_user_id(%s, %s, %s)", [app, auth, apply])


@pytest.mark.parametrize(
    "call",
    [
        "onagui.fix_user_ids(NULL, true, 'keep_both')", "onagui.fix_user_ids(NULL, true, NULL)", "onagui.fix_user_ids(NULL, NULL)",
        "onagui.fix_user_ids(p_limit => -1)", "onagui.fix_user_id(NULL, gen_random_uuid())", "onagui.fix_user_id(gen_random_uuid(), NULL)",
        "onagui.fix_user_id(gen_random_uuid(), gen_random_uuid(), NULL)", "onagui.fix_user_id(gen_random_uuid(), gen_random_uuid(), true, 'x')",
        "onagui.undo_fix(NULL)", "onagui.prune_audit(NULL)", "onagui.prune_audit('-1 day')", "onagui.register_reference(NULL, 'x')",
        "onagui.register_reference('orders', NULL)", "onagui.register_reference('orders', 'id')",
        "onagui.register_reference('pg_stat_activity', 'pid')", "onagui.register_reference('onagui.app_users', 'id')",
        "onagui.unregister_reference(NULL, 'x')", "onagui.unregister_reference('orders', NULL)", "onagui.unregister_reference(NULL, 'orders', 'x')",
        "onagui.unregister_reference('public', NULL, 'x')", "onagui.unregister_reference('public', 'orders', NULL)",
    ],
)  # fmt: skip
def test_wrong_arguments(db, call):
    with expect_error("22023"):
        db.sql(f"SELECT * FROM {call}")


def test_registering_a_reference(db):
    db.sql('CREATE TABLE "My Files" ("Owner" varchar(40))')
    assert db.one("""SELECT onagui.register_reference('"My Files"', 'Owner')""").startswith("OK: ")
    assert "already" in db.one("""SELECT onagui.register_reference('"My Files"', 'Owner')""")
    assert db.one("SELECT count(*) FROM onagui.sync_reference", role=ADMIN) == 1
    db.sql('DROP TABLE "My Files"')
    mismatched(db, "ann@example.com")
    assert fix_one(db, "ann@example.com")["outcome"] == "done"


def registered(db):
    return db.one("SELECT count(*) FROM onagui.sync_reference")


def test_taking_a_reference_back(db):
    db.sql('CREATE TABLE "My Files" ("Owner" varchar(40))')
    db.sql("""SELECT onagui.register_reference('"My Files"', 'Owner')""")
    app, auth = mismatched(db, "ann@example.com")
    db.sql('INSERT INTO "My Files" VALUES (%s)', [app])
    assert db.one("""SELECT onagui.unregister_reference('"My Files"', 'owner')""") == 'OK: public."My Files".owner was not registered'
    assert registered(db) == 1
    said = db.one("""SELECT onagui.unregister_reference('"My Files"', 'Owner')""")
    assert said == 'OK: public."My Files"."Owner" is not registered any more; fixes leave it alone'
    assert "was not registered" in db.one("""SELECT onagui.unregister_reference('"My Files"', 'Owner')""")
    assert registered(db) == 0
    fixed = fix_one(db, "ann@example.com")
    assert (fixed["outcome"], fixed["rows_changed"]) == ("done", 0)
    assert db.one('SELECT "Owner" FROM "My Files"') == str(app)
    assert db.one("SELECT onagui.unregister_reference(4294967295::oid::regclass, 'x')") == "OK: 4294967295.x was not registered"


def test_taking_back_what_a_foreign_key_needs_no_entry_for(db):
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO orders (user_id) VALUES (%s)", [app])
    db.sql("SELECT onagui.register_reference('orders', 'user_id')")
    said = db.one("SELECT onagui.unregister_reference('orders', 'user_id')")
    assert said == "OK: public.orders.user_id is not registered any more; fixes go on following its foreign key orders_user_id_fkey"
    assert fix_one(db, "ann@example.com")["rows_changed"] == 1
    assert db.one("SELECT user_id FROM orders") == auth


@pytest.mark.parametrize("end", ['DROP TABLE "My Files"', 'ALTER TABLE "My Files" RENAME TO mine', 'ALTER TABLE "My Files" DROP "Owner"'])
def test_taking_a_reference_back_that_is_gone(db, end):
    db.sql('CREATE TABLE "My Files" ("Owner" varchar(40))')
    db.sql("""SELECT onagui.register_reference('"My Files"', 'Owner')""")
    db.sql(end)
    assert "any more" in db.one("SELECT onagui.unregister_reference('public', 'My Files', 'Owner')")
    assert "was not" in db.one("SELECT onagui.unregister_reference('public', 'My Files', 'Owner')")
    assert registered(db) == 0


@pytest.mark.parametrize("table, sqlstate", [("onagui.app_users", "42P01"), ("auth.users", "42P01")])
def test_missing_tables(db, table, sqlstate):
    db.sql(f"DROP TABLE {table} CASCADE", role=ADMIN)
    for call in "onagui.fix_user_ids()", "onagui.fix_user_ids(NULL, true)", "onagui.fix_user_id_mismatch('a@b')":
        with expect_error(sqlstate):
            db.sql(f"SELECT * FROM {call}", role=ADMIN)


def test_who_may_not(db):
    for role in "anon", "authenticated":
        for call in "onagui.fix_user_ids()", "onagui.fix_user_id_mismatch('a')", "onagui.undo_fix(1)", "onagui.prune_audit('1 day')":
            with db.session(ADMIN).transaction(force_rollback=True), expect_error("42501", detail=False, hint=False):
                db.sql(f"SET LOCAL ROLE {role}", role=ADMIN)
                db.sql(f"SELECT * FROM {call}", role=ADMIN)


def test_rehearsal_is_a_read(db):
    everybody(db)
    app, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO orders (user_id) VALUES (%s), (%s)", [app, auth])
    session = db.session()
    for call in (
        "SELECT * FROM onagui.fix_user_ids()",
        "SELECT * FROM onagui.fix_user_ids(ARRAY['ann@example.com'], false, 'keep_app')",
        f"SELECT * FROM onagui.fix_user_id('{app}', '{auth}')",
        "SELECT onagui.fix_user_id_mismatch('mismatched@example.com', false)",
    ):
        with session.transaction():
            session.execute("SET TRANSACTION READ ONLY")
            assert session.execute(call).fetchall()
            assert session.one("SELECT pg_current_xact_id_if_assigned()") is None
            locks = session.one("SELECT array_agg(DISTINCT mode) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'")
            assert locks == ["AccessShareLock"]


def test_begin_fix_rollback_rehearses_triggers_as_well(db):
    app, auth = mismatched(db, "ann@example.com")
    before = content(db, "onagui.app_users", "onagui.sync_audit_log")
    with db.session().transaction(force_rollback=True):
        assert fix_one(db, "ann@example.com")["outcome"] == "done"
    assert content(db, "onagui.app_users", "onagui.sync_audit_log") == before


def test_one_bad_user_costs_only_themselves(db):
    db.sql("ALTER TABLE orders ADD note text; CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
           "$$BEGIN IF OLD.note = 'bad' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = 'P0099', DETAIL = 'd', HINT = 'h'; END IF; RETURN NEW; END$$;"
           "CREATE TRIGGER no BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION no()")  # fmt: skip
    users = [mismatched(db, f"u{i}@example.com") for i in range(5)]
    for i, (app, _) in enumerate(users):
        db.sql("INSERT INTO orders (user_id, note) VALUES (%s, %s)", [app, "bad" if i == 2 else "good"])
    rows = {row["email"]: row for row in fix(db, None)}
    bad = rows.pop("u2@example.com")
    assert {row["outcome"] for row in rows.values()} == {"done"}
    assert bad["outcome"] == "failed" and bad["rows_changed"] == 0 and bad["new_app_user_id"] == users[2][0]
    assert bad["details"]["error"] == {"sqlstate": "P0099", "message": "not this one", "detail": "d", "hint": "h"}
    assert [entry["audit_id"] for entry in log(db, action="failure")] == [bad["audit_id"]]


def test_the_row_of_another_with_an_outdated_email(db):
    """No person need decide: the report and the hint name the call that helps, which gives nobody another's rows."""
    first = auth_user(db, "new@example.com")
    second = auth_user(db, "old@example.com")
    db.sql("DELETE FROM onagui.app_users")
    app_user(db, "old@example.com", first)
    report = db.one("SELECT onagui.sync_report()")
    lines = report[report.index("\nCONFLICT") :]
    call = " ".join(lines[lines.index("    fix ") + 7 : lines.index("    then ")].split())
    assert call == "SELECT * FROM onagui.fix_user_ids(ARRAY['old@example.com'], p_apply => true);", report
    with expect_error("21000", hint=r"SELECT \* FROM onagui.fix_user_ids\(ARRAY\['\.\.\.'\], p_apply => true\); gives the other user"):
        db.sql("SELECT onagui.fix_user_id_mismatch('old@example.com')")
    db.sql(call)
    db.sql(call)
    assert set(db.sql("SELECT id, email FROM onagui.app_users")) == {(first, "new@example.com"), (second, "old@example.com")}


def test_a_decision_that_takes_somebodys_row_says_so(db):
    ann, bob = auth_user(db, "ann@example.com"), auth_user(db, "bob@example.com")
    app_user(db, "ann@example.com", ann)
    app_user(db, "bob@example.com", bob)
    row = db.rows("SELECT outcome, details->>'reason' AS reason FROM onagui.fix_user_id(%s, %s)", [ann, bob])[0]
    assert (row["outcome"], row["reason"]) == ("planned", f"the app row is that of auth user {ann}, who has none then")


def test_a_limit_is_for_those_who_are_out_of_step(db):
    for email in "one@example.com", "two@example.com":
        mismatched(db, email)
    duplicate(db, "dup@example.com")
    emails = ["one@example.com", "one@example.com", "two@example.com"]
    rows = db.rows("SELECT email FROM onagui.fix_user_ids(%s, p_limit => 2)", [emails])
    assert [row["email"] for row in rows] == ["one@example.com", "two@example.com"]
    rows = db.rows("SELECT action FROM onagui.fix_user_ids(ARRAY['dup@example.com'], p_limit => 1)")
    assert [row["action"] for row in rows] == ["merge"]


def test_whoever_always_fails_keeps_nobody_from_having_a_turn(db):
    """A nightly call with a limit gets to everybody."""
    db.sql("CREATE TABLE notes (user_id uuid REFERENCES onagui.app_users, CHECK (user_id < 'f0000000-0000-0000-0000-000000000000'))")
    for number in range(6):
        auth = auth_user(db, f"user{number}@example.com", uuid.UUID(int=((15 if number < 4 else 14) << 124) + number))
        app = app_user(db, f"user{number}@example.com", uuid.UUID(int=number))
        db.sql(f"INSERT INTO notes VALUES ('{app}')")
        assert auth != app
    done, tried = [], []
    for _ in range(3):
        rows = fix(db, None, limit=2)
        tried += [row["email"] for row in rows]
        done += [row["email"] for row in rows if row["outcome"] == "done"]
    assert sorted(done) == ["user4@example.com", "user5@example.com"]
    assert sorted(tried) == [f"user{number}@example.com" for number in range(6)]
    left = {email for email in tried if email not in done}
    for _ in range(200):
        left -= {row["email"] for row in fix(db, None, limit=2)}
    assert not left


def test_a_trigger_that_keeps_what_is_to_give_way(db):
    """It marks rows as deleted, and returns NULL: the row that stays must not be blamed for that it is there."""
    db.sql(
        """CREATE TABLE seats (user_id uuid REFERENCES onagui.app_users, place int, gone boolean, UNIQUE (user_id, place));
           CREATE FUNCTION soft() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$BEGIN
               UPDATE seats SET gone = true WHERE user_id = OLD.user_id AND place = OLD.place; RETURN NULL; END$$;
           CREATE TRIGGER soft BEFORE DELETE ON seats FOR EACH ROW EXECUTE FUNCTION soft()"""
    )
    spare, auth = duplicate(db, "ann@example.com")
    db.sql("INSERT INTO seats VALUES (%s, 1), (%s, 1)", [spare, auth])
    before = content(db, "onagui.app_users", "seats")
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    error = row["details"]["error"]
    assert (row["outcome"], error["sqlstate"], error["message"]) == ("failed", "55000", "rows of public.seats could not be changed")
    assert content(db, "onagui.app_users", "seats") == before
