"""The README's chapters on upgrading and removing, to be run to the letter."""

import os
import re
import subprocess

import support
from versions import ROOT


def block(title, chapter="Upgrading"):
    """The lines of the block that begins with this comment."""
    text = (ROOT / "README.md").read_text().partition(f"\n## {chapter}")[2].partition("\n## ")[0]
    found = re.search(rf"^```\w+\n(?:#|--) {re.escape(title)}\n(.*?)^```", text, re.M | re.S)
    assert found, f"no block {title!r}"
    return found[1]


def shell(server, text, folder):
    """As a superuser types it, in `folder`; the databases are the server's."""
    environment = {**os.environ, **{k: v for k, v in server.environment.items() if k.startswith("PG")}}
    environment["PATH"] = f"{server.bin}:{environment['PATH']}"
    return subprocess.run(["bash", "-euc", text], cwd=folder, env=environment, text=True, capture_output=True, timeout=4 * support.PATIENCE)
