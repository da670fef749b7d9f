"""In a merge rows of the two users may give way to each other; nobody else's do, and nobody else gets anything of theirs."""

import uuid

import pytest
from repairs import ADMIN, auth_user, content, fix, fix_one, undo

OWN, SPARE, THIRD = (uuid.UUID(int=n) for n in (0xA, 0xB, 0xC))


@pytest.fixture
def tenants(db):
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, tenant text NOT NULL, username text, UNIQUE (tenant, id));
           CREATE TABLE public.projects (id int PRIMARY KEY, tenant text NOT NULL, owner uuid, slug text NOT NULL,
               UNIQUE (tenant, slug), FOREIGN KEY (tenant, owner) REFERENCES onagui.app_users (tenant, id));
           CREATE TABLE public.files (project int REFERENCES public.projects, name text)"""
    )
    auth_user(db, "ann@example.com", OWN)
    auth_user(db, "third@example.com", THIRD)
    rows = (OWN, "ann@example.com", "t2"), (SPARE, "Ann@example.com", "t1"), (THIRD, "third@example.com", "t2")
    for row in rows:
        db.sql("INSERT INTO onagui.app_users (id, email, tenant) VALUES (%s, %s, %s)", row)
    return db


TABLES = "onagui.app_users", "public.projects", "public.files"


@pytest.mark.parametrize("policy", ["error", "keep_auth", "keep_app"])
@pytest.mark.parametrize("owner", [THIRD, None], ids=["a third user's", "nobody's"])
def test_a_row_that_is_not_theirs_neither_gives_way_nor_takes_over(tenants, owner, policy):
    tenants.sql("INSERT INTO projects VALUES (1, 't1', %s, 'home'), (2, 't2', %s, 'home')", [SPARE, owner])
    tenants.sql("INSERT INTO files VALUES (1, 'of ann'), (2, 'of somebody else')")
    before = content(tenants, *TABLES)
    for apply in False, True:
        row = fix_one(tenants, "ann@example.com", apply, policy)
        assert row["outcome"] == "refused"
        error = row["details"]["error"]
        assert error["sqlstate"] == "23505"
        assert error["detail"] == "1 row in public.projects (projects_tenant_slug_key): (id)=(1) with (id)=(2)."
        if policy != "error":
            assert error["message"] == "the users cannot be merged: rows would collide with others that are not theirs"
            assert "p_on_conflict" in error["hint"]
    assert content(tenants, *TABLES) == before


def test_of_several_rows_one_is_named(tenants):
    """By its primary key, or by where it lies."""
    tenants.sql("INSERT INTO projects SELECT n, 't1', %s, n FROM unnest(ARRAY[1, 2]) n", [SPARE])
    tenants.sql("INSERT INTO projects SELECT n, 't2', %s, n - 10 FROM unnest(ARRAY[11, 12]) n", [THIRD])
    detail = fix_one(tenants, "ann@example.com", False, "keep_auth")["details"]["error"]["detail"]
    assert detail == "2 rows in public.projects (projects_tenant_slug_key), such as (id)=(1) with (id)=(11)."
    tenants.sql("ALTER TABLE projects DROP CONSTRAINT projects_pkey CASCADE")
    detail = fix_one(tenants, "ann@example.com", False, "keep_auth")["details"]["error"]["detail"]
    assert detail == "2 rows in public.projects (projects_tenant_slug_key), such as (ctid)=((0,1)) with (ctid)=((0,3))."


def test_rows_are_named_shortly_and_with_their_partitions(tenants):
    tenants.sql(
        """DROP TABLE files, projects;
           CREATE TABLE projects (tenant text NOT NULL, owner uuid, slug text NOT NULL, UNIQUE (tenant, slug),
               FOREIGN KEY (tenant, owner) REFERENCES onagui.app_users (tenant, id)) PARTITION BY LIST (tenant);
           CREATE TABLE projects_1 PARTITION OF projects FOR VALUES IN ('t1'); CREATE TABLE projects_2 PARTITION OF projects DEFAULT"""
    )
    tenants.sql("INSERT INTO projects VALUES ('t1', %s, repeat('x', 200)), ('t2', %s, repeat('x', 200))", [SPARE, THIRD])
    told = fix_one(tenants, "ann@example.com", False, "keep_auth")["details"]["error"]["detail"].partition(": ")[2]
    assert told == "public.projects_1: (ctid)=((0,1)) with public.projects_2: (ctid)=((0,1))."
    tenants.sql("ALTER TABLE projects ADD PRIMARY KEY (tenant, slug)")
    told = fix_one(tenants, "ann@example.com", False, "keep_auth")["details"]["error"]["detail"].partition(": ")[2]
    x = "x" * 100 + "..."
    assert f"(tenant, slug)=(t1, {x}) with (tenant, slug)=(t2, {x})" in told and "x" * 101 not in told


@pytest.mark.parametrize("policy, left", [("keep_auth", 2), ("keep_app", 1)])
def test_of_their_own_rows_one_stays(tenants, policy, left):
    tenants.sql("INSERT INTO projects VALUES (1, 't1', %s, 'home'), (2, 't2', %s, 'home'), (3, 't2', %s, 'work')", [SPARE, OWN, THIRD])
    tenants.sql("INSERT INTO files VALUES (1, 'first'), (2, 'second')")
    before = content(tenants, *TABLES)
    planned = fix_one(tenants, "ann@example.com", False, policy)
    row = fix_one(tenants, "ann@example.com", True, policy)
    assert (planned["outcome"], row["outcome"], row["details"]) == ("planned", "done", planned["details"])
    assert tenants.sql("SELECT id, tenant, owner FROM projects ORDER BY id") == sorted([(left, "t2", OWN), (3, "t2", THIRD)])
    assert tenants.sql("SELECT DISTINCT project FROM files") == [(left,)]
    undo(tenants, row["audit_id"])
    assert content(tenants, *TABLES) == before


def test_a_field_that_a_third_user_has(tenants):
    """The username comes over into a tenant where somebody has it."""
    tenants.sql("ALTER TABLE onagui.app_users ADD UNIQUE (tenant, username)")
    tenants.sql("UPDATE onagui.app_users SET username = 'bob' WHERE id <> %s", [OWN])
    row = fix_one(tenants, "ann@example.com", False, "keep_auth")
    assert row["outcome"] == "refused"
    assert row["details"]["error"]["message"] == "the users cannot be merged: rows would collide with others that are not theirs"


def test_a_generated_part_of_a_key_is_given_up_with_what_it_is_made_of(db):
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE public.roles (tenant text, name text, PRIMARY KEY (tenant, name));
           INSERT INTO public.roles VALUES ('t1', 'admin'), ('t2', 'admin');
           CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, tenant text, role text,
               role_key text GENERATED ALWAYS AS (lower(role)) STORED, FOREIGN KEY (tenant, role_key) REFERENCES public.roles)"""
    )
    auth_user(db, "ann@example.com", OWN)
    db.sql("INSERT INTO onagui.app_users VALUES (%s, 'ann@example.com', 't2', NULL), (%s, 'Ann@example.com', 't1', 'Admin')", [OWN, SPARE], role=ADMIN)
    row = fix_one(db, "ann@example.com")
    assert (row["outcome"], row["details"].get("taken_over"), row["details"]["given_up"]) == ("done", None, ["tenant", "role"])
    assert db.sql("SELECT tenant, role FROM onagui.app_users") == [("t2", None)]


