"""Merges among tables as applications have them: whose the row is that one which comes over collides with."""

import uuid

import pytest
from repairs import ADMIN, auth_user, content, fix_one, undo

A, B, C, D = (uuid.UUID(int=n) for n in (0xA, 0xB, 0xC, 0xD))
IDS = {name: f"'{id}'" for name, id in zip("ABCD", (A, B, C, D))}

TENANTS = """
    CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text, tenant text NOT NULL, UNIQUE (tenant, id));
    INSERT INTO onagui.app_users VALUES ({A}, 'ann@example.com', 't2'), ({B}, 'Ann@example.com', 't1'), ({C}, 'cyn@example.com', 't2'),
        ({D}, 'dan@example.com', 't1');"""
USERS = """
    CREATE TABLE onagui.app_users (id uuid PRIMARY KEY, email text);
    INSERT INTO onagui.app_users VALUES ({A}, 'ann@example.com'), ({B}, 'Ann@example.com'), ({C}, 'cyn@example.com'), ({D}, 'dan@example.com');"""

#: The second project of each is somebody else's; nothing of theirs may give way, or take anything over.
OF_OTHERS = {
    "a tenant that has an owner": TENANTS
    + """
    CREATE TABLE tenants (id text PRIMARY KEY, owner_id uuid REFERENCES onagui.app_users);
    INSERT INTO tenants VALUES ('t1'), ('t2');
    ALTER TABLE onagui.app_users ADD FOREIGN KEY (tenant) REFERENCES tenants;
    CREATE TABLE projects (id int PRIMARY KEY, tenant text NOT NULL, owner uuid, slug text NOT NULL, UNIQUE (tenant, slug),
        FOREIGN KEY (tenant, owner) REFERENCES onagui.app_users (tenant, id));
    INSERT INTO projects VALUES (1, 't1', {B}, 'home'), (2, 't2', {C}, 'home');""",
    "an organisation by way of its staff": USERS
    + """
    CREATE TABLE orgs (id int PRIMARY KEY, owner_id uuid REFERENCES onagui.app_users);
    INSERT INTO orgs VALUES (1, NULL), (2, NULL);
    CREATE TABLE staff (org int NOT NULL REFERENCES orgs, u uuid NOT NULL UNIQUE REFERENCES onagui.app_users, PRIMARY KEY (org, u));
    INSERT INTO staff VALUES (1, {A}), (1, {C}), (2, {B});
    CREATE TABLE projects (id int PRIMARY KEY, org int NOT NULL, lead uuid, slug text, UNIQUE (org, slug),
        FOREIGN KEY (org, lead) REFERENCES staff);
    INSERT INTO projects VALUES (1, 2, {B}, 'website'), (2, 1, {C}, 'website');""",
    "one that the user reviews": USERS
    + """
    CREATE TABLE staff (org int NOT NULL, u uuid NOT NULL UNIQUE REFERENCES onagui.app_users, PRIMARY KEY (org, u));
    INSERT INTO staff VALUES (1, {A}), (1, {C}), (2, {B});
    CREATE TABLE projects (id int PRIMARY KEY, org int NOT NULL, lead uuid, reviewer uuid, slug text, UNIQUE (org, slug),
        FOREIGN KEY (org, lead) REFERENCES staff, FOREIGN KEY (org, reviewer) REFERENCES staff);
    INSERT INTO projects VALUES (1, 2, {B}, {B}, 'website'), (2, 1, {C}, {A}, 'website');""",
    "one of the same category": TENANTS
    + """
    CREATE TABLE categories (tenant text, name text, created_by uuid, PRIMARY KEY (tenant, name),
        FOREIGN KEY (tenant, created_by) REFERENCES onagui.app_users (tenant, id));
    INSERT INTO categories VALUES ('t1', 'work', {B}), ('t2', 'work', {A});
    CREATE TABLE projects (id int PRIMARY KEY, tenant text, category text, slug text, lead uuid REFERENCES onagui.app_users,
        UNIQUE (tenant, slug), FOREIGN KEY (tenant, category) REFERENCES categories);
    INSERT INTO projects VALUES (1, 't1', 'work', 'home', {B}), (2, 't2', 'work', 'home', {C});""",
    "users in the predicate alone": USERS
    + """
    CREATE TABLE projects (id int PRIMARY KEY, host uuid REFERENCES onagui.app_users, guest uuid REFERENCES onagui.app_users, room int, at int);
    CREATE UNIQUE INDEX projects_blocked ON projects (room, at) WHERE guest = host;
    INSERT INTO projects VALUES (1, {A}, {B}, 1, 9), (2, {C}, {C}, 1, 9);""",
    "users in the bounds of a partition alone": USERS
    + """
    CREATE TABLE projects (id int, user_id uuid REFERENCES onagui.app_users, slug text) PARTITION BY LIST (user_id);
    CREATE TABLE projects_of_b PARTITION OF projects FOR VALUES IN ({B});
    CREATE TABLE projects_rest PARTITION OF projects DEFAULT;
    CREATE UNIQUE INDEX ON projects_rest (slug);
    INSERT INTO projects VALUES (1, {B}, 'home'), (2, {C}, 'home');""",
}

