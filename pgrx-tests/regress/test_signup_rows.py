"""The table of the sign-up: what is found in app_users, and what is made of it."""

import json
import uuid

import pytest

from support import NULL, audit, expect_error

A = uuid.UUID("aaaaaaaa-0000-4000-8000-000000000001")
B = uuid.UUID("bbbbbbbb-0000-4000-8000-000000000002")
C = uuid.UUID("cccccccc-0000-4000-8000-000000000003")


@pytest.fixture
def app(db):
    return db.install()


def users(db, columns="id, email"):
    return db.sql(f"SELECT {columns} FROM onagui.app_users ORDER BY id")


def log(db):
    """The audit log without what differs from run to run."""
    return [
        (row["action"], row["outcome"], row["auth_user_id"], row["old_app_user_id"], row["new_app_user_id"], row["email"])
        for row in audit(db)
    ]


def insert(db, id, email):
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, %s)", [id, email])


def test_nothing_there_makes_a_row(app):
    id = app.auth.signup("ann@example.com", {"username": "ann", "full_name": "Ann A.", "x": 1})
    [row] = app.rows("SELECT * FROM onagui.app_users")
    auth = app.rows("SELECT created_at FROM auth.users")[0]
    assert (row["id"], row["email"], row["username"], row["full_name"]) == (id, "ann@example.com", "ann", "Ann A.")
    assert row["metadata"] == {"username": "ann", "full_name": "Ann A.", "x": 1}
    assert row["created_at"] == auth["created_at"]
    assert log(app) == []
    assert app.warnings == []


def test_names_fall_back(app):
    app.auth.signup("bob@example.com", {"username": "", "name": "Bob B."})
    assert users(app, "username, full_name") == [("bob", "Bob B.")]


def test_a_row_with_the_id_takes_the_email_and_keeps_what_the_application_wrote(app):
    app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'old@example.com', 'mine')", [A])
    app.auth.signup("new@example.com", {"username": "theirs", "full_name": "Theirs"}, id=A)
    assert users(app, "id, email, username, full_name, metadata") == [(A, "new@example.com", "mine", "Theirs", {})]
    assert log(app) == [("update_email", "done", A, A, A, "new@example.com")]


def test_a_row_with_the_id_and_the_email_is_only_filled(app):
    insert(app, A, "a@example.com")
    app.auth.signup("a@example.com", {"username": "ann"}, id=A)
    assert users(app, "id, email, username") == [(A, "a@example.com", "ann")]
    assert log(app) == []


@pytest.mark.parametrize("email", ["ann@example.com", "  ANN@Example.com "])
def test_an_unconfirmed_match_is_pending(app, email):
    insert(app, B, email)
    app.auth.signup("ann@example.com", confirmed=False, id=A)
    assert users(app) == [(B, email)]
    assert log(app) == [("pending", "planned", A, B, None, "ann@example.com")]
    assert app.warnings == []
    # A second look at the same thing is no second event.
    app.sql("UPDATE auth.users SET email = 'x@example.com' WHERE id = %s", [A], role="supabase_auth_admin")
    app.sql("UPDATE auth.users SET email = 'ann@example.com' WHERE id = %s", [A], role="supabase_auth_admin")
    assert [entry[0] for entry in log(app)].count("pending") == 1


@pytest.mark.parametrize("in_one_transaction", [True, False])
def test_a_confirmed_match_is_rekeyed(app, in_one_transaction):
    app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'Ann@example.com', 'mine')", [B])
    app.sql("CREATE TABLE public.orders (id int PRIMARY KEY, owner uuid NOT NULL REFERENCES onagui.app_users)")
    app.sql("INSERT INTO public.orders VALUES (1, %s), (2, %s)", [B, B])
    app.auth.signup("ann@example.com", {"full_name": "Ann"}, confirmed=in_one_transaction, id=A)
    if not in_one_transaction:
        assert users(app) == [(B, "Ann@example.com")]
        app.auth.confirm(A)
    assert users(app, "id, email, username, full_name") == [(A, "ann@example.com", "mine", "Ann")]
    assert app.sql("SELECT DISTINCT owner FROM public.orders") == [(A,)]
    assert log(app) == [
        ("pending", "planned", A, B, None, "ann@example.com"),
        ("link", "done", A, B, A, "ann@example.com"),
    ]
    assert audit(app, action="link")[0]["rows_changed"] == 2


