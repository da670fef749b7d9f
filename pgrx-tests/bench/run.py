"""Measures the extension beside other ways to do the same. Writes a table and a plot to target/bench; those of a complete
run, all modules and all rounds, also into README.md and docs/performance.svg.

Each module named in MODULES has figures(bench), which yields figure.Figure. A further one needs no more than its name here."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import page  # noqa: E402
import plot  # noqa: E402
from figure import Figure  # noqa: E402
from measure import Bench, say  # noqa: E402

#: In the order of the table, with the headings there.
MODULES = {"signup": "Signing up", "load": "Signing up from many sessions", "fix": "Repair", "status": "Status"}
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "target" / "bench"
PLOT = Path("docs/performance.svg")


def machine(bench):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) // 1024 for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "postgres": bench.server().connect().execute("SHOW server_version").fetchone()[0],
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_mb": memory,
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "commit": commit,
    }


def write(about, figures, complete):
    """The table and the plot where they belong; target/bench has them in any case."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text, picture = page.without_paths(page.table(about, figures)), page.without_paths(plot.svg(about, figures))
    (RESULTS / "results.md").write_text(text)
    (RESULTS / PLOT.name).write_text(picture)
    if complete:
        readme, picture_there = ROOT / "README.md", ROOT / PLOT
        readme.write_text(page.placed(readme.read_text(), f"![{page.summary(figures)}]({PLOT})\n\n{text}"))
        picture_there.parent.mkdir(exist_ok=True)
        picture_there.write_text(picture)
    say(f"written to {RESULTS}" + (f", README.md and {PLOT}" if complete else ""))
    return text


def measured(bench, modules):
    figures = []
    for name in modules:
        for figure in importlib.import_module(name).figures(bench):
            figure.group = MODULES[name]
            figures.append(figure)
            say(" | ".join(filter(None, page.cells(figure))))
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"only these of {', '.join(MODULES)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a figure")
    parser.add_argument("--major", default="15")
    parser.add_argument("--only", help="only the rows of this name within a module: one, bulk, sign_in, sequence, …")
    parser.add_argument("--render", action="store_true", help="measure nothing, write again what target/bench/results.json tells")
    options = parser.parse_args()
    unknown = set(options.modules) - set(MODULES)
    if unknown:
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    if options.render:
        kept = json.loads((RESULTS / "results.json").read_text())
        print(write(kept["machine"], [Figure(**row) for row in kept["figures"]], kept["complete"]))
        return
    bench = Bench(options.major, options.quick, options.only)
    modules = [name for name in MODULES if name in (options.modules or MODULES)]
    complete = len(modules) == len(MODULES) and not options.quick and options.only is None
    try:
        about = machine(bench)
        figures = measured(bench, modules)
    finally:
        bench.stop()
    # First of all what cannot be had again without hours of measuring.
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {"complete": complete, "machine": about, "figures": [figure.as_row() for figure in figures]}
    (RESULTS / "results.json").write_text(json.dumps(kept, indent=2) + "\n")
    print(write(about, figures, complete))


if __name__ == "__main__":
    main()
