"""Random bodies, mappings and metadata: nothing gives XX000, a panic or a crash, and a sign-up always succeeds.

Briefly here; ONAGUI_SYNC_FUZZ_SECONDS=600 for longer. The seed is printed with a failure.
"""

import json
import os
import random
import time
import uuid

import psycopg

SECONDS = float(os.environ.get("ONAGUI_SYNC_FUZZ_SECONDS", "6"))
SEED = int(os.environ.get("ONAGUI_SYNC_FUZZ_SEED", str(random.randrange(1 << 32))))

TABLE = """
    CREATE TYPE public.mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN public.short AS varchar(5) CHECK (VALUE <> 'bad');
    CREATE TABLE onagui.app_users (
        id uuid PRIMARY KEY, email text, username varchar(12) UNIQUE, full_name char(6), metadata jsonb,
        i int, b boolean, d date, t timestamptz, u uuid, j json, l text[], v varchar(5), n numeric(5, 2), m public.mood, s public.short,
        x inet, y interval, z bytea, name name, "odd "" name" text, g text GENERATED ALWAYS AS (email || '!') STORED);
"""
COLUMNS = ["username", "full_name", "metadata", *"ibdtujlvnmsxyz", "name", 'odd " name', "g", "nothing"]
SOURCES = ["raw_user_meta_data", "raw_app_meta_data", "email", "phone", "created_at", "id", "is_anonymous", "nothing", "instance_id", "email_confirmed_at"]
KEYS = ["username", "full_name", "name", "a", "b", "c", "", "'", '"', "$1", "\n", "ключ", "userId", "email", "metadata"]
STRINGS = ["", "x", "bad", "true", "1", "-1", "1e400", "NaN", "infinity", "2026-01-01", "2026-13-45", "{a,b}", "{", "10.0.0.1", "sad", "\\x00", "'", '"', "\u0007",
           "😀" * 40, "x" * 5000, "00000000-0000-0000-0000-000000000000", "%s", "$1", "null", "\u202e", "é" * 12, " " * 9]  # fmt: skip
NUMBERS = ["0", "-1", "1e308", "1e400", "-1e-400", "99999999999999999999999999", "0.1", "1.00", "1e5"]


def text(rng, depth=0):
    """The text of a JSON value; sometimes what jsonb does not take."""
    pick = rng.random()
    if depth > 5 or pick < 0.45:
        if rng.random() < 0.3:
            return rng.choice(NUMBERS)
        if rng.random() < 0.2:
            return rng.choice(["true", "false", "null", '"\\u0000"', '"\\ud800"', '"\\u00e9"'])
        return json.dumps(rng.choice(STRINGS))
    if pick < 0.6:
        return "[" + ",".join(text(rng, depth + 1) for _ in range(rng.randrange(4))) + "]"
    if pick < 0.62:
        n = rng.randrange(1, 4000)
        return "[" * n + "]" * n
    return "{" + ",".join(f"{json.dumps(rng.choice(KEYS))}:{text(rng, depth + 1)}" for _ in range(rng.randrange(6))) + "}"


def body(rng, user, email):
    if rng.random() < 0.2:
        return text(rng)
    parts = []
    for key, right in (("userId", json.dumps(str(user))), ("email", json.dumps(email)), ("username", json.dumps(rng.choice(STRINGS))), ("metadata", "{" + f'"k": {text(rng)}' + "}")):
        if rng.random() < 0.9:
            parts.append(f'"{key}": {right if rng.random() < 0.85 else text(rng)}')
    return "{" + ", ".join(parts) + "}"


def remap(rng, db):
    with db.session("postgres").transaction():
        db.sql("DELETE FROM onagui.sync_column")
        for column in rng.sample(COLUMNS, rng.randrange(6)):
            source = rng.choice(["column", "user_meta", "app_meta"])
            key = rng.choice(SOURCES) if source == "column" else rng.choice([None, *KEYS])
            db.sql("INSERT INTO onagui.sync_column VALUES (%s, %s, %s)", [column, source, key])


def test_fuzz(db):
    rng = random.Random(SEED)
    db.install(app_users=False)
    db.sql(TABLE)
    auth, request = db.connect("supabase_auth_admin"), db.connect("authenticator")
    counts = {"sign-ups": 0, "bodies": 0, "mappings": 0, "taken": 0}
    states = {}
    end = time.monotonic() + SECONDS
    users = []
    while time.monotonic() < end:
        if counts["sign-ups"] % 7 == 0:
            remap(rng, db)
            counts["mappings"] += 1
        id, email = uuid.uuid4(), rng.choice([f"u{rng.randrange(10**9)}@example.com", f"{rng.choice(STRINGS)[:100]}{rng.randrange(10**9)}@x"])
        meta = [text(rng), text(rng)]
        try:
            with auth.transaction():
                auth.execute("SELECT %s::jsonb, %s::jsonb", meta)
        except psycopg.Error:
            meta = ["{}", "[]"]
        place = f"seed {SEED}, sign-up {counts['sign-ups']}: {meta!r}"
        try:
            auth.execute("INSERT INTO users (id, email, raw_user_meta_data, raw_app_meta_data, email_confirmed_at) VALUES (%s, %s, %s, %s, now())", [id, email, *meta])
        except psycopg.Error as error:
            raise AssertionError(place) from error
        counts["sign-ups"] += 1
        users.append((id, email))
        for _ in range(4):
            user, email = rng.choice(users[-20:])
            call = body(rng, user, email)
            role = rng.choice(["authenticated", "service_role"])
            counts["bodies"] += 1
            try:
                with request.transaction():
                    request.execute(f"SET LOCAL ROLE {role}")
                    claims = json.dumps({"sub": str(user)}) if rng.random() < 0.8 else text(rng).replace("\x00", "")
                    request.execute("SELECT set_config('request.jwt.claims', %s, true)", [claims])
                    request.execute("SELECT onagui.sync_user_registration(%s::text::jsonb)::text", [call])
                counts["taken"] += 1
            except psycopg.Error as error:
                states[error.sqlstate] = states.get(error.sqlstate, 0) + 1
                assert error.sqlstate and not error.sqlstate.startswith("XX") and error.sqlstate[:2] in ("22", "23", "42", "54", "21"), f"seed {SEED}: {call!r}: {error}"
                assert not request.closed
    bad = db.sql("SELECT details FROM onagui.sync_audit_log WHERE details::text LIKE '%%XX000%%'", role="supabase_admin")
    assert bad == [], SEED
    print(f"\nfuzz: {SECONDS} s, seed {SEED}, {counts}, refused by SQLSTATE: {dict(sorted(states.items()))}")
    assert counts["taken"] > 5