def test_a_known_id_is_never_linked(app):
    insert(app, B, "other@example.com")
    app.auth.signup("b@example.com", id=B)
    app.auth.delete(B)
    app.sql("UPDATE onagui.app_users SET email = 'ann@example.com' WHERE id = %s", [B])
    app.auth.signup("ann@example.com", id=A)
    assert users(app) == [(B, "ann@example.com")]
    assert log(app)[-1] == ("conflict", "refused", A, None, None, "ann@example.com")
    assert audit(app, action="conflict")[0]["details"] == {
        "reason": "an app user with this e-mail has an id that belongs, or once belonged, to another auth user",
        "app_users": [str(B)],
    }


def test_a_soft_deleted_id_is_known(app):
    app.auth.signup("ann@example.com", id=B)
    app.auth.soft_delete(B)
    assert users(app) == [(B, "ann@example.com")]
    app.auth.signup("ann@example.com", id=A)
    assert users(app) == [(B, "ann@example.com")]
    assert log(app) == [
        ("delete", "done", B, None, None, "ann@example.com"),
        ("conflict", "refused", A, None, None, "ann@example.com"),
    ]


def test_two_sso_users_with_one_email(app):
    app.auth.signup("same@example.com", sso=True, id=A)
    app.auth.signup("same@example.com", sso=True, id=C)
    assert users(app) == [(A, "same@example.com")]
    assert log(app) == [("conflict", "refused", C, None, None, "same@example.com")]


def test_several_rows_with_the_email(app):
    app.sql("DROP INDEX onagui.app_users_email_key")
    insert(app, B, "ann@example.com")
    insert(app, C, "ANN@example.com")
    app.auth.signup("ann@example.com", id=A)
    assert users(app) == [(B, "ann@example.com"), (C, "ANN@example.com")]
    assert log(app) == [("conflict", "refused", A, None, None, "ann@example.com")]
    details = audit(app)[0]["details"]
    assert details["reason"] == "several app users have this e-mail"
    assert sorted(details["app_users"]) == [str(B), str(C)]


@pytest.mark.parametrize("unique", [True, False])
def test_without_the_unique_index_no_second_row_either(app, unique):
    if not unique:
        app.sql("DROP INDEX onagui.app_users_email_key")
    insert(app, B, "ann@example.com")
    app.auth.signup("ann@example.com", confirmed=False, id=A)
    assert users(app) == [(B, "ann@example.com")]
    assert log(app) == [("pending", "planned", A, B, None, "ann@example.com")]


@pytest.mark.parametrize("index", ["", "CREATE UNIQUE INDEX ON onagui.app_users (lower(btrim(email)))"])
def test_a_row_without_an_id_has_the_email(db, index):
    """As where the table is older than its ids from auth."""
    db.install(app_users=False)
    db.sql(f"CREATE TABLE onagui.app_users (number serial PRIMARY KEY, id uuid UNIQUE, email text); {index}")
    db.sql("INSERT INTO onagui.app_users (email) VALUES ('ann@example.com'), ('bob@example.com')")
    ann = db.auth.signup("ann@example.com", confirmed=False)
    eve = db.auth.signup("eve@example.com")
    db.auth.change_email(eve, "bob@example.com")
    assert [(row["auth_user_id"], row["action"], row["outcome"], row["details"]["reason"]) for row in audit(db)] == [
        (ann, "conflict", "refused", "the app user with this e-mail has no id"),
        (eve, "conflict", "refused", "another app user holds the new e-mail"),
    ]
    assert db.sql("SELECT id, email FROM onagui.app_users ORDER BY number") == [(None, "ann@example.com"), (None, "bob@example.com"), (eve, "eve@example.com")]
    assert db.warnings == []
    with expect_error("21000", hint=True):
        db.sql("SELECT onagui.sync_user_registration(%s)", [json.dumps({"userId": str(ann), "email": "ann@example.com"})])


