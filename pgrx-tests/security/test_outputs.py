"""SQL, newlines and control characters in everything a person can choose: values stay values, lines stay lines."""

import json
import unicodedata
import uuid

import psycopg
import pytest

NASTY = (
    "x'; DROP TABLE onagui.app_users; --@example.com",
    'x"; SELECT 1; --@example.com',
    "$1@example.com",
    "$$@example.com",
    "a\nERROR:  forged@example.com",
    "a\r\nb\tc@example.com",
    "\x1b[31mred@example.com",
    "%s%I%L@example.com",
    "\\'\\x@example.com",
    "\u202egro.elpmaxe@\u2028x.example.com",
    "ünï😀@example.com",
    "'@example.com",
    "{}{0}@example.com",
)


def plain(text, lines=False):
    """No control character that could forge a line or colour a terminal."""
    return all(unicodedata.category(c) not in ("Cc", "Zl", "Zp") or lines and c == "\n" for c in text or "")


def said(error):
    return [error.diag.message_primary, error.diag.message_detail, error.diag.message_hint]


def nasty_user(db, email, n):
    return db.auth.signup(email, {"username": f"{email}{n}", email: email, "name": email, "'": {"\n": [email]}})


def test_values(db):
    db.install()
    for n, email in enumerate(NASTY):
        id = nasty_user(db, email, n)
        row = db.rows("SELECT * FROM onagui.app_users WHERE id = %s", [id])[0]
        assert (row["email"], row["username"], row["full_name"]) == (email, f"{email}{n}", email)
        assert row["metadata"][email] == email
        body = json.dumps({"userId": str(id), "email": email, "username": email, "metadata": {email: [email]}})
        assert db.one("SELECT onagui.sync_user_registration(%s)", [body])["data"]["user"]["metadata"] == {email: [email]}
    assert db.one("SELECT count(*) FROM onagui.app_users") == len(NASTY)
    assert db.one("SELECT count(*) FROM onagui.sync_audit_log") == 0


@pytest.mark.parametrize("email", NASTY)
def test_functions(db, email):
    db.install()
    db.sql("SELECT onagui.disable_sync()")
    id = nasty_user(db, email, 0)
    db.sql("SELECT onagui.enable_sync()")
    old = uuid.uuid4()
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, %s)", [old, email])
    assert db.sql("SELECT email, sync_status FROM onagui.sync_status(p_email => %s)", [email]) == [(email, "MISMATCHED")]
    for function in ("sync_report()", "fix_user_id_mismatch(%s, false)", "fix_user_id_mismatch(%s)", "undo_fix((SELECT max(audit_id) FROM onagui.sync_audit_log))"):
        if db.one("SELECT to_regproc(%s) IS NOT NULL", ["onagui." + function.partition("(")[0]]):
            text = db.one(f"SELECT onagui.{function}", [email] if "%s" in function else None)
            assert plain(text, lines=function == "sync_report()"), text
    (row,) = db.rows("SELECT * FROM onagui.fix_user_ids(ARRAY[%s], true)", [email])
    assert (row["email"], row["outcome"], row["new_app_user_id"]) == (email, "done", id)
    for query in ("SELECT onagui.fix_user_id_mismatch(%s || 'x')", "SELECT * FROM onagui.sync_status(ARRAY[%s])", "SELECT * FROM onagui.fix_user_ids(p_on_conflict => %s)"):
        with pytest.raises(psycopg.Error) as caught:
            db.sql(query, [email])
        assert caught.value.sqlstate in ("P0002", "22023") and all(plain(part) for part in said(caught.value)), said(caught.value)


def test_errors_of_the_registration_are_one_line_and_short(db):
    db.install()
    id = db.auth.signup("ann@example.com")
    for body in ({"userId": "a\nb" * 1000}, {"userId": str(id), "email": "a\nb"}, {"userId": str(id), "email": "ann@example.com", "username": 1, "\n": 1}):
        with pytest.raises(psycopg.Error) as caught:
            db.sql("SELECT onagui.sync_user_registration(%s)", [json.dumps(body)])
        assert caught.value.sqlstate == "22023"
        assert all(plain(part) and len(part) < 400 for part in said(caught.value)), said(caught.value)


def test_names(db):
    """Tables, columns, schemas and constraints."""
    db.install()
    nasty = "a\"b'; c\n\x1b[31m%s$1"
    quoted = '"' + nasty.replace('"', '""') + '"'
    with db.session("postgres").cursor() as cursor:
        run = lambda text: cursor.execute(text.encode())  # noqa: E731 (no parameters: the % are meant)
        run(f"CREATE SCHEMA {quoted}")
        run(f"CREATE TABLE {quoted}.{quoted} (id int PRIMARY KEY, {quoted} uuid CONSTRAINT {quoted} REFERENCES onagui.app_users, UNIQUE ({quoted}))")
        run(f"CREATE TABLE {quoted}.soft (id int PRIMARY KEY, {quoted} text)")
        run(f"ALTER TABLE onagui.app_users ADD {quoted} text DEFAULT 'x' UNIQUE")
    db.sql("INSERT INTO onagui.sync_column VALUES (%s, 'user_meta', %s)", [nasty, nasty])
    text = db.one("SELECT onagui.register_reference((SELECT oid FROM pg_class WHERE relname = 'soft')::regclass, %s)", [nasty])
    assert text.startswith("OK:") and plain(text), text
    db.sql("SELECT onagui.disable_sync()")
    ann, bob = db.auth.signup("ann@example.com", {nasty: "n"}), db.auth.signup("bob@example.com", {nasty: "m"})
    db.sql("SELECT onagui.enable_sync()")
    old, second = uuid.uuid4(), uuid.uuid4()
    with db.session("postgres").cursor() as cursor:
        cursor.execute("INSERT INTO onagui.app_users (id, email, " + quoted.replace("%", "%%") + ") VALUES (%s, 'ann@example.com', 'a')", [old])
        cursor.execute(f"INSERT INTO {quoted}.{quoted} VALUES (1, '{old}')".encode())
        cursor.execute(f"INSERT INTO {quoted}.soft VALUES (1, '{old}')".encode())
    (row,) = db.rows("SELECT * FROM onagui.fix_user_ids(ARRAY['ann@example.com'])")
    assert row["outcome"] == "planned" and len(row["details"]["references"]) == 2
    text = db.one("SELECT onagui.fix_user_id_mismatch('ann@example.com')")
    assert text.startswith("FIXED:") and plain(text)
    assert db.one("SELECT onagui.undo_fix(max(audit_id)) FROM onagui.sync_audit_log").startswith("UNDONE:")
    assert db.one("SELECT onagui.fix_user_id_mismatch('bob@example.com')").startswith("CREATED:")
    eve = db.auth.signup("eve@example.com", {nasty: "v"})
    with db.session("postgres").cursor() as cursor:
        cursor.execute(f"SELECT {quoted} FROM onagui.app_users WHERE id IN ('{eve}', '{bob}') ORDER BY 1".encode())
        assert cursor.fetchall() == [("m",), ("v",)]
    for function in ("sync_report()", "sync_health()"):
        if db.one("SELECT to_regproc(%s) IS NOT NULL", [f"onagui.{function[:-2]}"]):
            for (line,) in db.sql(f"SELECT f::text FROM onagui.{function} f"):
                assert "\x1b" not in line
    with pytest.raises(psycopg.Error) as caught:
        db.sql("SELECT onagui.register_reference('onagui.app_users', %s)", [nasty + "x"])
    assert caught.value.sqlstate == "42703" and all(plain(part) for part in said(caught.value)), said(caught.value)
