"""Scenarios that tools of this kind get wrong: what refers to a user, and what a foreign key does when it is touched."""

import uuid

import pytest
from repairs import ADMIN, app_user, auth_user, content, duplicate, fix, fix_one, mismatched, new_id, undo
from support import expect_error


@pytest.fixture
def db(db):
    return db.install()


def test_same_relation_name_in_two_schemas(db):
    for schema in "public", "shop":
        db.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE {schema}.orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users)", role=ADMIN)
    app, auth = mismatched(db, "ann@example.com")
    db.sql("INSERT INTO public.orders VALUES (1, %(u)s); INSERT INTO shop.orders VALUES (1, %(u)s), (2, %(u)s)".replace("%(u)s", f"'{app}'"), role=ADMIN)
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "done" and row["rows_changed"] == 3
    assert {r["table"]: r["rows"] for r in row["details"]["references"]} == {"public.orders": 1, "shop.orders": 2}
    for schema in "public", "shop":
        assert db.one(f"SELECT bool_and(user_id = '{auth}') FROM {schema}.orders", role=ADMIN)


def test_every_column_of_a_composite_key(db):
    """Only the first column of a key looked at: the user's id is the second one here."""
    db.sql(
        """CREATE TABLE teams (tenant int, user_id uuid REFERENCES onagui.app_users, PRIMARY KEY (tenant, user_id));
           CREATE TABLE seats (seat int PRIMARY KEY, tenant int, member uuid, FOREIGN KEY (tenant, member) REFERENCES teams)"""
    )
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO teams VALUES (1, '{app}'), (2, '{app}'); INSERT INTO seats VALUES (1, 1, '{app}'), (2, 2, '{app}'), (3, 2, NULL), (4, NULL, '{app}')")
    plan = fix_one(db, "ann@example.com", apply=False)
    row = fix_one(db, "ann@example.com")
    assert plan["rows_changed"] == row["rows_changed"] == 4
    assert db.sql("SELECT seat, member FROM seats ORDER BY 1") == [(1, auth), (2, auth), (3, None), (4, app)]