def test_an_empty_email_matches_nothing(app):
    app.sql("DROP INDEX onagui.app_users_email_key")
    insert(app, B, "")
    insert(app, C, " ")
    app.sql("INSERT INTO auth.users (id, email) VALUES (%s, ' ')", [A], role="supabase_auth_admin")
    assert [row[0] for row in users(app)] == [A, B, C]


def test_the_username_is_taken(app):
    insert(app, B, "b@example.com")
    app.sql("UPDATE onagui.app_users SET username = 'ann'")
    first = uuid.UUID("01934567-0000-7000-8000-000000000001")
    second = uuid.UUID("01934567-0000-7000-8000-000000000002")
    app.auth.signup("ann@example.com", {"username": "ann"}, id=first)
    app.auth.signup("anna@example.com", {"username": "ann"}, id=second)
    assert app.sql("SELECT username FROM onagui.app_users WHERE id = %s", [first]) == [("ann_01934567",)]
    assert app.sql("SELECT username FROM onagui.app_users WHERE id = %s", [second]) == [("ann_" + second.hex,)]
    assert log(app) == []


def test_no_email(app):
    phone = app.auth.signup(phone="4912345")
    guest = app.auth.signup(anonymous=True)
    assert app.sql("SELECT id, email, username FROM onagui.app_users ORDER BY created_at") == [(phone, None, None), (guest, None, None)]
    # The guest becomes permanent.
    app.auth.change_email(guest, "guest@example.com")
    assert app.sql("SELECT email FROM onagui.app_users WHERE id = %s", [guest]) == [("guest@example.com",)]
    assert log(app) == [("update_email", "done", guest, guest, guest, "guest@example.com")]


def test_no_email_where_the_column_wants_one(app):
    app.sql("ALTER TABLE onagui.app_users ALTER COLUMN email SET NOT NULL")
    guest = app.auth.signup(anonymous=True)
    assert users(app) == []
    [entry] = audit(app)
    assert (entry["action"], entry["outcome"], entry["auth_user_id"], entry["email"]) == ("failure", "failed", guest, None)
    assert entry["details"]["error"]["sqlstate"] == "23502"
    assert [w.sqlstate for w in app.warnings] == ["23502"]
    # With an address the row can be made.
    app.auth.change_email(guest, "guest@example.com")
    assert users(app) == [(guest, "guest@example.com")]


@pytest.mark.parametrize(("default", "email"), [("''", ""), ("gen_random_uuid() || '@x.org'", "%@x.org"), ("'none'::text", "none")])
def test_the_columns_default_where_it_wants_an_email(app, default, email):
    app.sql(f"DROP INDEX onagui.app_users_email_key; ALTER TABLE onagui.app_users ALTER email SET NOT NULL, ALTER email SET DEFAULT {default}")
    guest, other = app.auth.signup(anonymous=True), app.auth.signup("ann@example.com")
    assert app.one("SELECT email LIKE %s FROM onagui.app_users WHERE id = %s", [email, guest])
    assert (other, "ann@example.com") in users(app)
    # An UPDATE that concerns nobody keeps it, an address takes its place.
    app.sql("UPDATE auth.users SET email = NULL WHERE id = %s", [guest], role="supabase_auth_admin")
    assert app.one("SELECT email LIKE %s FROM onagui.app_users WHERE id = %s", [email, guest])
    app.auth.change_email(guest, "guest@example.com")
    assert (guest, "guest@example.com") in users(app)
    assert [entry["action"] for entry in audit(app)] == ["update_email"]


def test_a_default_that_a_trigger_does_not_get_to_see(app):
    app.sql("ALTER TABLE onagui.app_users ALTER email SET NOT NULL, ALTER email SET DEFAULT 'none'")
    app.sql("CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.email := coalesce(NEW.email, NEW.id || '@x.org'); RETURN NEW; END $$")
    app.sql("CREATE TRIGGER fill BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.fill()")
    guests = {app.auth.signup(anonymous=True) for _ in range(2)}
    assert {(id, f"{id}@x.org") for id in guests} == set(users(app))