@pytest.fixture
def pages(db):
    """The page of the user who goes has a slug, the one that stays has none."""
    db.install(app_users=False)
    db.sql(
        """CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, username text, featured text);
           CREATE TABLE public.pages (user_id uuid UNIQUE REFERENCES onagui.app_users, slug text UNIQUE);
           ALTER TABLE onagui.app_users ADD FOREIGN KEY (featured) REFERENCES public.pages (slug)"""
    )
    auth_user(db, "ann@example.com", OWN)
    for id in OWN, SPARE:
        db.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [id])
    db.sql("INSERT INTO pages VALUES (%s, NULL), (%s, 'ann')", [OWN, SPARE])
    db.sql("UPDATE onagui.app_users SET featured = 'ann' WHERE id = %s", [SPARE])
    return db


def test_a_field_that_refers_to_what_gives_way_to_a_row_without_that_key(pages):
    before = content(pages, "onagui.app_users", "public.pages")
    planned = fix_one(pages, "ann@example.com", False, "keep_auth")
    row = fix_one(pages, "ann@example.com", True, "keep_auth")
    assert (planned["outcome"], row["outcome"], row["details"]) == ("planned", "done", planned["details"])
    assert row["details"]["given_up"] == ["featured"]
    assert "taken_over" not in row["details"]
    assert pages.sql("SELECT user_id, slug FROM pages") == [(OWN, None)]
    assert pages.sql("SELECT id, featured FROM onagui.app_users") == [(OWN, None)]
    undo(pages, row["audit_id"])
    assert content(pages, "onagui.app_users", "public.pages") == before


def test_it_is_taken_over_where_the_other_row_stays(pages):
    row = fix_one(pages, "ann@example.com", True, "keep_app")
    assert (row["outcome"], row["details"]["taken_over"]) == ("done", ["featured"])
    assert pages.sql("SELECT id, featured FROM onagui.app_users") == [(OWN, "ann")]


@pytest.mark.parametrize("apply", [False, True])
def test_anothers_row_that_refers_to_it_is_named(pages, apply):
    pages.sql("INSERT INTO onagui.app_users (id, email, featured) VALUES (%s, 'third@example.com', 'ann')", [THIRD])
    row = fix_one(pages, "ann@example.com", apply, "keep_auth")
    assert row["outcome"] == "refused"
    error = row["details"]["error"]
    assert error["sqlstate"] == "23505"
    assert error["message"] == "the users cannot be merged: rows refer to a key that the row which stays does not have"
    assert error["detail"] == "Rows of onagui.app_users refer by (featured) to a key that is NULL in the row of public.pages that stays."
    assert error["hint"].startswith("Give that row of public.pages a key, ")


@pytest.mark.parametrize("apply", [False, True])
def test_the_second_of_two_who_are_merged_leaves_such_a_field_too(pages, apply):
    pages.sql("INSERT INTO onagui.app_users (id, email) VALUES (%s, 'ann@example.com')", [THIRD])
    pages.sql("INSERT INTO pages VALUES (%s, 'ann too')", [THIRD])
    pages.sql("UPDATE onagui.app_users SET featured = 'ann too' WHERE id = %s", [THIRD])
    rows = [row for row in fix(pages, "ann@example.com", apply, "keep_auth") if row["action"] != "none"]
    assert [row["outcome"] for row in rows] == ["done" if apply else "planned"] * 2
    assert [row["details"]["given_up"] for row in rows] == [["featured"]] * 2
