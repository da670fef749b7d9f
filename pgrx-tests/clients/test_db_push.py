"""Migrations with the real Supabase CLI, in both orders."""

import os
import subprocess

import pytest

EXTENSION = "create extension onagui_sync;\n"
TABLE = """
create schema if not exists onagui;
grant usage on schema onagui to anon, authenticated, service_role;
create table onagui.app_users (id uuid primary key, email text, username text unique, metadata jsonb);
alter table onagui.app_users enable row level security;
"""


def push(modules, database, folder, migrations):
    for number, text in enumerate(migrations, 1):
        place = folder / "supabase" / "migrations"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"2026010100000{number}_step.sql").write_text(text)
    environment = {**os.environ, "HOME": str(folder), "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"}
    run = subprocess.run(
        [modules / "@supabase" / "cli-linux-x64" / "bin" / "supabase", "db", "push", f"--remote={database.url('postgres')}", "--yes"],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.mark.parametrize("migrations", [[EXTENSION, TABLE], [TABLE, EXTENSION]], ids=["extension first", "table first"])
def test_both_orders(installed, remote, gateway, tmp_path, migrations):
    push(installed, remote, tmp_path, migrations)
    api = gateway()
    ann = api.sign_up("ann@example.com", "ann")
    assert remote.sql("SELECT id::text, email, username FROM onagui.app_users") == [(ann["user"]["id"], "ann@example.com", "ann")]
    answer = api.snippet("Register oneself", session=ann["session"], user=ann["user"], username="annie")
    assert answer["data"]["data"]["user"]["username"] == "annie", answer
    assert api.snippet("Who is out of step")["data"] == []
    # A second push finds nothing to do.
    assert "up to date" in push(installed, remote, tmp_path, migrations)