@pytest.mark.parametrize(
    ("default", "index", "rows"),
    [
        ("''", "(email)", 0),
        ("''", "(lower(email))", 0),
        ("'(none)'", "(email)", 0),
        ("''::varchar(255)", "(email)", 0),
        ("''", "(email) WHERE full_name IS NULL", 0),
        ("''", "(email) WHERE email <> ''", 2),
        ("''", "((full_name || email))", 2),
        ("''", "(email, id)", 2),
        ("gen_random_uuid()", "(email)", 2),
    ],
)
@pytest.mark.parametrize("touched", [False, True])
def test_a_default_that_only_one_user_can_have(app, default, index, rows, touched):
    """It is not given to the first who comes: what helps is told of all."""
    app.sql(f"DROP INDEX onagui.app_users_email_key; ALTER TABLE onagui.app_users ALTER email SET NOT NULL, ALTER email SET DEFAULT {default}")
    app.sql(f"CREATE UNIQUE INDEX ON onagui.app_users {index}")
    if touched:
        app.sql("CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$")
        app.sql("CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.touch()")
    for _ in range(2):
        app.auth.signup(anonymous=True)
    found = app.sql("SELECT status FROM onagui.sync_health() WHERE check_name = 'tables'")
    # A BEFORE trigger might have given them one.
    assert (len(users(app)), found) == (rows, [("ok",)] if rows or touched else [("warn",)])


def test_the_email_follows(app):
    id = app.auth.signup("ann@example.com")
    app.auth.change_email(id, "ann@example.org")
    assert users(app) == [(id, "ann@example.org")]
    app.auth.unlink_identity(id, "ann@example.net")
    assert users(app) == [(id, "ann@example.net")]
    assert [entry[0] for entry in log(app)] == ["update_email", "update_email"]


def test_an_email_that_another_row_holds_stays_with_it(app):
    id = app.auth.signup("ann@example.com", id=A)
    insert(app, B, "new@example.com")
    app.auth.change_email(id, "new@example.com")
    assert users(app) == [(A, "ann@example.com"), (B, "new@example.com")]
    assert log(app) == [("conflict", "refused", A, None, None, "new@example.com")]
    assert audit(app)[0]["details"] == {"reason": "another app user holds the new e-mail", "app_users": [str(B)]}


def test_an_email_that_goes_is_not_wiped(app):
    id = app.auth.signup("ann@example.com", id=A)
    app.sql("UPDATE auth.users SET email = NULL WHERE id = %s", [id], role="supabase_auth_admin")
    assert users(app) == [(A, "ann@example.com")]
    assert log(app) == [("conflict", "refused", A, None, None, None)]


def test_a_changed_email_without_a_row_is_a_signup(app):
    app.sql("SET onagui_sync.enabled = off", role="supabase_admin")
    with app.connect("supabase_admin") as off:
        off.execute("SET onagui_sync.enabled = off")
        off.execute("INSERT INTO auth.users (id, email) VALUES (%s, 'ann@example.com')", [A])
    assert users(app) == []
    app.auth.change_email(A, "anna@example.com")
    assert users(app) == [(A, "anna@example.com")]


def test_soft_delete_undelete_and_delete(app):
    id = app.auth.signup("ann@example.com", {"username": "ann"}, id=A)
    app.auth.soft_delete(id)
    assert users(app) == [(A, "ann@example.com")]
    app.sql("UPDATE auth.users SET email = 'x@example.com' WHERE id = %s", [id], role="supabase_auth_admin")
    assert users(app) == [(A, "ann@example.com")]
    app.sql("UPDATE auth.users SET deleted_at = NULL, email = 'back@example.com' WHERE id = %s", [id], role="supabase_auth_admin")
    assert users(app) == [(A, "back@example.com")]
    app.auth.delete(id)
    assert users(app) == [(A, "back@example.com")]
    assert [entry[0] for entry in log(app)] == ["delete", "update_email"]
    assert app.sql("SELECT auth_user_id FROM onagui.sync_known_id", role="supabase_admin") == [(A,)]


