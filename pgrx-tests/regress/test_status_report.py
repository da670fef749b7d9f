"""onagui.sync_report(): reads well in a terminal and in a mail, and what it offers can be pasted."""

import re
import uuid

import pytest

from test_status import app, auth, town  # noqa: F401 (town is a fixture)


def report(db):
    text = db.one("SELECT onagui.sync_report()")
    for line in text.split("\n"):
        assert len(line) <= 80, line
        assert line.isprintable() and line == line.rstrip()
    return text


def calls(text, lead="fix"):
    """The statements it offers: from each "fix" (or "else") to the semicolon."""
    return [re.sub(r"\n {10}", "\n", found) for found in re.findall(rf"^    {lead:6}(.*?;)$", text, flags=re.M | re.S)]


def paste(db, call):
    return db.server.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", db.name, "-f", "-", input=call).stdout


def test_everybody_in_step(town):
    id = auth(town, "ada@x.org")
    app(town, "ada@x.org", id)
    text = report(town)
    assert re.search(r"^  SYNCED +1  in step$", text, flags=re.M)
    assert text.endswith("\nEverybody is in step.\n")


def test_each_is_told_with_ids_dates_reason_and_fix(town):
    a, b = auth(town, "ada@x.org"), app(town, "ada@x.org")
    c, d = auth(town, "bob@x.org", confirmed=False), app(town, "bob@x.org")
    e = app(town, "gone@x.org")
    f = auth(town)
    text = report(town)
    assert re.search(
        rf"^MISMATCHED \(1\)$.*^  ada@x\.org$\n    auth  {a}  created 2024-03-01\n    app   {b}  created 2024-04-01\n    why   .*?\n    fix   SELECT",
        text,
        flags=re.M | re.S,
    )
    for id in (a, b, c, d, e, f):
        assert str(id) in text
    assert "(no e-mail)" in text
    assert len(calls(text)) == 2  # nothing is offered for PENDING and MISSING_IN_AUTH


@pytest.mark.parametrize(
    "email",
    [
        "ada@x.org",
        "o'neil@x.org",
        "back\\slash@x.org",
        "bell\x07\x1b[31mred@x.org",
        "two\nlines\t@x.org",
        "\u202egro.x@ada",
        "\u00fcml\u00e4ut@x.org",
        "long" * 55 + "@x.org",
        "quo'te\\long\x01" * 15 + "@x.org",
    ],
)
def test_the_fix_can_be_pasted(town, email):
    a, b = auth(town, email), app(town, email)
    text = report(town)
    assert str(a) in text
    [call] = calls(text)
    output = paste(town, call)
    assert "done" in output, output
    assert town.sql("SELECT id FROM onagui.app_users") == [(a,)]


def address_of_a_deleted_user(town):
    a, b = auth(town, "ada@x.org"), app(town, "ada@x.org")
    town.sql("INSERT INTO onagui.sync_known_id (auth_user_id) VALUES (%s)", [b], role="supabase_admin")
    return a, b


def test_a_decision_can_be_pasted_and_is_rehearsed_first(town):
    """It gives one person's rows to another: nobody is to paste that by mistake."""
    a, b = address_of_a_deleted_user(town)
    [call] = calls(report(town))
    assert "planned" in paste(town, call)
    assert town.sql("SELECT id FROM onagui.app_users") == [(b,)]
    paste(town, call.replace(");", ", p_apply => true);"))
    assert town.sql("SELECT id FROM onagui.app_users") == [(a,)]


@pytest.mark.parametrize("required", [False, True])
def test_the_other_decision_can_be_pasted(town, required):
    """The address is somebody else's now."""
    a, b = address_of_a_deleted_user(town)
    if required:
        town.sql("ALTER TABLE onagui.app_users ALTER COLUMN email SET NOT NULL", role="supabase_admin")
    text = report(town)
    [call] = calls(text, "else")
    paste(town, call)
    [then] = re.findall(r"SELECT \* FROM onagui.fix_user_ids\(ARRAY\['\.\.\.'\], p_apply => true\);", " ".join(text.split()))
    paste(town, then.replace("...", "ada@x.org"))
    assert set(town.sql("SELECT id, email FROM onagui.app_users")) == {(a, "ada@x.org"), (b, f"{b}@former.invalid" if required else None)}


