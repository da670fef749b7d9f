"""CALL onagui.fix_all_user_ids(): commits after each batch, can be stopped, and goes on where it stopped."""

import re
import time

import psycopg
import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, log, mismatched, new_id, statuses
from support import expect_error, wait_until


@pytest.fixture
def db(db):
    db.install()
    db.sql("CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY, user_id uuid REFERENCES onagui.app_users)")
    db.sql("CREATE INDEX ON orders (user_id)")
    return db


def many(db, users, orders=2):
    session = db.session(ADMIN)
    with session.transaction():
        session.execute("SET LOCAL onagui_sync.enabled = off")
        session.execute("INSERT INTO onagui.app_users (id, email) SELECT gen_random_uuid(), format('u%%s@example.com', g) FROM generate_series(1, %s) g", [users])
        session.execute(
            """INSERT INTO auth.users (id, email, email_confirmed_at, is_sso_user)
               SELECT gen_random_uuid(), format('u%%s@example.com', g), now(), false FROM generate_series(1, %s) g""",
            [users],
        )
        session.execute("INSERT INTO orders (user_id) SELECT id FROM onagui.app_users, generate_series(1, %s)", [orders])
    db.sql("ANALYZE", role=ADMIN)


def test_all_in_batches_with_progress(db):
    many(db, 25)
    db.sql("CALL onagui.fix_all_user_ids(10)")
    assert statuses(db) == {"SYNCED": 25}
    said = [notice.message for notice in db.notices if "users done" in notice.message]
    assert [text.split(":")[0] for text in said] == ["batch committed"] * 3 + ["finished"]
    assert said[0].startswith("batch committed: 10 users done, 15 left, 0 failed, 20 referring rows moved, ")
    assert said[-1].startswith("finished: 25 users done, 0 left, 0 failed, 50 referring rows moved, ")
    rates = [re.search(r"moved, (\d+) users/s, (\d+) s to go$", text) for text in said]
    assert all(rates) and all(int(rate[1]) > 0 for rate in rates) and rates[-1][2] == "0", said
    assert len(log(db, action="rekey")) == 25
    assert len({entry["occurred_at"] for entry in log(db, action="rekey")}) == 3
    db.sql("CALL onagui.fix_all_user_ids()")
    assert len(log(db)) == 25


def test_wrong_arguments(db):
    for arguments in "0", "-1", "NULL", "10, 'x'", "10, NULL":
        with expect_error("22023"):
            db.sql(f"CALL onagui.fix_all_user_ids({arguments})")


def test_refused_inside_a_transaction(db):
    many(db, 1)
    session = db.connect()
    with expect_error("25001"), session.transaction():
        session.execute("CALL onagui.fix_all_user_ids()")
    with expect_error("25001"):
        session.execute("DO $$ BEGIN PERFORM 1; CALL onagui.fix_all_user_ids(); EXCEPTION WHEN division_by_zero THEN NULL; END $$")
    assert statuses(db) == {"MISMATCHED": 1}


def test_bad_users_do_not_stop_it_and_are_tried_once(db):
    many(db, 12)
    db.sql(
        """CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN IF EXISTS (SELECT FROM onagui.app_users u WHERE u.id = OLD.id AND email ~ 'u[37]@') THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END$$;
           CREATE TRIGGER no BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION no()"""
    )
    db.sql("CALL onagui.fix_all_user_ids(5)")
    assert statuses(db) == {"SYNCED": 10, "MISMATCHED": 2}
    assert len(log(db, action="failure")) == 2
    assert any(notice.message.startswith("finished: 10 users done, 0 left, 2 failed") for notice in db.notices)


def test_stopped_and_called_again(db):
    many(db, 60)
    db.sql(
        """CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END$$;
           CREATE TRIGGER slow BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION slow()"""
    )
    running = db.in_background("CALL onagui.fix_all_user_ids(5)")
    wait_until(lambda: statuses(db).get("SYNCED", 0) >= 10, "two batches are committed")
    started = time.monotonic()
    running.cancel()
    with pytest.raises(psycopg.errors.QueryCanceled):
        running.result()
    assert time.monotonic() - started < 5
    done = statuses(db)["SYNCED"]
    assert 10 <= done < 60 and done % 5 == 0 and len(log(db, action="rekey")) == done
    db.sql("DROP TRIGGER slow ON onagui.app_users")
    db.sql("CALL onagui.fix_all_user_ids(50)")
    assert statuses(db) == {"SYNCED": 60} and len(log(db, action="rekey")) == 60


def leftovers(session):
    """How many cursors are open in the session, and how many temporary files there are."""
    return session.execute("SELECT (SELECT count(*) FROM pg_cursors), (SELECT count(*) FROM pg_ls_tmpdir())").fetchone()