def test_a_user_inserted_as_deleted_is_absent(app):
    app.sql("INSERT INTO auth.users (id, email, deleted_at) VALUES (%s, 'ann@example.com', now())", [A], role="supabase_auth_admin")
    assert users(app) == []
    assert log(app) == []


def test_truncate_remembers_everybody(app):
    app.auth.signup("ann@example.com", id=A)
    app.auth.signup("bob@example.com", id=B)
    app.sql("TRUNCATE auth.users CASCADE", role="supabase_auth_admin")
    assert app.sql("SELECT auth_user_id FROM onagui.sync_known_id ORDER BY 1", role="supabase_admin") == [(A,), (B,)]
    assert [(e[0], e[2], e[5]) for e in log(app)] == [("delete", A, "ann@example.com"), ("delete", B, "bob@example.com")]
    assert len(users(app)) == 2


def test_auth_users_without_an_id_cost_nobody_else_theirs(app):
    app.sql("ALTER TABLE auth.users DROP CONSTRAINT users_pkey CASCADE, ALTER id DROP NOT NULL", role="supabase_auth_admin")
    insert_auth = "INSERT INTO auth.users (id, email) VALUES (%s, 'ann@example.com'), (NULL, 'nobody@example.com'), (%s, 'bob@example.com')"
    app.sql(insert_auth, [A, B], role="supabase_auth_admin")
    app.sql("INSERT INTO auth.users (email) VALUES ('none@example.com')", role="supabase_auth_admin")
    app.sql("UPDATE auth.users SET id = NULL WHERE id = %s", [B], role="supabase_auth_admin")
    assert users(app) == [(A, "ann@example.com"), (B, "bob@example.com")]
    failed = [(row["email"], row["details"]["error"]["sqlstate"]) for row in audit(app) if row["action"] == "failure"]
    assert failed == [("nobody@example.com", "23502"), ("none@example.com", "23502"), ("bob@example.com", "23502")]
    app.sql("TRUNCATE auth.users CASCADE", role="supabase_auth_admin")
    assert app.sql("SELECT auth_user_id FROM onagui.sync_known_id ORDER BY 1", role="supabase_admin") == [(A,), (B,)]


def test_a_changed_id_leaves_the_old_one_known(app):
    app.sql("INSERT INTO auth.users (id, email, email_confirmed_at) VALUES (%s, 'ann@example.com', now())", [A], role="supabase_auth_admin")
    app.sql("UPDATE auth.users SET id = %s", [B], role="supabase_auth_admin")
    assert users(app) == [(A, "ann@example.com")]
    assert [(e[0], e[2]) for e in log(app)] == [("delete", A), ("conflict", B)]


def test_a_sign_in_writes_nothing(app):
    id = app.auth.signup("ann@example.com")
    with app.session("supabase_auth_admin").transaction():
        session = app.session("supabase_auth_admin")
        before = session.one("SELECT pg_catalog.sum(n_tup_ins + n_tup_upd) FROM pg_catalog.pg_stat_xact_user_tables WHERE schemaname = 'onagui'")
        session.execute("UPDATE users SET last_sign_in_at = now(), updated_at = now(), raw_user_meta_data = '{}' WHERE id = %s", [id])
        session.execute("UPDATE users SET email = email, email_confirmed_at = email_confirmed_at WHERE id = %s", [id])
        after = session.one("SELECT pg_catalog.sum(n_tup_ins + n_tup_upd) FROM pg_catalog.pg_stat_xact_user_tables WHERE schemaname = 'onagui'")
    assert before == after


def test_metadata_of_other_writers(app):
    app.auth.signup("nothing@example.com", NULL)
    app.auth.signup("array@example.com", ["a"])
    app.auth.signup("text@example.com", "a string")
    app.auth.signup("number@example.com", {"username": 5, "full_name": None})
    assert app.sql("SELECT email, username, full_name, metadata FROM onagui.app_users ORDER BY created_at") == [
        ("nothing@example.com", "nothing", None, {}),
        ("array@example.com", "array", None, ["a"]),
        ("text@example.com", "text", None, "a string"),
        ("number@example.com", "5", None, {"username": 5, "full_name": None}),
    ]
    assert app.warnings == []


