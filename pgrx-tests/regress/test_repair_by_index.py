"""A repair of a few looks their rows up by index, however small the tables are, or were when the session came to know them."""

import pytest
from repairs import ADMIN, duplicate, fix_one, mismatched, undo


@pytest.fixture
def db(db):
    db.install()
    return db


def whole_reads(db, table):
    """How often a table has been read from end to end, by the sessions of the test."""
    for role in ADMIN, "postgres":
        db.sql("SELECT pg_stat_force_next_flush()", role=role)
    return db.one("SELECT seq_scan FROM pg_stat_user_tables WHERE relid = %s::regclass", [table], role=ADMIN)


def posts(db, per_user):
    db.sql(
        """CREATE TABLE public.posts (id int PRIMARY KEY, user_id uuid NOT NULL REFERENCES onagui.app_users, slot int, UNIQUE (user_id, slot));
           CREATE INDEX ON public.posts (user_id)"""
    )
    db.sql("INSERT INTO posts SELECT row_number() OVER (), u.id, n FROM onagui.app_users u, generate_series(1, %s) n", [per_user])
    db.sql("VACUUM ANALYZE public.posts", role=ADMIN)


@pytest.mark.parametrize("make", [mismatched, duplicate])
def test_what_refers_to_one_of_a_thousand_users(db, make):
    db.sql("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), 'x' || n || '@example.com' FROM generate_series(1, 1000) n")
    make(db, "ann@example.com")
    posts(db, 3)
    before = whole_reads(db, "public.posts")
    # The duplicate's own row has as many.
    moved = 3
    assert fix_one(db, "ann@example.com", apply=False, policy="keep_auth")["rows_changed"] == moved
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done"
    undo(db, row["audit_id"])
    assert whole_reads(db, "public.posts") == before


def test_the_log_of_a_session_that_began_when_it_was_empty(db):
    """VACUUM says that there is nothing in it: to read nothing is cheaper than any index."""
    db.sql("VACUUM ANALYZE onagui.sync_audit_log", role=ADMIN)
    before = whole_reads(db, "onagui.sync_audit_log")
    for n in range(5):
        mismatched(db, f"u{n}@example.com")
        db.sql("SELECT onagui.fix_user_ids(NULL, true)", role=ADMIN)
    assert whole_reads(db, "onagui.sync_audit_log") == before
