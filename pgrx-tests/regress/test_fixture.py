"""The ground itself: the roles and rights of the fixture, and that the Auth server's statements do what they say."""

import uuid

import psycopg
import pytest
import support


def test_postgres_is_no_superuser_and_may_do_what_supabase_lets_it(db):
    assert db.sql("SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = current_user") == [(False, True, True, True)]
    assert db.one("SELECT has_table_privilege('auth.users', 'TRIGGER')")
    assert db.one("SELECT has_database_privilege(current_database(), 'CREATE')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.sql("CREATE TABLE auth.mine ()")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.sql("ALTER TABLE auth.users DISABLE TRIGGER ALL")


def test_auth_server_works_in_its_own_schema(db):
    assert db.one("SHOW search_path", role="supabase_auth_admin") == "auth"


def test_autoconfirmed_signup(db):
    user = db.auth.signup("ann@example.com", {"username": "ann"})
    row = db.rows("SELECT * FROM auth.users")[0]
    assert row["id"] == user
    assert row["role"] == "authenticated"
    assert row["confirmed_at"] == row["email_confirmed_at"] is not None
    assert row["raw_user_meta_data"] == {"username": "ann", "email_verified": True}
    assert row["last_sign_in_at"] is not None
    for table in ("identities", "sessions", "refresh_tokens", "audit_log_entries"):
        assert db.one(f"SELECT count(*) FROM auth.{table}") == 1, table


def test_signup_that_awaits_a_mail(db):
    user = db.auth.signup("bob@example.com", confirmed=False)
    assert db.sql("SELECT email_confirmed_at, last_sign_in_at FROM auth.users") == [(None, None)]
    assert db.one("SELECT count(*) FROM auth.one_time_tokens") == 1
    db.auth.confirm(user)
    assert db.one("SELECT email_confirmed_at IS NOT NULL FROM auth.users")
    assert db.one("SELECT count(*) FROM auth.one_time_tokens") == 0


def test_other_kinds_of_users(db):
    phone = db.auth.signup(phone="4912345")
    assert db.sql("SELECT email, phone, phone_confirmed_at IS NOT NULL FROM auth.users WHERE id = %s", [phone]) == [(None, "4912345", True)]
    guest = db.auth.signup(anonymous=True)
    assert db.sql("SELECT email, is_anonymous FROM auth.users WHERE id = %s", [guest]) == [(None, True)]
    db.auth.change_email(guest, "guest@example.com")
    assert db.sql("SELECT email, is_anonymous FROM auth.users WHERE id = %s", [guest]) == [("guest@example.com", False)]
    db.auth.signup("same@example.com", sso=True)
    db.auth.signup("same@example.com", sso=True)
    assert db.one("SELECT count(*) FROM auth.users WHERE email = 'same@example.com'") == 2
    nothing = db.auth.signup("nothing@example.com", meta=support.NULL)
    assert db.one("SELECT raw_user_meta_data FROM auth.users WHERE id = %s", [nothing]) is None


def test_email_changes_and_deletes(db):
    user = db.auth.signup("cid@example.com")
    db.auth.change_email(user, "cid@example.org")
    db.auth.unlink_identity(user, "cid@example.net")
    assert db.sql("SELECT email, email_confirmed_at FROM auth.users") == [("cid@example.net", None)]
    db.auth.soft_delete(user)
    assert db.one("SELECT deleted_at IS NOT NULL AND email <> 'cid@example.net' FROM auth.users")
    db.auth.delete(user)
    assert db.one("SELECT count(*) FROM auth.users") == 0


def test_claims_of_a_request(db):
    user = uuid.uuid4()
    with db.connect("authenticator").acting_as("authenticated", sub=user) as request:
        assert request.execute("SELECT auth.uid(), auth.role(), current_user").fetchone() == (user, "authenticated", "authenticated")


def test_two_sessions(db):
    db.sql("CREATE TABLE public.t (id int PRIMARY KEY)")
    first = db.connect()
    with first.transaction():
        first.execute("INSERT INTO public.t VALUES (1)")
        second = db.in_background("INSERT INTO public.t VALUES (1) RETURNING id").wait_blocked(by=first)
        assert second.running
    with support.expect_error("23505", detail="Key .id.=.1.", hint=False):
        second.result()


def test_notices_are_kept(db):
    db.sql("DO $$ BEGIN RAISE WARNING 'look' USING HINT = 'there', ERRCODE = '01P01'; END $$")
    assert db.warnings == [("WARNING", "01P01", "look", None, "there", "PL/pgSQL function inline_code_block line 1 at RAISE")]
