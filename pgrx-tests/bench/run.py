"""Measures the extension beside other ways to do the same, and writes a table: target/bench/results.md and results.json.

Each module named in MODULES has figures(bench), which yields measure.Figure. A further one needs no more than its name here."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import Bench, say  # noqa: E402

MODULES = ["signup", "load", "fix", "status"]
RESULTS = Path(__file__).resolve().parents[2] / "target" / "bench"


def machine(bench):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) // 1024 for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=RESULTS.parents[1], capture_output=True, text=True).stdout.strip()
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


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def table(about, figures):
    lines = [
        f"PostgreSQL {about['postgres']}, {about['cores']} x {about['cpu']}, {about['memory_mb']} MB, Linux {about['kernel']}, "
        f"load {about['load_before']:.1f}, {about['when']}, commit {about['commit'] or 'unknown'}",
        "",
        "Medians of interleaved rounds; spread: the middle half of the rounds' ratios. Peers: (a) no trigger; (b) PL/pgSQL, bare INSERT; "
        "(c) PL/pgSQL, ON CONFLICT and EXCEPTION; (d) UPDATE of the id with ON UPDATE CASCADE; (e) FULL JOIN on the e-mail. "
        "All peers write the table that onagui.create_app_users() makes.",
        "",
        "| what | unit | ours | peer | | ratio | spread | to reach | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        spread = "" if f.low is None else f"{f.low:.2f} to {f.high:.2f}"
        ratio = "" if f.ratio is None else f"{f.ratio:.3f}"
        verdict = {None: "", True: "reached", False: "missed"}[f.met]
        target = "" if f.target is None else f"<= {f.target}"
        lines.append(f"| {f.what} | {f.unit} | {number(f.ours)} | {number(f.peer)} | {f.against} | {ratio} | {spread} | {target} | {verdict} |")
    lines += [""] + [f"* {f.what}, {f.against}: {f.note}" for f in figures if f.note]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"only these of {', '.join(MODULES)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a figure")
    parser.add_argument("--major", default="15")
    parser.add_argument("--only", help="only the rows of this name within a module: one, bulk, sign_in, sequence, …")
    options = parser.parse_args()
    bench = Bench(options.major, options.quick, options.only)
    figures = []
    try:
        about = machine(bench)
        for name in options.modules or MODULES:
            if not (Path(__file__).parent / f"{name}.py").exists():
                continue
            for figure in importlib.import_module(name).figures(bench):
                figures.append(figure)
                say(f"{figure.what}, {figure.against}: {number(figure.ours)} : {number(figure.peer)} {figure.unit}, ratio {figure.ratio:.3f}")
    finally:
        bench.stop()
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = table(about, figures)
    (RESULTS / "results.md").write_text(text)
    (RESULTS / "results.json").write_text(
        json.dumps({"machine": about, "figures": [asdict(f) | {"met": f.met} for f in figures]}, indent=2) + "\n"
    )
    print(text)
    say(f"written to {RESULTS}/results.md and results.json")


if __name__ == "__main__":
    main()
