"""Rows that move to another partition while somebody waits for them: the server says 40001 there, in READ COMMITTED too."""

import uuid

import pytest
from psycopg.types.json import Jsonb

from support import audit

LOW, HIGH = (uuid.UUID(f"{digit * 8}-0000-4000-8000-000000000001") for digit in "19")
OTHER_LOW = uuid.UUID("22222222-0000-4000-8000-000000000001")
HALVES = """
    CREATE TABLE {0}_low PARTITION OF {0} FOR VALUES FROM (MINVALUE) TO ('80000000-0000-0000-0000-000000000000');
    CREATE TABLE {0}_high PARTITION OF {0} FOR VALUES FROM ('80000000-0000-0000-0000-000000000000') TO (MAXVALUE)"""
CONFIRM = "UPDATE auth.users SET email_confirmed_at = now() WHERE id = %s"


@pytest.fixture
def app(db):
    """Users in two partitions; ann's row is in the upper one."""
    db.install(app_users=False)
    db.sql("CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text) PARTITION BY RANGE (id);" + HALVES.format("onagui.app_users"))
    db.sql("INSERT INTO onagui.app_users VALUES (%s, 'ann@example.com')", [HIGH])
    return db


def begun(db, statement, params, role="postgres"):
    session = db.connect(role)
    session.autocommit = False
    session.execute(statement, params)
    return session


def meanwhile(db, first, statement, params, role="supabase_auth_admin"):
    """Begins a statement while `first` is open, which commits then."""
    second = db.in_background(statement, params, role=role).wait_blocked(by=first)
    first.commit()
    return second.result()


def out_of_step(db, id, email):
    db.sql("SET onagui_sync.enabled = off", role="supabase_admin")
    db.sql("INSERT INTO auth.users (id, email, email_confirmed_at) VALUES (%s, %s, now())", [id, email], role="supabase_admin")
    db.sql("RESET onagui_sync.enabled", role="supabase_admin")


def app_users(db):
    return db.sql("SELECT id, email FROM onagui.app_users ORDER BY id")


def test_two_confirm(app):
    for id in LOW, OTHER_LOW:
        app.auth.signup("ann@example.com", id=id, confirmed=False, sso=True)
    meanwhile(app, begun(app, CONFIRM, [LOW], "supabase_auth_admin"), CONFIRM, [OTHER_LOW])
    assert app_users(app) == [(LOW, "ann@example.com")]
    assert [(entry["action"], entry["auth_user_id"]) for entry in audit(app)][2:] == [("link", LOW), ("conflict", OTHER_LOW)]


def test_an_undo_and_a_changed_email(app):
    app.auth.signup("ann@example.com", id=LOW)
    link = app.one("SELECT audit_id FROM onagui.sync_audit_log WHERE action = 'link'")
    undo = begun(app, "SELECT onagui.undo_fix(%s)", [link])
    meanwhile(app, undo, "UPDATE auth.users SET email = 'anna@example.com' WHERE id = %s", [LOW])
    assert app_users(app) == [(LOW, "anna@example.com"), (HIGH, "ann@example.com")]


def test_a_fix_and_a_registration(app):
    out_of_step(app, LOW, "ann@example.com")
    fix = begun(app, "SELECT outcome FROM onagui.fix_user_ids(ARRAY['ann@example.com'], true)", [])
    body = Jsonb({"userId": str(LOW), "email": "ann@example.com"})
    [(answer,)] = meanwhile(app, fix, "SELECT onagui.sync_user_registration(%s)", [body], "postgres")
    assert answer["data"]["action"] in ("updated", "linked")
    assert app_users(app) == [(LOW, "ann@example.com")]


def test_what_was_done_is_not_recorded_twice(app):
    """Of many who sign up in one statement the last one's row has moved."""
    app.sql("INSERT INTO onagui.app_users SELECT gen_random_uuid(), 'bob@example.com' FROM generate_series(1, 3)")
    move = begun(app, "UPDATE onagui.app_users SET id = %s WHERE id = %s", [OTHER_LOW, HIGH])
    insert = """
        INSERT INTO auth.users (id, email, email_confirmed_at)
        SELECT CASE WHEN i = 9 THEN %s ELSE gen_random_uuid() END, (ARRAY['bob', 'eve', 'ann'])[least(i, 2) + i / 9] || '@example.com', now()
          FROM unnest(ARRAY[1, 2, 9]) i"""
    meanwhile(app, move, insert, [LOW])
    entries = [(entry["action"], entry["email"]) for entry in audit(app)]
    assert sorted(entries) == [("conflict", "bob@example.com"), ("link", "ann@example.com")]


ORDERS = """
    CREATE TABLE public.orders (id int, user_id uuid REFERENCES onagui.app_users) PARTITION BY RANGE (user_id);
    """ + HALVES.format("public.orders")


@pytest.mark.parametrize("by", ["confirmation", "fix"])
def test_what_refers_to_a_user_changes_hands(db, by):
    db.install()
    db.sql(ORDERS)
    db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com'), (%s, 'bob@example.com')", [HIGH, OTHER_LOW])
    db.sql("INSERT INTO public.orders VALUES (1, %(ann)s), (2, %(ann)s)", {"ann": HIGH})
    change = "UPDATE public.orders SET user_id = %s WHERE id = 1"
    if by == "confirmation":
        db.auth.signup("ann@example.com", id=LOW, confirmed=False)
        meanwhile(db, begun(db, change, [OTHER_LOW]), CONFIRM, [LOW])
    else:
        out_of_step(db, LOW, "ann@example.com")
        fix = "SELECT outcome FROM onagui.fix_user_ids(ARRAY['ann@example.com'], true)"
        assert meanwhile(db, begun(db, change, [OTHER_LOW]), fix, [], "postgres") == [("done",)]
    assert db.sql("SELECT * FROM public.orders ORDER BY id") == [(1, OTHER_LOW), (2, LOW)]
    assert app_users(db) == [(LOW, "ann@example.com"), (OTHER_LOW, "bob@example.com")]
