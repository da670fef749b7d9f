"""The figures as a picture: a bar for each ratio, its spread as a whisker, its goal as a mark. Plain SVG, no library."""

import math
from itertools import groupby
from xml.sax.saxutils import escape

from page import PEERS, machine_line, summary

WIDTH, MARGIN = 880, 24
LABEL, LABEL_WIDTH = MARGIN, 290
PEER, PEER_WIDTH = 326, 92
LEFT, RIGHT = 430, 740
RATIO, VERDICT = 792, 804
SIZE, LINE, BAR, GAP = 13, 17, 14, 11
#: Beyond this a bar is cut off; its number still tells.
MOST = 4

# A card of its own, since the scheme a reader chose for the page need not be that of the browser.
STYLE = """
text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; font-size: 13px; fill: #1f2328 }
.head { font-size: 17px; font-weight: 600 } .group { font-weight: 600 } .faint { fill: #59636e } .small { font-size: 12px }
.end { text-anchor: end } .middle { text-anchor: middle }
.card { fill: #ffffff; stroke: #d1d9e0 } .grid { stroke: #e4e8ec } .one { stroke: #59636e; stroke-dasharray: 3 3 }
.reached { fill: #4c8fd6 } .missed { fill: #dd7a33 } .open { fill: #9aa4ae }
text.reached { fill: #0b5cad } text.missed { fill: #a8480a }
.spread { stroke: #1f2328; stroke-width: 1.5; fill: none } .cut { fill: #1f2328 }
.goal { stroke: #8a2be2; stroke-width: 3 } .halo { stroke: #ffffff; stroke-width: 6 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .faint { fill: #9aa4ae }
.card { fill: #0d1117; stroke: #30363d } .grid { stroke: #262c34 } .one { stroke: #9aa4ae }
.reached { fill: #316dba } .missed { fill: #b8601f } .open { fill: #59636e }
text.reached { fill: #79b8ff } text.missed { fill: #f0a35e }
.spread { stroke: #e6edf3 } .cut { fill: #e6edf3 } .goal { stroke: #d2a8ff } .halo { stroke: #0d1117 }
}
"""


def width_of(text, size=SIZE):
    """No less than a common sans-serif takes; the widest of them (Verdana, DejaVu) has these proportions."""
    wide = {**dict.fromkeys("il.,:;'|!jI ", 0.36), **dict.fromkeys("ftr()-/", 0.44), **dict.fromkeys("mwMW@%", 1.0)}
    return size * sum(wide.get(letter, 0.7 if letter.isupper() or letter.isdigit() else 0.62) for letter in text)


def wrapped(text, width, size=SIZE):
    """The text in lines that fit; a word that is too long for a line is cut."""
    lines, line = [], ""
    for word in text.split():
        while width_of(word, size) > width:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or width_of(word[:n], size) <= width)
            lines += [line] if line else []
            line, lines, word = "", [*lines, word[:fits]], word[fits:]
        longer = f"{line} {word}".strip()
        if width_of(longer, size) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines


class Canvas:
    """Elements from top to bottom; `y` is where the next one goes."""

    def __init__(self):
        self.elements, self.y = [], MARGIN

    def text(self, x, y, text, kind=""):
        kind = f' class="{kind}"' if kind else ""
        self.elements.append(f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(text)}</text>')

    def rect(self, x, y, width, height, kind, radius=2):
        self.elements.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" rx="{radius}" class="{kind}"/>')

    def path(self, d, kind):
        self.elements.append(f'<path d="{d}" class="{kind}"/>')

    def lines(self, text, kind=""):
        for line in wrapped(text, WIDTH - 2 * MARGIN):
            self.y += LINE
            self.text(MARGIN, self.y, line, kind)


def axis(figures):
    """The axis' end and its step."""
    reach = max([1, *(value for f in figures for value in (f.ratio, f.high, f.target) if value is not None)])
    end = min(MOST, max(1.25, math.ceil(reach * 4) / 4))
    return end, 0.25 if end <= 2 else 0.5


def whisker(canvas, low, high, middle):
    canvas.path(f"M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8", "spread")


def goal_mark(canvas, x, middle):
    for kind in ("halo", "goal"):
        canvas.path(f"M{x:.1f} {middle - 11:.1f}v22", kind)