OWN = "FOREIGN KEY (tenant, {0}) REFERENCES onagui.app_users (tenant, id)"
OF_OTHERS |= {
    "users in what the index includes": TENANTS
    + f"""
    CREATE TABLE projects (id int PRIMARY KEY, tenant text NOT NULL, number int, requester uuid, agent uuid REFERENCES onagui.app_users, {OWN.format("requester")});
    CREATE UNIQUE INDEX projects_number ON projects (tenant, number) INCLUDE (agent);
    INSERT INTO projects VALUES (1, 't1', 7, {{B}}, {{B}}), (2, 't2', 7, {{C}}, {{A}});""",
    "users assigned to them": TENANTS
    + f"""
    CREATE TABLE projects (id int PRIMARY KEY, tenant text NOT NULL, number int, requester uuid REFERENCES onagui.app_users, assignee uuid,
        UNIQUE (tenant, number), {OWN.format("assignee")});
    INSERT INTO projects VALUES (1, 't1', 7, {{D}}, {{B}}), (2, 't2', 7, {{C}}, {{A}});""",
    "whoever was invited by them": TENANTS
    + f"""
    CREATE TABLE projects (tenant text, member uuid REFERENCES onagui.app_users, invited_by uuid, id int UNIQUE, PRIMARY KEY (tenant, member),
        {OWN.format("invited_by")});
    INSERT INTO projects VALUES ('t1', {{C}}, {{B}}, 1), ('t2', {{C}}, {{A}}, 2);""",
}

FILES = """
    CREATE TABLE files (project int, name text);
    INSERT INTO files VALUES (1, 'of ann'), (2, 'of somebody else');"""

#: Of the rows of `kept`, by what is asked for, some stay.
THEIRS = {
    "tasks of one project, by the tenant": (
        USERS
        + """
    CREATE TABLE projects (tenant text, id int, owner uuid REFERENCES onagui.app_users, slug text, PRIMARY KEY (tenant, id), UNIQUE (owner, slug));
    CREATE TABLE tasks (tenant text, project int, no int, PRIMARY KEY (tenant, project, no), FOREIGN KEY (tenant, project) REFERENCES projects);
    CREATE TABLE kept (id int, tenant text, project int, no int, name text, UNIQUE (tenant, project, name),
        FOREIGN KEY (tenant, project, no) REFERENCES tasks);
    INSERT INTO projects VALUES ('t1', 1, {A}, 'todo'), ('t1', 2, {B}, 'todo');
    INSERT INTO tasks VALUES ('t1', 1, 1), ('t1', 2, 2);
    INSERT INTO kept VALUES (1, 't1', 1, 1, 'logo.png'), (2, 't1', 2, 2, 'logo.png'), (3, 't1', 2, 2, 'other.png');""",
        {"keep_auth": [1, 3], "keep_app": [2, 3]},
    ),
    "devices of one membership": (
        USERS
        + """
    CREATE TABLE mem (org int, id int, u uuid REFERENCES onagui.app_users, PRIMARY KEY (org, id), UNIQUE (org, u));
    CREATE TABLE seats (org int, mem int, plan text, PRIMARY KEY (org, mem, plan), FOREIGN KEY (org, mem) REFERENCES mem);
    CREATE TABLE kept (id int, org int, mem int, plan text, dev text, UNIQUE (org, mem, dev), FOREIGN KEY (org, mem, plan) REFERENCES seats);
    INSERT INTO mem VALUES (1, 1, {A}), (1, 2, {B});
    INSERT INTO seats VALUES (1, 1, 'pro'), (1, 2, 'free');
    INSERT INTO kept VALUES (1, 1, 1, 'pro', 'phone'), (2, 1, 2, 'free', 'phone');""",
        {"keep_auth": [1], "keep_app": [2]},
    ),
    "their own documents in the tenant": (
        TENANTS
        + """
    CREATE TABLE folders (tenant text, id int, owner uuid, PRIMARY KEY (tenant, id), FOREIGN KEY (tenant, owner) REFERENCES onagui.app_users (tenant, id));
    CREATE TABLE kept (id int, tenant text, folder int, owner uuid, slug text, UNIQUE (tenant, slug),
        FOREIGN KEY (tenant, folder) REFERENCES folders, FOREIGN KEY (tenant, owner) REFERENCES onagui.app_users (tenant, id));
    INSERT INTO folders VALUES ('t1', 1, {B}), ('t2', 2, {A});
    INSERT INTO kept VALUES (1, 't2', 2, {A}, 'home'), (2, 't1', 1, {B}, 'home');""",
        {"keep_auth": [1], "keep_app": [2]},
    ),
    "a chat of two, in either order": (
        USERS
        + """
    CREATE TABLE kept (id int, one uuid REFERENCES onagui.app_users, two uuid REFERENCES onagui.app_users);
    CREATE UNIQUE INDEX ON kept (least(one, two), greatest(one, two));
    INSERT INTO kept VALUES (1, {C}, {A}), (2, {B}, {C}), (3, {B}, {D});""",
        {"keep_auth": [1, 3], "keep_app": [2, 3]},
    ),
    "cards of one number on a board that is theirs, whoever wrote them": (
        USERS
        + """
    CREATE TABLE boards (id int PRIMARY KEY, owner uuid REFERENCES onagui.app_users, name text, UNIQUE (owner, name));
    CREATE TABLE kept (id int, board int REFERENCES boards, num int, author uuid REFERENCES onagui.app_users, UNIQUE (board, num));
    INSERT INTO boards VALUES (1, {A}, 'Home'), (2, {B}, 'Home');
    INSERT INTO kept VALUES (1, 1, 1, {D}), (2, 2, 1, {C}), (3, 2, 2, {C});""",
        {"keep_auth": [1, 3], "keep_app": [2, 3]},
    ),
}