UNFIT = {
    "taken": ("ADD CHECK (true)", "ann_aaaaaaaa", []),
    "a check": ("ADD CHECK (length(username) > 3)", None, ["username"]),
    "a domain": ("ALTER username TYPE public.handle", None, ["username"]),
    "too long": ("ALTER username TYPE varchar(2)", "an", []),
    "two": ("ADD CHECK (length(username) > 3), ADD nick text CHECK (nick <> 'ann')", None, ["username", "nick"]),
}


@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("found", ["the id", "the id and the e-mail", "the e-mail"])
def test_what_does_not_fit_keeps_no_other_column_from_being_filled(app, case, found):
    ddl, username, left_out = UNFIT[case]
    app.sql("CREATE DOMAIN public.handle AS text CHECK (length(VALUE) > 3)")
    app.sql(f"ALTER TABLE onagui.app_users {ddl}")
    app.sql("INSERT INTO onagui.sync_column (app_column, source, key) VALUES ('nick', 'user_meta', 'username')")
    if case == "taken":
        app.sql("INSERT INTO onagui.app_users (id, email, username) VALUES (%s, 'bob@example.com', 'ann')", [C])
    insert(app, B if found == "the e-mail" else A, "old@example.com" if found == "the id" else "ann@example.com")
    app.auth.signup("ann@example.com", {"username": "ann", "full_name": "Ann A."}, id=A)
    assert app.sql("SELECT email, username, full_name FROM onagui.app_users WHERE id = %s", [A]) == [("ann@example.com", username, "Ann A.")]
    assert app.warnings == []
    action = {"the id": "update_email", "the e-mail": "link"}.get(found, "signup")
    entries = [entry for entry in audit(app) if entry["action"] != "pending"]
    if left_out or found != "the id and the e-mail":
        [entry] = entries
        assert (entry["action"], entry["outcome"], entry["new_app_user_id"]) == (action, "done", A)
        assert entry["details"].get("left_out", []) == left_out
        assert ("error" in entry["details"]) == bool(left_out)
    else:
        assert entries == []


def test_of_many_rows_each_is_filled_with_what_fits(app):
    app.sql("ALTER TABLE onagui.app_users ADD CHECK (username NOT LIKE '%3')")
    ids = [uuid.uuid4() for _ in range(30)]
    for number, id in enumerate(ids):
        insert(app, id, f"u{number}@example.com")
    app.sql(
        """INSERT INTO auth.users (id, email, raw_user_meta_data)
           SELECT id, 'u' || n - 1 || '@example.com', '{"full_name": "U"}' FROM unnest(%s::uuid[]) WITH ORDINALITY AS x(id, n)""",
        [ids],
        role="supabase_auth_admin",
    )
    assert app.one("SELECT count(*) FROM onagui.app_users WHERE full_name = 'U'") == 30
    assert app.sql("SELECT email FROM onagui.app_users WHERE username IS NULL ORDER BY 1") == [(f"u{n}@example.com",) for n in (13, 23, 3)]
    assert [(entry["action"], entry["details"]["left_out"]) for entry in audit(app)] == 3 * [("signup", ["username"])]
    assert app.warnings == []


def test_columns_that_belong_together_are_filled_together(app):
    app.sql("ALTER TABLE onagui.app_users ADD nick text, ADD CHECK (num_nulls(nick, full_name) <> 1), ADD CHECK (username <> 'ann')")
    app.sql("INSERT INTO onagui.sync_column (app_column, source, key) VALUES ('nick', 'user_meta', 'username')")
    insert(app, A, "a@example.com")
    app.auth.signup("a@example.com", {"username": "ann", "full_name": "Ann A."}, id=A)
    assert users(app, "username, nick, full_name") == [(None, "ann", "Ann A.")]
