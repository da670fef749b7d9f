"""What `make bench` writes, from made-up figures: the table in the README, and the plot. No server, no measuring."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import page
import plot
import pytest
import run
from figure import Figure

SVG = "{http://www.w3.org/2000/svg}"
ABOUT = {
    "when": "2000-01-01 00:00 UTC", "postgres": "15.0", "cpu": "Made-up & <Sons> Processor", "cores": 2, "memory_mb": 2048,
    "kernel": "6.1.2-made-up", "load_before": 0.1, "commit": "0000000",
}  # fmt: skip
LONG = "an operation with a name that nobody would give it, and that goes on although all has been said " + "x" * 80
README = f"before\n{page.BEGIN}\nsome figures\n{page.END}\nafter\n"


def made_up():
    figures = [
        Figure("one sign-up", "(b)", "µs added", 28.5, 35.5, 0.803, 0.78, 0.84, 0.85, "bare INSERT 37 µs", group="Signing up"),
        Figure("one sign-up", "(c)", "µs added", 28.5, 42.1, 0.677, 0.64, 0.71, 0.65, group="Signing up"),
        Figure("UPDATE of last_sign_in_at", "(a)", "µs", 20.1, 20.1, 1.0003, 0.93, 1.06, 1, goal="noise", reached=True, group="Signing up"),
        Figure("whole sign-up, CPU", "(c)", "µs", 400, 420, 0.95, 0.9, 1.0, aside=True, group="Signing up"),
        Figure("fix 50,000 users", "(d)", "s", 90, 8, 11.25, 9.8, 12.0, 1.3, group="Repair"),
        Figure(LONG, f"(e) {LONG}", "ms", 1200, 2300, 0.522, -0.2, 4.5, group="Repair"),
        Figure("one e-mail among 1,000,000 users", "1 ms", "ms", 0.6, 1, 0.6, 0.58, 0.66, 1, group="Status"),
        Figure("measured, but beside nothing", "", "ms", 5, None, group="Status"),
    ]
    return figures


@pytest.fixture
def svg():
    return ElementTree.fromstring(plot.svg(ABOUT, made_up()))


def test_every_figure_is_a_row_under_its_heading():
    text = page.table(ABOUT, made_up())
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert [row for row in rows if "**" in row] == [f"| **{name}** | | | | | | | |" for name in ("Signing up", "Repair", "Status")]
    assert "| one sign-up | µs added | 28.5 | 35.5, (b) | 0.803 | 0.78 to 0.84 | ≤ 0.85 | reached |" in rows
    assert "| one sign-up | µs added | 28.5 | 42.1, (c) | 0.677 | 0.64 to 0.71 | ≤ 0.65 | missed |" in rows
    assert "| UPDATE of last_sign_in_at | µs | 20.1 | 20.1, (a) | 1.000 | 0.93 to 1.06 | noise | reached |" in rows
    assert "| measured, but beside nothing | ms | 5 |  |  |  |  |  |" in rows


def test_the_table_tells_of_machine_date_and_peers():
    text = page.table(ABOUT, made_up())
    for word in ("PostgreSQL 15.0", "2 × Made-up", "2 GB", "Linux 6.1.2,", "2000-01-01", "commit 0000000", "* (a) ", "* (d) ", "bare INSERT 37 µs"):
        assert word in text
    assert "* (e) " not in text, "a peer that was not met"


def test_a_goal_is_met_by_the_ratio_unless_more_decides():
    figure = Figure("what", "(a)", "ms", 1, 1, 1.0, target=1.0)
    assert figure.met
    figure.reached = False
    assert not figure.met
    assert Figure("what", "(a)", "ms", 1, 1, 1.0).met is None


def test_the_readme_keeps_all_but_what_is_between_the_marks():
    once = page.placed(README, "new figures\n")
    assert once == f"before\n{page.BEGIN}\n\nnew figures\n\n{page.END}\nafter\n"
    assert page.placed(once, "new figures\n") == once


@pytest.mark.parametrize("readme", ["", page.BEGIN, README + README, f"{page.END}{page.BEGIN}"])
def test_a_readme_without_its_marks_is_left_alone(readme):
    with pytest.raises(ValueError, match="mark"):
        page.placed(readme, "new figures")


def test_our_readme_has_the_marks():
    assert page.placed((run.ROOT / "README.md").read_text(), "new figures")


def test_a_path_of_the_machine_is_not_published():
    text = page.table(ABOUT, made_up())
    assert page.without_paths(text) == text
    for place in (run.ROOT, Path.home()):
        with pytest.raises(ValueError, match="path of this machine"):
            page.without_paths(f"{text} {place}/results")


def test_the_plot_is_told_to_those_who_cannot_see_it(svg):
    assert svg.get("role") == "img"
    told = {svg.find(f"{SVG}{name}").get("id"): svg.find(f"{SVG}{name}").text for name in ("title", "desc")}
    assert svg.get("aria-labelledby").split() == list(told)
    assert "3 of 5 goals reached" in told["desc"]
    assert "one sign-up, against (b): 0.80, spread 0.78 to 0.84, goal ≤ 0.85: reached." in told["desc"]


def test_the_plot_shows_each_ratio_but_those_aside(svg):
    bars = [rect.get("class") for rect in svg.iter(f"{SVG}rect") if rect.get("x") == f"{plot.LEFT:.1f}"]
    assert bars == ["reached", "missed", "reached", "missed", "open", "reached"]
    words = [text.text for text in svg.iter(f"{SVG}text")]
    assert "0.80" in words and "11.25" in words and "whole sign-up, CPU" not in words


def test_nothing_leaves_the_plot(svg):
    _, _, width, height = map(float, svg.get("viewBox").split())
    for text in svg.iter(f"{SVG}text"):
        kind = (text.get("class") or "").split()
        taken = plot.width_of(text.text, 17 if "head" in kind else plot.SIZE)
        left = float(text.get("x")) - (taken if "end" in kind else taken / 2 if "middle" in kind else 0)
        assert 0 <= left and left + taken <= width and 0 <= float(text.get("y")) <= height, text.text
    for rect in svg.iter(f"{SVG}rect"):
        assert 0 <= float(rect.get("width")) <= width - float(rect.get("x"))


def test_lines_are_cut_where_they_must_be():
    lines = plot.wrapped(LONG, 120)
    assert all(plot.width_of(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == LONG.replace(" ", "")


@pytest.mark.parametrize("complete", [True, False])
def test_only_a_complete_run_is_published(tmp_path, monkeypatch, complete):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "target" / "bench")
    (tmp_path / "README.md").write_text(README)
    figures = [Figure(**json.loads(json.dumps(figure.as_row()))) for figure in made_up()]
    for _ in range(2):
        run.write(ABOUT, figures, complete)
    published = page.placed(README, f"![{page.summary(figures)}](docs/performance.svg)\n\n{page.table(ABOUT, made_up())}")
    assert (tmp_path / "README.md").read_text() == (published if complete else README)
    assert (tmp_path / "docs").exists() == complete
    assert (tmp_path / "target" / "bench" / "performance.svg").read_text() == plot.svg(ABOUT, made_up())


def test_the_command_explains_itself():
    command = [sys.executable, "-B", str(Path(run.__file__)), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--render" in text and "--quick" in text and all(name in text for name in run.MODULES)