def test_the_list_is_kept_on_disk_and_all_are_counted(db):
    """However many users there are, they are listed once, take no more than work_mem, and are all told of as left."""
    many(db, 3000, orders=1)
    session = db.connect(ADMIN)
    session.execute("SET work_mem = '64kB'")
    session.execute("CALL onagui.fix_all_user_ids(1000)")
    said = [notice.message.split(", ")[1] for notice in session.notices if "users done" in notice.message]
    assert said == ["2000 left", "1000 left", "0 left", "0 left"]
    assert statuses(db) == {"SYNCED": 3000}
    assert leftovers(session) == (0, 0)


def test_nothing_is_left_of_the_list_where_it_is_stopped(db):
    many(db, 3000, orders=1)
    db.sql(
        """CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN RAISE EXCEPTION 'stop' USING ERRCODE = '57014'; END$$;
           CREATE TRIGGER no BEFORE UPDATE ON onagui.app_users FOR EACH ROW WHEN (NEW.email = 'u1450@example.com') EXECUTE FUNCTION no()"""
    )
    session = db.connect(ADMIN)
    session.execute("SET work_mem = '64kB'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        session.execute("CALL onagui.fix_all_user_ids(100)")
    assert leftovers(session) == (0, 0)
    assert statuses(db) == {"SYNCED": 1400, "MISMATCHED": 1600}
    db.sql("DROP TRIGGER no ON onagui.app_users")
    session.execute("CALL onagui.fix_all_user_ids()")
    assert statuses(db) == {"SYNCED": 3000}


def test_whose_email_is_free_again_is_helped_in_the_same_call(db):
    """One takes auth's e-mail over; now another, who has had that of theirs, can get a row."""
    session = db.session(ADMIN)
    with session.transaction():
        session.execute("SET LOCAL onagui_sync.enabled = off")
        session.execute(
            """INSERT INTO auth.users (id, email, email_confirmed_at) VALUES
                   ('00000000-0000-4000-8000-000000000001', 'new@example.com', now()),
                   ('00000000-0000-4000-8000-000000000002', 'old@example.com', now());
               INSERT INTO onagui.app_users (id, email) VALUES ('00000000-0000-4000-8000-000000000001', 'old@example.com')"""
        )
    assert statuses(db) == {"EMAIL_MISMATCH": 1, "CONFLICT": 1}
    db.sql("CALL onagui.fix_all_user_ids()")
    assert statuses(db) == {"SYNCED": 2}


def test_statement_timeout_counts_for_each_batch(db):
    many(db, 12)
    db.sql(
        """CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.25); RETURN NEW; END$$;
           CREATE TRIGGER slow BEFORE UPDATE ON onagui.app_users FOR EACH ROW EXECUTE FUNCTION slow()"""
    )
    session = db.connect()
    session.execute("SET statement_timeout = '2500ms'")
    session.execute("CALL onagui.fix_all_user_ids(3)")
    assert statuses(db) == {"SYNCED": 12}


def test_lock_timeout(db):
    many(db, 2)
    holder = db.connect()
    session = db.connect()
    with holder.transaction():
        holder.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        session.execute("SET lock_timeout = '100ms'")
        try:
            session.execute("CALL onagui.fix_all_user_ids()")
        except psycopg.errors.LockNotAvailable:
            pass
    assert statuses(db) == {"MISMATCHED": 2}
    session.execute("CALL onagui.fix_all_user_ids()")
    assert statuses(db) == {"SYNCED": 2}


def test_backend_memory_stays_flat(db):
    """Ten times the users in ten times the batches need no more memory, and what a call used is given back."""
    session = db.connect(ADMIN)
    db.sql(
        """CREATE TABLE memory (bytes bigint);
           CREATE FUNCTION measure() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN INSERT INTO public.memory SELECT sum(total_bytes) FROM pg_get_backend_memory_contexts(); RETURN NULL; END$$;
           CREATE TRIGGER measure AFTER INSERT ON onagui.sync_audit_log FOR EACH STATEMENT EXECUTE FUNCTION measure()""",
        role=ADMIN,
    )
    many(db, 4000, orders=3)
    session.execute("CALL onagui.fix_all_user_ids(100)")
    assert statuses(db) == {"SYNCED": 4000}
    used = [bytes for (bytes,) in db.sql("SELECT bytes FROM memory", role=ADMIN)]
    assert len(used) == 40
    assert max(used[5:]) - min(used[2:5]) < 1024 * 1024, used


def exchanging(db, wants):
    """Users of whom each has the e-mail that another is to get: wants[i] names who holds what user i is to get, or nobody."""
    ids = [auth_user(db, f"u{i}@example.com") for i in range(len(wants))]
    holds = {holder: i for i, holder in enumerate(wants) if holder is not None}
    for i, id in enumerate(ids):
        app_user(db, f"u{holds[i]}@example.com" if i in holds else f"old{i}@example.com", id)
    return ids


@pytest.mark.parametrize("wants", [[1, 2, 0, None, 3], [None, 0, 1, 2], [1, 2, 3, 4, None]], ids=["ring and chain", "up", "down"])
def test_an_exchange_reaches_beyond_its_batch(db, wants):
    exchanging(db, wants)
    db.sql("CALL onagui.fix_all_user_ids(1)")
    assert statuses(db) == {"SYNCED": len(wants)}
    said = [notice.message for notice in db.notices if "users done" in notice.message]
    assert said[-1].startswith(f"finished: {len(wants)} users done, 0 left, 0 failed"), said
    assert len(log(db, action="update_email")) == len(wants)


def test_an_exchange_reaches_beyond_a_thousand_users(db):
    """Two whose e-mails are swapped, listed in different thousands; each is told of once, in the rehearsal too."""
    ids = sorted(new_id() for _ in range(1202))
    session = db.session(ADMIN)
    with session.transaction():
        session.execute("SET LOCAL onagui_sync.enabled = off")
        session.execute("INSERT INTO auth.users (id, email, email_confirmed_at) SELECT id, 'u' || i || '@example.com', now() FROM unnest(%s) WITH ORDINALITY AS u(id, i)", [ids])
        session.execute(
            "INSERT INTO onagui.app_users (id, email) SELECT id, CASE i WHEN 1 THEN 'u1202' WHEN 1202 THEN 'u1' WHEN 2 THEN 'u1201' ELSE 'old' || i END || '@example.com'"
            "  FROM unnest(%s) WITH ORDINALITY AS u(id, i)", [ids],
        )  # fmt: skip
    plan = fix(db, None, apply=False)
    assert {(row["action"], row["outcome"]) for row in plan} == {("update_email", "planned")} and len(plan) == len(ids)
    rows = fix(db, None)
    assert {(row["action"], row["outcome"]) for row in rows} == {("update_email", "done")} and len(rows) == len(ids)
    assert statuses(db) == {"SYNCED": len(ids)}


def test_who_fails_is_not_brought_forward_again(db):
    db.sql("ALTER TABLE onagui.app_users ADD CHECK (email <> 'u0@example.com')", role=ADMIN)
    exchanging(db, [None, 0, 1])
    for apply in False, True:
        rows = fix(db, None, apply=apply)
        assert [row["outcome"] for row in rows] == ["refused"] * 3, rows
        assert sorted(row["details"]["error"]["sqlstate"] for row in rows) == ["23505", "23505", "23514"], rows
    db.sql("CALL onagui.fix_all_user_ids(1)")
    said = [notice.message for notice in db.notices if "users done" in notice.message]
    assert said[-1].startswith("finished: 0 users done, 0 left, 3 failed"), said


def test_of_users_who_are_named_no_others_are_brought_forward(db):
    """Who waits for somebody who is refused is refused too, and so the rehearsal says."""
    exchanging(db, [1, 2, None])
    before = content(db, "onagui.app_users")
    for apply in False, True:
        rows = fix(db, ["u0@example.com"], apply=apply)
        assert {(row["email"], row["outcome"]) for row in rows} == {("u0@example.com", "refused"), ("u1@example.com", "refused")}
        for row in rows:
            assert row["details"]["conflicts"] == [{"table": "onagui.app_users", "constraint": "app_users_email_key", "rows": 1}], row
            assert row["details"]["error"]["sqlstate"] == "23505"
    assert content(db, "onagui.app_users") == before


def test_a_table_that_fills_meanwhile_is_not_read_from_end_to_end_for_each_user(db):
    """Statements are planned when app_users and the known ids are empty still, and serve until they are not."""
    session = db.connect(ADMIN)
    session.execute("SET onagui_sync.enabled = off")
    session.execute("INSERT INTO auth.users (id, email, email_confirmed_at) SELECT gen_random_uuid(), 'u' || i || '@example.com', now() FROM generate_series(1, 500) i")
    read = "SELECT relname, seq_tup_read FROM pg_stat_xact_all_tables WHERE relname IN ('app_users', 'sync_known_id')"
    with session.transaction():
        assert session.one("SELECT count(*) FROM onagui.fix_user_ids(p_apply => true) WHERE outcome = 'done'") == 500
        assert all(rows <= 1500 for _, rows in session.execute(read).fetchall()), session.execute(read).fetchall()


def test_more_than_an_entry_can_keep_costs_only_that_user(db):
    db.sql("CREATE TABLE files (user_id uuid REFERENCES onagui.app_users, n int, content bytea, PRIMARY KEY (user_id, n))")
    app, auth = duplicate(db, "ann@example.com")
    for id, rows in (app, 130), (auth, 130):
        size = 1 << 20 if id == app else 1
        db.sql(f"INSERT INTO files SELECT '{id}', n, decode(repeat('00', {size}), 'hex') FROM generate_series(1, {rows}) n")
    mismatched(db, "bob@example.com")
    db.sql("CALL onagui.fix_all_user_ids(1000, 'keep_auth')")
    assert statuses(db) == {"SYNCED": 2, "DUPLICATE": 1}
    (entry,) = log(db, action="failure")
    error = entry["details"]["error"]
    assert error["sqlstate"] == "54000" and "MB" in error["detail"] and "p_on_conflict" in error["hint"], error
    db.sql("CALL onagui.fix_all_user_ids(1000, 'keep_app')")
    assert statuses(db) == {"SYNCED": 2}
