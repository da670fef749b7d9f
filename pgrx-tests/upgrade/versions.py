"""Which versions there are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASED = ROOT / "sql" / "released"


def version_here():
    control = (ROOT / "onagui_sync.control").read_text()
    return control.partition("default_version = '")[2].partition("'")[0]