THEIRS |= {
    "the auth user's own row, ranked as it was": (
        USERS
        + """
    CREATE TABLE kept (id int PRIMARY KEY, owner uuid REFERENCES onagui.app_users, name text, updated_by uuid REFERENCES onagui.app_users,
        UNIQUE (owner, name) INCLUDE (updated_by));
    INSERT INTO kept VALUES (2, {B}, 'h', {B}), (1, {A}, 'h', {B});""",
        {"keep_auth": [1], "keep_app": [2]},
    ),
    "tasks of one number in projects of one number": (
        TENANTS
        + f"""
    CREATE TABLE projects (tenant text, no int, owner uuid, PRIMARY KEY (tenant, no), {OWN.format("owner")});
    CREATE TABLE kept (id int, tenant text, project int, no int, PRIMARY KEY (tenant, project, no), FOREIGN KEY (tenant, project) REFERENCES projects);
    INSERT INTO projects VALUES ('t1', 1, {{B}}), ('t2', 1, {{A}});
    INSERT INTO kept VALUES (2, 't1', 1, 1), (1, 't2', 1, 1), (3, 't1', 1, 2);""",
        {"keep_auth": [1, 3], "keep_app": [2, 3]},
    ),
    "folders in folders": (
        TENANTS
        + f"""
    CREATE TABLE kept (tenant text, id int, parent int, name text, owner uuid, PRIMARY KEY (tenant, id), UNIQUE (tenant, parent, name),
        FOREIGN KEY (tenant, parent) REFERENCES kept, {OWN.format("owner")});
    INSERT INTO kept VALUES ('t1', 1, NULL, 'root', {{B}}), ('t2', 1, NULL, 'root', {{A}}), ('t1', 2, 1, 'sub', NULL), ('t2', 3, 1, 'sub', NULL),
        ('t1', 4, 1, 'other', NULL);""",
        {"keep_auth": [1, 3, 4], "keep_app": [1, 2, 4]},
    ),
    "boards that are the user's already": (
        TENANTS
        + f"""
    CREATE TABLE kept (id int PRIMARY KEY, tenant text NOT NULL, owner uuid REFERENCES onagui.app_users, created_by uuid, UNIQUE (tenant, owner),
        {OWN.format("created_by")});
    INSERT INTO kept VALUES (2, 't1', {{A}}, {{B}}), (1, 't2', {{A}}, NULL);""",
        {"keep_auth": [1], "keep_app": [2]},
    ),
    "projects that they lead, or review as well": (
        TENANTS
        + f"""
    CREATE TABLE kept (id int, tenant text, lead uuid, reviewer uuid, slug text, UNIQUE (tenant, slug), {OWN.format("lead")}, {OWN.format("reviewer")});
    INSERT INTO kept VALUES (2, 't1', {{B}}, {{B}}, 'home'), (1, 't2', {{A}}, NULL, 'home');""",
        {"keep_auth": [1], "keep_app": [2]},
    ),
    "projects by way of a membership": (
        USERS
        + """
    CREATE TABLE staff (org int, u uuid NOT NULL UNIQUE REFERENCES onagui.app_users, PRIMARY KEY (org, u));
    CREATE TABLE kept (id int PRIMARY KEY, org int, lead uuid, slug text, UNIQUE (org, slug), FOREIGN KEY (org, lead) REFERENCES staff);
    INSERT INTO staff VALUES (1, {A}), (2, {B}), (1, {C});
    INSERT INTO kept VALUES (2, 2, {B}, 'website'), (1, 1, {A}, 'website');""",
        {"keep_auth": [1], "keep_app": [2]},
    ),
}