def test_three_column_key_with_one_collision(db):
    db.sql(
        """CREATE TABLE votes (poll int, user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE, choice text, weight int,
                               PRIMARY KEY (poll, user_id, choice))"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO votes SELECT g, '{app}', 'yes', g FROM generate_series(1, 100) g")
    db.sql(f"INSERT INTO votes SELECT g, '{auth}', CASE g WHEN 50 THEN 'yes' ELSE 'no' END, -g FROM generate_series(1, 100) g")
    before = content(db, "votes", "onagui.app_users")
    plan = fix_one(db, "ann@example.com", apply=False)
    assert (plan["action"], plan["outcome"]) == ("merge", "refused")
    assert plan["details"]["conflicts"] == [{"table": "public.votes", "constraint": "votes_pkey", "rows": 1}]
    error = plan["details"]["error"]
    assert error["sqlstate"] == "23505" and "votes_pkey" in error["detail"] and "'keep_auth' or 'keep_app'" in error["hint"]
    assert "onagui.fix_user_ids(ARRAY['...'], p_apply => true, p_on_conflict => 'keep_auth');" in error["hint"]
    assert plan["rows_changed"] == 100
    row = fix_one(db, "ann@example.com", policy="keep_auth")
    assert row["outcome"] == "done" and row["rows_changed"] == 100
    assert db.one("SELECT count(*) FROM votes") == 199
    assert db.one("SELECT weight FROM votes WHERE poll = 50 AND choice = 'yes'") == -50
    undo(db, row["audit_id"])
    assert content(db, "votes", "onagui.app_users") == before
    row = fix_one(db, "ann@example.com", policy="keep_app")
    assert db.one("SELECT weight FROM votes WHERE poll = 50 AND choice = 'yes'") == 50
    assert db.one("SELECT count(*) FROM votes") == 199
    undo(db, row["audit_id"])
    assert content(db, "votes", "onagui.app_users") == before


def test_unique_index_that_is_no_constraint(db):
    db.sql(
        """CREATE TABLE profiles (id serial, user_id uuid REFERENCES onagui.app_users, slug text);
           CREATE UNIQUE INDEX one_profile ON profiles (user_id) WHERE slug IS NOT NULL;
           CREATE UNIQUE INDEX folded ON profiles (lower(slug), user_id)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO profiles (user_id, slug) VALUES ('{app}', 'A'), ('{app}', NULL), ('{auth}', 'a'), ('{auth}', NULL)")
    plan = fix_one(db, "ann@example.com", apply=False)
    assert {c["constraint"] for c in plan["details"]["conflicts"]} == {"one_profile", "folded"}
    row = fix_one(db, "ann@example.com", policy="keep_app")
    assert row["outcome"] == "done"
    assert db.sql("SELECT slug FROM profiles ORDER BY 1") == [("A",), (None,), (None,)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"])
def test_children_are_not_taken_along_when_the_old_user_goes(db, action):
    db.sql(
        f"""CREATE TABLE notes (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users ON DELETE {action} ON UPDATE {action});
            CREATE TABLE tags (note_id int REFERENCES notes ON DELETE {action} ON UPDATE {action}, tag text)"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO notes VALUES (1, '{app}'), (2, '{auth}'); INSERT INTO tags VALUES (1, 'x'), (1, 'y'), (2, 'z')")
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "done", row
    assert db.sql("SELECT id, user_id FROM notes ORDER BY 1") == [(1, auth), (2, auth)]
    assert db.one("SELECT count(*) FROM tags") == 3


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT", "NO ACTION"])
@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
def test_children_of_a_row_that_gives_way_come_to_the_row_that_stays(db, action, policy):
    """The row that stays gets the very key of the row that goes, and a foreign key would act on what refers to that."""
    db.sql(
        f"""CREATE TABLE members (club int, user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE, since int, PRIMARY KEY (club, user_id));
            CREATE TABLE fees (id int PRIMARY KEY, club int, payer uuid,
                               FOREIGN KEY (club, payer) REFERENCES members ON DELETE {action} ON UPDATE {action})"""
    )
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO members VALUES (1, '{app}', 2001), (1, '{auth}', 2020), (2, '{app}', 2002)")
    db.sql(f"INSERT INTO fees VALUES (1, 1, '{app}'), (2, 1, '{auth}'), (3, 2, '{app}')")
    before = content(db, "members", "fees", "onagui.app_users")
    row = fix_one(db, "ann@example.com", policy=policy)
    assert row["outcome"] == "done", row
    assert db.sql("SELECT id, club, payer FROM fees ORDER BY 1") == [(1, 1, auth), (2, 1, auth), (3, 2, auth)]
    assert db.sql("SELECT club, since FROM members ORDER BY 1") == [(1, 2020 if policy == "keep_auth" else 2001), (2, 2002)]
    after = content(db, "members", "fees", "onagui.app_users")
    undo(db, row["audit_id"])
    assert content(db, "members", "fees", "onagui.app_users") == before
    by = db.one("SELECT undone_by FROM onagui.sync_audit_log WHERE audit_id = %s", [row["audit_id"]], role=ADMIN)
    undo(db, by)
    assert content(db, "members", "fees", "onagui.app_users") == after


def test_soft_reference_by_text(db):
    db.sql("CREATE TABLE files (path text, owner text, \"Editor\" uuid, folder varchar(60))")
    for column in "owner", "Editor", "folder":
        assert db.one("SELECT onagui.register_reference('files', %s)", [column], role=ADMIN).startswith("OK: ")
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO files VALUES ('a', '{app}', '{app}', 'x'), ('b', upper('{app}'), NULL, '{app}'), ('c', 'of {app}', '{auth}', '{new_id()}')")
    before = content(db, "files")
    plan, row = fix_one(db, "ann@example.com", apply=False), fix_one(db, "ann@example.com")
    assert plan["rows_changed"] == row["rows_changed"] == 2
    assert db.sql("SELECT path, owner, \"Editor\" FROM files ORDER BY 1") == [
        ("a", str(auth), auth), ("b", str(auth).upper(), None), ("c", f"of {app}", auth)]
    undo(db, row["audit_id"])
    assert content(db, "files") == before


def test_username_is_a_key_as_well(db):
    """Children that refer to another unique key of the leaving user move too."""
    db.sql("ALTER TABLE onagui.app_users ADD UNIQUE (username); CREATE TABLE posts (id int, author text REFERENCES onagui.app_users (username))")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"UPDATE onagui.app_users SET username = CASE id WHEN '{app}' THEN 'old' ELSE 'new' END")
    db.sql("INSERT INTO posts VALUES (1, 'old'), (2, 'new')")
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "done" and row["rows_changed"] == 1
    assert db.sql("SELECT author FROM posts") == [("new",), ("new",)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT"])
def test_key_that_would_change_hands_is_refused(db, action):
    db.sql(f"ALTER TABLE onagui.app_users ADD UNIQUE (username); CREATE TABLE posts (id int, author text REFERENCES onagui.app_users (username) ON DELETE {action})")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"UPDATE onagui.app_users SET username = 'old' WHERE id = '{app}'; UPDATE onagui.app_users SET username = NULL WHERE id = '{auth}'")
    db.sql("INSERT INTO posts VALUES (1, 'old')")
    before = content(db, "posts", "onagui.app_users")
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply)
        assert row["outcome"] == "refused", row
        assert row["details"]["error"]["sqlstate"] == "23503" and row["details"]["error"]["hint"]
        assert "posts" in row["details"]["error"]["detail"]
    assert content(db, "posts", "onagui.app_users") == before


def test_field_that_only_the_leaving_user_has_is_taken_over(db):
    db.sql("ALTER TABLE onagui.app_users ADD phone text, ADD referrer uuid REFERENCES onagui.app_users, ADD score int DEFAULT 0")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"UPDATE onagui.app_users SET phone = '+1', full_name = 'Ann B', referrer = id, score = 7 WHERE id = '{app}'")
    db.sql(f"UPDATE onagui.app_users SET full_name = 'Ann A', phone = NULL WHERE id = '{auth}'")
    assert fix_one(db, "ann@example.com")["outcome"] == "done"
    assert db.sql("SELECT id, phone, full_name, referrer, score FROM onagui.app_users") == [(auth, "+1", "Ann A", auth, 0)]


def test_row_security_hides_nothing(db):
    db.sql(
        """CREATE TABLE secrets (id int, user_id uuid REFERENCES onagui.app_users);
           ALTER TABLE secrets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
           CREATE POLICY mine ON secrets USING (false);
           ALTER TABLE onagui.app_users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
           CREATE POLICY mine ON onagui.app_users USING (false)"""
    )
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO secrets VALUES (1, '{app}')", role=ADMIN)
    assert fix_one(db, "ann@example.com")["rows_changed"] == 1
    assert db.one("SELECT user_id FROM secrets", role=ADMIN) == auth


def test_triggers_run_as_their_tables_owner(db):
    db.sql("DO $$ BEGIN CREATE ROLE shopkeeper; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$", role=ADMIN)
    db.sql(
        """CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users, seen_by text, path text);
           CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
               $$BEGIN NEW.seen_by = current_user; NEW.path = current_setting('search_path'); RETURN NEW; END$$;
           CREATE TRIGGER note BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note();
           CREATE TABLE trail (who text);
           GRANT INSERT ON trail TO shopkeeper;
           CREATE FUNCTION after_note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.trail VALUES (current_user); RETURN NULL; END$$;
           CREATE TRIGGER after_note AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION after_note();
           ALTER TABLE orders OWNER TO shopkeeper""",
        role=ADMIN,
    )
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES (1, '{app}')", role=ADMIN)
    assert fix_one(db, "ann@example.com")["outcome"] == "done"
    assert db.one("SELECT seen_by FROM orders", role=ADMIN) == "shopkeeper"
    assert db.sql("SELECT who FROM trail", role=ADMIN) == [("shopkeeper",)]


@pytest.mark.parametrize("table", ["orders", "onagui.app_users"])
@pytest.mark.parametrize("merge", [False, True])
def test_trigger_that_holds_a_row_back_stops_the_fix(db, table, merge):
    db.sql(
        f"""CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users);
            CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
            CREATE TRIGGER no BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION no()"""
    )
    app, auth = (duplicate if merge else mismatched)(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES (1, '{app}')")
    before = content(db, "orders", "onagui.app_users")
    row = fix_one(db, "ann@example.com")
    assert row["outcome"] == "failed" and row["details"]["error"]["sqlstate"] in ("55000", "23503"), row
    assert row["details"]["error"]["hint"] or row["details"]["error"]["sqlstate"] == "23503"
    assert content(db, "orders", "onagui.app_users") == before


def test_constraint_that_is_deferred_fails_inside(db):
    """And costs only the user it is about."""
    db.sql(
        """CREATE TABLE badges (id int, user_id uuid REFERENCES onagui.app_users DEFERRABLE INITIALLY DEFERRED, kind text,
                                UNIQUE (user_id, kind) DEFERRABLE INITIALLY DEFERRED);
           CREATE FUNCTION check_later() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN IF NEW.kind = 'bad' THEN RAISE EXCEPTION 'bad badge' USING ERRCODE = 'P0077'; END IF; RETURN NULL; END$$;
           CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON badges DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_later()"""
    )
    ann, bob, cat = (mismatched(db, f"{name}@example.com") for name in ("ann", "bob", "cat"))
    session = db.session(ADMIN)
    session.execute("SET session_replication_role = replica")
    session.execute(f"INSERT INTO badges VALUES (1, '{ann[0]}', 'bad'), (2, '{bob[0]}', 'x'), (3, '{cat[0]}', 'y'), (4, '{cat[1]}', 'y')")
    session.execute("RESET session_replication_role")
    rows = {row["email"][:3]: row for row in fix(db, None)}
    assert rows["ann"]["outcome"] == "failed" and rows["ann"]["details"]["error"]["sqlstate"] == "P0077"
    assert rows["bob"]["outcome"] == "done"
    assert rows["cat"]["outcome"] == "refused" and rows["cat"]["details"]["error"]["sqlstate"] == "23505"
    assert rows["cat"]["details"]["conflicts"] == [{"table": "public.badges", "constraint": "badges_user_id_kind_key", "rows": 1}]


def test_rekey_that_meets_rows_with_the_new_id_is_refused(db):
    db.sql("CREATE TABLE wallets (user_id uuid PRIMARY KEY); SELECT 1")
    db.one("SELECT onagui.register_reference('wallets', 'user_id')", role=ADMIN)
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO wallets VALUES ('{app}'), ('{auth}')")
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply)
        assert row["outcome"] == "refused", row
        assert row["details"]["conflicts"] == [{"table": "public.wallets", "constraint": "wallets_pkey", "rows": 1}]
        assert row["details"]["error"]["sqlstate"] == "23505" and row["new_app_user_id"] == app


def test_exclusion_constraint(db):
    db.require("btree_gist")
    db.sql("CREATE TABLE stays (id int, user_id uuid REFERENCES onagui.app_users, days int4range, EXCLUDE USING gist (user_id WITH =, days WITH &&))")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO stays VALUES (1, '{app}', '[1,5)'), (2, '{app}', '[10,12)'), (3, '{auth}', '[2,3)'), (4, '{auth}', '[4,6)')")
    plan = fix_one(db, "ann@example.com", apply=False)
    assert plan["details"]["conflicts"] == [{"table": "public.stays", "constraint": "stays_user_id_days_excl", "rows": 1}]
    assert fix_one(db, "ann@example.com", policy="keep_app")["outcome"] == "done"
    assert db.sql("SELECT id FROM stays ORDER BY 1") == [(1,), (2,)]


def test_partitioned_by_the_users_id(db):
    db.sql("CREATE TABLE events (user_id uuid REFERENCES onagui.app_users, n int) PARTITION BY HASH (user_id)")
    for i in range(4):
        db.sql(f"CREATE TABLE events_{i} PARTITION OF events FOR VALUES WITH (MODULUS 4, REMAINDER {i})")
    users = [mismatched(db, f"u{i}@example.com") for i in range(8)]
    for app, _ in users:
        db.sql(f"INSERT INTO events SELECT '{app}', g FROM generate_series(1, 5) g")
    before = content(db, "events")
    rows = fix(db, None)
    assert [row["rows_changed"] for row in rows] == [5] * 8 and {row["outcome"] for row in rows} == {"done"}
    assert db.one("SELECT count(DISTINCT user_id) FROM events JOIN auth.users ON users.id = user_id", role=ADMIN) == 8
    for row in rows:
        undo(db, row["audit_id"])
    assert content(db, "events") == before


LOW, HIGH = uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)


def test_a_row_that_comes_under_the_key_of_another_partition(db):
    """A foreign key that stands on one partition, and a row that comes to lie there because its user moves."""
    db.sql(
        f"""CREATE TABLE colours (name text PRIMARY KEY);
           CREATE TABLE boxes (id int, user_id uuid REFERENCES onagui.app_users, colour text) PARTITION BY RANGE (user_id);
           CREATE TABLE boxes_low PARTITION OF boxes FOR VALUES FROM (MINVALUE) TO ('{uuid.UUID(int=2**127)}');
           CREATE TABLE boxes_high PARTITION OF boxes DEFAULT;
           ALTER TABLE boxes_high ADD CONSTRAINT a_colour FOREIGN KEY (colour) REFERENCES colours;
           INSERT INTO colours VALUES ('red')"""
    )
    app_user(db, "ann@example.com", LOW)
    auth_user(db, "ann@example.com", HIGH)
    db.sql(f"INSERT INTO boxes VALUES (1, '{LOW}', 'red'), (2, '{LOW}', NULL), (3, '{LOW}', 'mauve')")
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply=apply)
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("refused", "23503"), row
        assert "a_colour" in row["details"]["error"]["detail"], row
    db.sql("UPDATE boxes SET colour = 'red' WHERE id = 3")
    before = content(db, "boxes")
    assert fix_one(db, "ann@example.com", apply=False)["rows_changed"] == 3
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 3), row
    undo(db, row["audit_id"])
    assert content(db, "boxes") == before


def test_a_row_that_leaves_the_key_of_a_partition(db):
    """There it need not refer to anybody; nor where it has never been under the key."""
    db.sql(
        f"""CREATE UNIQUE INDEX ON onagui.app_users (id, username);
           CREATE TABLE boxes (id int, user_id uuid REFERENCES onagui.app_users, name text) PARTITION BY RANGE (user_id);
           CREATE TABLE boxes_low PARTITION OF boxes FOR VALUES FROM (MINVALUE) TO ('{uuid.UUID(int=2**127)}');
           CREATE TABLE boxes_high PARTITION OF boxes DEFAULT;
           ALTER TABLE boxes_high ADD FOREIGN KEY (user_id, name) REFERENCES onagui.app_users (id, username)""",
        role=ADMIN,
    )
    app_user(db, "ann@example.com", LOW, username="ann")
    auth_user(db, "ann@example.com", uuid.UUID(int=2))
    db.sql(f"INSERT INTO boxes VALUES (1, '{LOW}', 'nobody')", role=ADMIN)
    assert fix_one(db, "ann@example.com", apply=False)["outcome"] == "planned"
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    app_user(db, "bob@example.com", HIGH, username="bob")
    auth_user(db, "bob@example.com", uuid.UUID(int=3))
    db.sql(f"INSERT INTO boxes VALUES (2, '{HIGH}', 'bob')", role=ADMIN)
    assert fix_one(db, "bob@example.com", apply=False)["outcome"] == "planned"
    row = fix_one(db, "bob@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 1), row
    undo(db, row["audit_id"])
    assert db.sql("SELECT tableoid::regclass::text FROM boxes ORDER BY id", role=ADMIN) == [("boxes_low",), ("boxes_high",)]


def test_a_row_that_refers_to_one_that_moves_in_one_partition_only(db):
    """Its user moves in any case, that of the row it refers to does where a foreign key says so."""
    db.sql(
        """CREATE TABLE boxes (user_id uuid, n int, UNIQUE (user_id, n)) PARTITION BY LIST (n);
           CREATE TABLE boxes_one PARTITION OF boxes FOR VALUES IN (1);
           CREATE TABLE boxes_two PARTITION OF boxes FOR VALUES IN (2);
           ALTER TABLE boxes_one ADD FOREIGN KEY (user_id) REFERENCES onagui.app_users;
           CREATE TABLE labels (id int, user_id uuid REFERENCES onagui.app_users, n int, FOREIGN KEY (user_id, n) REFERENCES boxes (user_id, n))"""
    )
    app, _ = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO boxes VALUES ('{app}', 1), ('{app}', 2); INSERT INTO labels VALUES (1, '{app}', 1)")
    assert fix_one(db, "ann@example.com", apply=False)["rows_changed"] == 2
    db.sql(f"INSERT INTO labels VALUES (2, '{app}', 2)")
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply=apply)
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("refused", "23503"), row
    db.sql("DELETE FROM labels WHERE id = 2")
    assert fix_one(db, "ann@example.com")["rows_changed"] == 2


def test_a_row_that_comes_back_under_the_key_of_a_partition(db):
    """What it referred to there has followed the user to and fro."""
    db.sql(
        f"""CREATE TABLE teams (user_id uuid PRIMARY KEY REFERENCES onagui.app_users);
           CREATE TABLE boxes (user_id uuid REFERENCES onagui.app_users, team uuid) PARTITION BY RANGE (user_id);
           CREATE TABLE boxes_low PARTITION OF boxes FOR VALUES FROM (MINVALUE) TO ('{uuid.UUID(int=2**127)}');
           CREATE TABLE boxes_high PARTITION OF boxes DEFAULT;
           ALTER TABLE boxes_high ADD FOREIGN KEY (team) REFERENCES teams"""
    )
    app_user(db, "ann@example.com", HIGH)
    auth_user(db, "ann@example.com", LOW)
    db.sql(f"INSERT INTO teams VALUES ('{HIGH}'); INSERT INTO boxes VALUES ('{HIGH}', '{HIGH}')")
    before = content(db, "boxes", "teams")
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["rows_changed"]) == ("done", 2), row
    assert db.sql("SELECT * FROM boxes_low") == [(LOW, LOW)]
    undo(db, row["audit_id"])
    assert content(db, "boxes", "teams") == before


def test_other_owners_table_behind_a_foreign_key(db):
    """The owner of a table need not be able to read what it refers to."""
    db.sql("DO $$ BEGIN CREATE ROLE shopkeeper; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$", role=ADMIN)
    db.sql(
        """CREATE TABLE carts (n int, user_id uuid REFERENCES onagui.app_users, PRIMARY KEY (n, user_id));
           CREATE TABLE items (id int, n int, buyer uuid, FOREIGN KEY (n, buyer) REFERENCES carts);
           ALTER TABLE items OWNER TO shopkeeper""",
        role=ADMIN,
    )
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO carts VALUES (1, '{app}'); INSERT INTO items VALUES (1, 1, '{app}'), (2, NULL, '{app}')", role=ADMIN)
    assert fix_one(db, "ann@example.com", apply=False)["rows_changed"] == 2
    assert fix_one(db, "ann@example.com")["rows_changed"] == 2
    assert db.sql("SELECT buyer FROM items ORDER BY id", role=ADMIN) == [(auth,), (app,)]


def test_app_users_partitioned(db):
    db.sql("DROP TABLE onagui.app_users; CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text) PARTITION BY HASH (id)")
    for i in range(3):
        db.sql(f"CREATE TABLE public.app_users_{i} PARTITION OF onagui.app_users FOR VALUES WITH (MODULUS 3, REMAINDER {i})")
    db.sql("CREATE TABLE orders (user_id uuid REFERENCES onagui.app_users)")
    users = [mismatched(db, f"u{i}@example.com") for i in range(6)]
    for app, _ in users:
        db.sql(f"INSERT INTO orders VALUES ('{app}')")
    ann = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES ('{ann[0]}')")
    before = content(db, "orders", "onagui.app_users")
    rows = fix(db, None)
    assert {(row["outcome"], row["rows_changed"]) for row in rows} == {("done", 1)}
    for row in rows:
        undo(db, row["audit_id"])
    assert content(db, "orders", "onagui.app_users") == before


def test_children_that_came_since_follow_an_undone_rekey(db):
    db.sql("CREATE TABLE orders (id int, user_id uuid REFERENCES onagui.app_users)")
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES (1, '{app}')")
    row = fix_one(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES (2, '{auth}')")
    undo(db, row["audit_id"])
    assert db.sql("SELECT id, user_id FROM orders ORDER BY 1") == [(1, app), (2, app)]


def test_children_that_came_since_stay_after_an_undone_merge(db):
    db.sql("CREATE TABLE orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users)")
    app, auth = duplicate(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES (1, '{app}')")
    row = fix_one(db, "ann@example.com")
    db.sql(f"INSERT INTO orders VALUES (2, '{auth}')")
    undo(db, row["audit_id"])
    assert db.sql("SELECT id, user_id FROM orders ORDER BY 1") == [(1, app), (2, auth)]


def test_nothing_is_taken_along_when_a_merge_is_redone(db):
    """What has come to refer to the user who was brought back bars the way."""
    db.sql("CREATE TABLE orders (id int PRIMARY KEY, user_id uuid REFERENCES onagui.app_users ON DELETE CASCADE)")
    app, auth = duplicate(db, "ann@example.com")
    row = fix_one(db, "ann@example.com")
    undo(db, row["audit_id"])
    by = db.one("SELECT undone_by FROM onagui.sync_audit_log WHERE audit_id = %s", [row["audit_id"]], role=ADMIN)
    db.sql(f"INSERT INTO orders VALUES (1, '{app}')")
    with expect_error("55000", detail="1 row refers from public.orders"):
        undo(db, by)
    assert db.one("SELECT count(*) FROM orders") == 1


def test_four_users_of_one_email_are_merged_one_by_one(db):
    _, auth = duplicate(db, "ann@example.com")
    others = [app_user(db, email) for email in ("Ann@example.com", " ann@example.com")]
    rows = fix(db, "ann@example.com")
    assert sorted(row["action"] for row in rows if row["outcome"] == "done") == ["merge"] * 3, (rows, others)
    assert db.sql("SELECT id FROM onagui.app_users") == [(auth,)]


def test_orphans_of_a_key_not_valid_beside_one_that_is(db):
    """The post refers to its user, and to no profile: once its column changes, the server minds."""
    db.sql("CREATE TABLE profiles (user_id uuid PRIMARY KEY REFERENCES onagui.app_users); CREATE TABLE posts (user_id uuid REFERENCES onagui.app_users)")
    app, auth = mismatched(db, "ann@example.com")
    db.sql(f"INSERT INTO posts VALUES ('{app}'); ALTER TABLE posts ADD CONSTRAINT by_profile FOREIGN KEY (user_id) REFERENCES profiles NOT VALID")
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply)
        assert (row["outcome"], row["details"]["error"]["sqlstate"]) == ("refused", "23503")
        assert "by_profile" in row["details"]["error"]["detail"]
    db.sql(f"INSERT INTO profiles VALUES ('{app}')")
    assert fix_one(db, "ann@example.com")["rows_changed"] == 2
    assert db.sql("SELECT user_id FROM posts NATURAL JOIN profiles") == [(auth,)]
