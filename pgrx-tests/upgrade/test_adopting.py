"""An application that has a table of users, and the usual trigger that fills it: README's chapter on installing, to the letter."""

import uuid

import pytest

from readme import block
from repairs import ADMIN, app_user, content, duplicate, fix, mismatched, statuses

OLD = """
CREATE TABLE public.users (user_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text UNIQUE, plan text NOT NULL DEFAULT 'free');
ALTER TABLE public.users ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON public.users TO authenticated USING (user_id = auth.uid());
GRANT SELECT ON public.users TO authenticated;
CREATE TABLE public.posts (id int PRIMARY KEY, author uuid REFERENCES public.users);
CREATE FUNCTION public.handle_new_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS
    $$BEGIN INSERT INTO public.users (user_id, email) VALUES (NEW.id, NEW.email); RETURN NEW; END$$;
"""
TRIGGER = "CREATE TRIGGER on_auth_user_created AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.handle_new_user()"


def psql(db, text):
    return db.server.program("psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-d", db.name, "-U", "postgres", "-f", "-", input=text).stdout


@pytest.mark.parametrize("first", ["the extension", "the table"])
def test_a_table_that_is_there_already(db, first):
    db.sql(OLD)
    db.sql(TRIGGER, role=ADMIN)
    legacy = uuid.uuid4()
    db.sql("INSERT INTO public.users VALUES (%s, 'ann@example.com', 'pro')", [legacy])
    db.sql("INSERT INTO public.posts VALUES (1, %s)", [legacy])
    new = db.auth.signup("zoe@example.com")
    if first == "the extension":
        db.sql("CREATE EXTENSION onagui_sync")
    recipe = block("The table public.users becomes onagui.app_users", "Install")
    if first == "the table":
        recipe = recipe.replace("SELECT * FROM onagui.sync_health();", "CREATE EXTENSION onagui_sync; SELECT * FROM onagui.sync_health();")
    told = psql(db, recipe)
    failed = [line for line in told.splitlines() if line.split("|")[1] == "fail"]
    assert failed == [], told
    psql(db, block("What asks for public.users goes on finding it", "Install"))
    ann = db.auth.signup("ann@example.com")
    bob = db.auth.signup("bob@example.com")
    assert sorted(db.sql("SELECT id, plan FROM onagui.app_users")) == sorted([(ann, "pro"), (bob, "free"), (new, "free")])
    assert db.sql("SELECT author FROM posts") == [(ann,)]
    assert statuses(db) == {"SYNCED": 3}
    # What still asks for it under the old name finds it, each their own row.
    session = db.session(ADMIN)
    with session.acting_as("authenticated", sub=bob):
        assert session.execute("SELECT user_id FROM public.users WHERE id = user_id").fetchall() == [(bob,)]


def test_taking_back_a_night(db):
    db.install()
    for name in "abc":
        mismatched(db, f"{name}@example.com")
    duplicate(db, "d@example.com")
    app_user(db, "linked@example.com")
    linked = db.auth.signup("linked@example.com")
    db.auth.change_email(linked, "linked2@example.com")
    before = content(db, "onagui.app_users")
    assert {row["outcome"] for row in fix(db, None)} == {"done"}
    assert content(db, "onagui.app_users") != before
    told = psql(db, block("Take back the last twelve hours, in psql", "Repair"))
    assert told.count("UNDONE: ") == 4
    assert content(db, "onagui.app_users") == before
    assert psql(db, block("Take back the last twelve hours, in psql", "Repair")) == ""