@pytest.mark.parametrize("email", ["ada@x.org", "o'neil@x.org", "long" * 40 + "@x.org"])
def test_a_row_for_one_of_several_auth_users_can_be_pasted(town, email):
    a, b = auth(town, email), auth(town, email, sso=True)
    for id in a, b:
        assert town.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [id]) == 0
    call = next(call for call in calls(report(town), "else") if str(b) in call)
    paste(town, call)
    assert town.sql("SELECT id, email FROM onagui.app_users") == [(b, email)]


def test_many_are_not_all_told(town):
    town.sql("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), 'u' || i || '@x.org' FROM generate_series(1, 100000) i")
    text = report(town)
    assert re.search(r"^MISSING_IN_AUTH \(100,000\)$", text, flags=re.M)
    assert "... and 99,950 more:\n  SELECT * FROM onagui.sync_status(ARRAY['MISSING_IN_AUTH']);\n" in text
    assert len(text) < 20_000


def test_who_can_have_no_row_without_an_email(town):
    """No fix is shown that would refuse."""
    town.sql("DELETE FROM onagui.app_users; ALTER TABLE onagui.app_users ALTER email SET NOT NULL", role="supabase_admin")
    guest = town.auth.signup(anonymous=True)
    shown = " ".join(town.one("SELECT onagui.sync_report()").split())
    remedy = "ALTER TABLE onagui.app_users ALTER COLUMN email DROP NOT NULL;"
    assert f"auth {guest}" in shown and f"fix {remedy} Then fix_user_ids() makes the row." in shown, shown


def test_several_without_an_id(town):
    town.sql(
        """DELETE FROM onagui.app_users; DROP INDEX IF EXISTS onagui.app_users_email_key;
           ALTER TABLE onagui.app_users DROP CONSTRAINT app_users_pkey CASCADE, ALTER id DROP NOT NULL, ADD UNIQUE (id);
           INSERT INTO onagui.app_users (email) VALUES ('zoe@example.com'), ('Zoe@example.com')""",
        role="supabase_admin",
    )
    town.auth.signup("zoe@example.com")
    remedy = "UPDATE onagui.app_users SET id = gen_random_uuid() WHERE id IS NULL;"
    assert " ".join(town.one("SELECT onagui.sync_report()").split()).count(f"fix {remedy}") == 2


def test_what_was_tried_in_vain_is_told(town):
    """A nightly fix fails in the same way each night."""
    town.sql("CREATE TABLE public.roles (user_id uuid REFERENCES onagui.app_users, role text, UNIQUE (user_id, role))")
    own = auth(town, "ada@x.org")
    app(town, "ada@x.org", own)
    town.sql("INSERT INTO public.roles VALUES (%s, 'admin'), (%s, 'admin')", [own, app(town, "Ada@x.org")])
    auth(town, "new@x.org")
    assert "tried" not in report(town)
    town.sql(
        """CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE E'not \x1b today' USING HINT = 'tomorrow'; END $$;
           CREATE TRIGGER refuse BEFORE INSERT ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION public.refuse()"""
    )
    town.sql("CALL onagui.fix_all_user_ids()")
    assert [notice.hint and "sync_report()" in notice.hint for notice in town.notices] == [None, True]
    shown = " ".join(report(town).split())
    assert re.search(r"tried since \d{4}-\d\d-\d\d \d\d:\d\d, the users cannot be merged: both have rows of which only one may exist\. 1 row in public\.roles .*\. Choose whose rows stay: .*'keep_auth'", shown), shown
    assert re.search(r"tried [-\d]+ [\d:]+, not \S+ today\. tomorrow fix", shown), shown
    town.sql("DROP TRIGGER refuse ON onagui.app_users")
    town.sql("CALL onagui.fix_all_user_ids(p_on_conflict => 'keep_auth')")
    town.sql("UPDATE onagui.app_users SET email = 'other@x.org' WHERE email = 'new@x.org'", role="supabase_admin")
    assert "new@x.org" in report(town) and "tried" not in report(town)