def install(db, schema):
    db.install(app_users=False)
    db.sql(schema.format(**IDS))
    for email, id in ("ann@example.com", A), ("cyn@example.com", C), ("dan@example.com", D):
        if db.one("SELECT count(*) FROM onagui.app_users WHERE id = %s", [id]):
            auth_user(db, email, id)
    tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace IN ('public'::regnamespace) ORDER BY 1"
    return ["onagui.app_users", *(name for (name,) in db.sql(tables, role=ADMIN))]


@pytest.mark.parametrize("policy", ["error", "keep_auth", "keep_app"])
@pytest.mark.parametrize("schema", OF_OTHERS)
def test_what_is_somebody_elses_stays_as_it_is(db, schema, policy):
    if (schema, policy) == ("an organisation by way of its staff", "keep_app"):
        pytest.skip("the staff of the other organisation stays, and nothing collides")
    tables = install(db, OF_OTHERS[schema] + FILES)
    if "PARTITION" not in OF_OTHERS[schema]:
        db.sql("ALTER TABLE files ADD FOREIGN KEY (project) REFERENCES projects (id)")
    before = content(db, *tables)
    for apply in False, True:
        row = fix_one(db, "ann@example.com", apply, policy)
        error = row["details"]["error"]
        assert row["outcome"] == "refused" and error["sqlstate"] in ("23505", "23503"), row
        if policy != "keep_auth" and ("staff" in OF_OTHERS[schema] or policy == "error" and "categories" in OF_OTHERS[schema]):
            continue  # It does not come to that: other rows of theirs collide, or the project's lead is not of the other staff.
        assert error["message"] == "the users cannot be merged: rows would collide with others that are not theirs"
        assert error["detail"].startswith("1 row in public.projects (projects_")
    assert content(db, *tables) == before


@pytest.mark.parametrize("policy", ["keep_auth", "keep_app"])
@pytest.mark.parametrize("schema", THEIRS)
def test_of_what_is_theirs_one_stays(db, schema, policy):
    sql, kept = THEIRS[schema]
    tables = install(db, sql)
    before = content(db, *tables)
    planned = fix_one(db, "ann@example.com", False, policy)
    row = fix_one(db, "ann@example.com", True, policy)
    assert (planned["outcome"], row["outcome"], row["details"]) == ("planned", "done", planned["details"]), row
    assert [id for (id,) in db.sql("SELECT id FROM kept ORDER BY 1")] == kept[policy]
    undo(db, row["audit_id"])
    assert content(db, *tables) == before


@pytest.mark.parametrize("policy", ["error", "keep_auth"])
def test_only_what_cannot_be_settled_is_named(db, policy):
    install(db, OF_OTHERS["a tenant that has an owner"])
    db.sql("CREATE TABLE roles (u uuid REFERENCES onagui.app_users, role text, UNIQUE (u, role))")
    for id in A, B:
        db.sql("INSERT INTO roles VALUES (%s, 'admin')", [id])
    row = fix_one(db, "ann@example.com", False, policy)
    assert row["details"]["error"]["detail"] == "1 row in public.projects (projects_tenant_slug_key): (id)=(1) with (id)=(2)."
    assert [conflict["table"] for conflict in row["details"]["conflicts"]] == ["public.projects", "public.roles"]


def test_what_gives_way_to_their_own_row_meets_nobody_elses(db):
    tables = install(
        db,
        TENANTS
        + f"""
        CREATE TABLE profiles (owner uuid PRIMARY KEY, tenant text NOT NULL, handle text, UNIQUE (tenant, handle), {OWN.format("owner")});
        INSERT INTO profiles VALUES ({{B}}, 't1', 'ann'), ({{A}}, 't2', 'ann2'), ({{C}}, 't2', 'ann');""",
    )
    before = content(db, *tables)
    row = fix_one(db, "ann@example.com", False, "keep_app")
    assert row["outcome"] == "refused" and row["details"]["error"]["detail"].startswith("1 row in public.profiles (profiles_tenant_handle_key): (owner)=(")
    planned = fix_one(db, "ann@example.com", False, "keep_auth")
    row = fix_one(db, "ann@example.com", True, "keep_auth")
    assert (planned["outcome"], row["outcome"], row["details"]) == ("planned", "done", planned["details"])
    assert row["details"]["conflicts"] == [{"table": "public.profiles", "constraint": "profiles_pkey", "rows": 1}]
    assert db.sql("SELECT owner, handle FROM profiles ORDER BY 1") == [(A, "ann2"), (C, "ann")]
    undo(db, row["audit_id"])
    assert content(db, *tables) == before
