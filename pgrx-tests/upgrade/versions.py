"""Which versions there are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "sql" / "released"


def version_here():
    control = (ROOT / "onagui_sync.control").read_text()
    return control.partition("default_version = '")[2].partition("'")[0]


def publish(server):
    """Puts the frozen scripts where CREATE EXTENSION … VERSION finds them."""
    folder = Path(server.program("pg_config", "--sharedir").stdout.strip()) / "extension"
    for script in RELEASED.iterdir():
        there = folder / script.name
        # Another worker may be reading it.
        if not there.exists() or there.read_bytes() != script.read_bytes():
            scratch = folder / f".{script.name}.{server.folder.name}"
            scratch.write_bytes(script.read_bytes())
            scratch.rename(there)