def legend(canvas):
    canvas.y += LINE + 10
    x, middle = MARGIN, canvas.y - 4.5
    keys = {"reached": "goal reached", "missed": "goal missed", "open": "no goal set", "spread": "middle half of the rounds", "goal": "goal: no further"}
    for kind, words in keys.items():
        if kind == "spread":
            whisker(canvas, x, x + 24, middle)
        elif kind == "goal":
            goal_mark(canvas, x + 20, middle)
        else:
            canvas.rect(x, middle - BAR / 2, 24, BAR, kind)
        canvas.text(x + 31, canvas.y, words, "faint")
        x += 31 + width_of(words) * 0.93 + 12


def bar(canvas, figure, middle, at, end):
    kind = figure.verdict or "open"
    canvas.rect(LEFT, middle - BAR / 2, at(figure.ratio) - LEFT, BAR, kind)
    if figure.target is not None:
        goal_mark(canvas, at(figure.target), middle)
    if figure.low is not None:
        whisker(canvas, at(figure.low), at(figure.high), middle)
    if max(figure.ratio, figure.high or 0) > end:
        canvas.path(f"M{RIGHT + 3} {middle - 5:.1f}l7 5l-7 5z", "cut")


def row(canvas, figure, at, end):
    label, peer = wrapped(figure.what, LABEL_WIDTH), wrapped(figure.against, PEER_WIDTH)
    height = LINE * max(len(label), len(peer))
    middle = canvas.y + (height + GAP) / 2
    for x, lines, kind in ((LABEL, label, ""), (PEER, peer, "faint")):
        top = middle - LINE * len(lines) / 2
        for number, line in enumerate(lines):
            canvas.text(x, top + LINE * (number + 0.75), line, kind)
    bar(canvas, figure, middle, at, end)
    canvas.text(RATIO, middle + 4.5, f"{figure.ratio:.2f}", "end")
    if figure.verdict:
        canvas.text(VERDICT, middle + 4.5, figure.verdict, figure.verdict)
    canvas.y += height + GAP


def in_words(figure):
    spread = "" if figure.low is None else f", spread {figure.low:.2f} to {figure.high:.2f}"
    goal = f", goal {figure.aim}: {figure.verdict}" if figure.verdict else ""
    return f"{figure.what}, against {figure.against}: {figure.ratio:.2f}{spread}{goal}."


def svg(about, figures):
    figures = [figure for figure in figures if figure.ratio is not None and not figure.aside]
    end, step = axis(figures)

    def at(ratio):
        return LEFT + (RIGHT - LEFT) * min(max(ratio, 0), end) / end

    canvas = Canvas()
    canvas.y += 12
    canvas.text(MARGIN, canvas.y, "onagui_sync: cost as a ratio to its peer, less is better", "head")
    canvas.y += 5
    canvas.lines(machine_line(about), "faint")
    legend(canvas)
    canvas.y += LINE + 14
    canvas.text(PEER, canvas.y, "peer", "faint small")
    canvas.text(RATIO, canvas.y, "ratio", "faint small end")
    ticks = [n * step for n in range(round(end / step) + 1)]
    for tick in ticks:
        canvas.text(at(tick), canvas.y, f"{tick:g}", "faint small middle")
    top = canvas.y + 6
    grid = len(canvas.elements)
    for group, rows in groupby(figures, key=lambda figure: figure.group):
        canvas.y += LINE + 6
        canvas.text(LABEL, canvas.y, group, "group")
        canvas.y += 2
        for figure in rows:
            row(canvas, figure, at, end)
    below = Canvas()
    for tick in ticks:
        below.path(f"M{at(tick):.1f} {top:.1f}V{canvas.y:.1f}", "one" if tick == 1 else "grid")
    canvas.elements[grid:grid] = below.elements
    canvas.y += 6
    for name, meaning in PEERS.items():
        if any(figure.against == name for figure in figures):
            canvas.lines(f"{name} {meaning}", "faint")
    height = round(canvas.y + MARGIN)
    words = " ".join([summary(figures), machine_line(about) + ".", *map(in_words, figures)])
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc">',
        '<title id="title">onagui_sync: cost as a ratio to its peer</title>',
        f'<desc id="desc">{escape(words)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" class="card"/>',
        *canvas.elements,
        "</svg>\n",
    ])  # fmt: skip
