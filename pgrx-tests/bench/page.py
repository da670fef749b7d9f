"""The figures as text: a Markdown table, and its place in the README."""

import tempfile
from itertools import groupby
from pathlib import Path

PEERS = {
    "(a)": "the same without any trigger",
    "(b)": "the trigger of Supabase's documentation: PL/pgSQL, a bare INSERT",
    "(c)": "the same kind of trigger with ON CONFLICT and an EXCEPTION block",
    "(d)": "an UPDATE of the id that is told who is who, every key ON UPDATE CASCADE",
    "(e)": "a FULL JOIN on the e-mail to the letter",
    "(e*)": "a FULL JOIN on lower(btrim(email)), the e-mail as this extension compares it",
}
BEGIN = "<!-- Written by `make bench`, up to the end mark. -->"
END = "<!-- The end of what `make bench` writes. -->"
READING = (
    "Medians of rounds in which ours and the peers take turns. Ratio: ours / peer, less is better. "
    "Spread: the middle half of the rounds' ratios."
)


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def machine_line(about):
    kernel = about["kernel"].partition("-")[0]
    return (
        f"PostgreSQL {about['postgres']}, {about['cores']} × {about['cpu']}, {about['memory_mb'] / 1024:.0f} GB, Linux {kernel}, "
        f"load {about['load_before']:.1f} beforehand, {about['when']}, commit {about['commit'] or 'unknown'}"
    )


def cells(figure):
    spread = "" if figure.low is None else f"{figure.low:.2f} to {figure.high:.2f}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
    peer = f"{number(figure.peer)}, {figure.against}" if figure.peer is not None else figure.against
    return [figure.what, figure.unit, number(figure.ours), peer, ratio, spread, figure.aim, figure.verdict]


def table(about, figures):
    lines = [f"{machine_line(about)}.", "", READING, ""]
    lines += ["| what | unit | ours | peer | ratio | spread | goal | |", "|---|---|--:|--:|--:|---|---|---|"]
    for group, rows in groupby(figures, key=lambda figure: figure.group):
        lines.append(f"| **{group}** | | | | | | | |")
        lines += [f"| {' | '.join(cells(figure))} |" for figure in rows]
    lines += ["", "Peers, all of which write the table that `onagui.create_app_users()` makes:", ""]
    met = {figure.against for figure in figures}
    lines += [f"* {name} {meaning}" for name, meaning in PEERS.items() if name in met]
    notes = [f"* {figure.what}, beside {figure.against}: {figure.note}" for figure in figures if figure.note]
    if notes:
        lines += ["", "<details><summary>Notes</summary>", "", *notes, "", "</details>"]
    return "\n".join(lines) + "\n"


def summary(figures):
    """One sentence, for those who cannot see the plot."""
    aims = [figure.met for figure in figures if figure.met is not None]
    return f"Cost of each operation as a ratio to its peer; {sum(aims)} of {len(aims)} goals reached."


def placed(readme, text):
    """The README with `text` between the marks."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError("the README must have each mark of the figures once, the begin before the end")
    return f"{readme.partition(BEGIN)[0]}{BEGIN}\n\n{text.strip()}\n\n{END}{readme.partition(END)[2]}"


def without_paths(text):
    """The text itself; what is published must not tell where it was made."""
    here = [str(Path(__file__).resolve().parents[2]), str(Path.home()), tempfile.gettempdir()]
    told = [place for place in here if f"{place.rstrip('/')}/" in text]
    if told:
        raise ValueError(f"the figures name a path of this machine: {', '.join(told)}")
    return text
