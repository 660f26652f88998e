"""Bar charts as plain SVG: text stays text, the same numbers give the same bytes, on light and dark pages.

Written here because bars are all that is drawn: a plotting library would bring a hundred megabytes, and files
of which no difference can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

WIDTH, LABELS, BARS = 800, 250, 300
"""Pixels of the whole, of the column of labels and of the longest bar."""

LINE, GAP = 24, 14
"""Pixels from bar to bar, and before a group."""

TEXT, ALARM = "#7a7f87", "#cf5b3c"
COLOURS = {"ours": "#2b9a6b", "other": "#8f959e", "floor": "none"}
"""Of middling lightness, so that each can be seen on white and on black."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        label: what it stands for.
        value: its length, 0 or more.
        text: the value, for the eye.
        kind: whether it is ours, something compared with, or the least that is possible.
        alarm: what is bad about it, if anything.
    """

    label: str
    value: float
    text: str
    kind: Literal["ours", "other", "floor"] = "other"
    alarm: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that are compared with each other, on a scale of their own."""

    title: str
    bars: Sequence[Bar]


def chart(title: str, subtitle: str, groups: Sequence[Group], caption: Sequence[str], common: bool) -> str:
    """Draw one chart.

    Args:
        title: what is shown.
        subtitle: how to read it.
        groups: from top to bottom.
        caption: lines at the bottom.
        common: whether all groups share a scale.
    """
    longest = {id(group): max(bar.value for bar in group.bars) for group in groups}
    if common:
        longest = dict.fromkeys(longest, max(longest.values()))
    body = [_text(0, 20, title, size=18, weight=600), _text(0, 42, subtitle)]
    y = 42 + LINE // 2
    for group in groups:
        y += GAP
        body.append(_text(0, y, group.title, weight=600))
        for bar in group.bars:
            y += LINE
            body += _bar(bar, y, BARS / (longest[id(group)] or 1))
        y += LINE // 2
    y += GAP
    for line in caption:
        body.append(_text(0, y, line, size=12))
        y += 17
    described = escape(f"{title}. {subtitle}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
        f' role="img" font-family="system-ui, sans-serif">\n<title>{described}</title>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    length = max(1.0, bar.value * scale)
    stroke = TEXT if bar.kind == "floor" else COLOURS[bar.kind]
    weight = 600 if bar.kind == "ours" else 400
    end = LABELS + length + 8
    return [
        _text(LABELS - 10, y, bar.label, anchor="end", weight=weight),
        f'<rect x="{LABELS}" y="{y - 13}" width="{length:.1f}" height="17"'
        f' fill="{COLOURS[bar.kind]}" stroke="{stroke}"/>',
        _text(end, y, bar.text, weight=weight, alarm=bar.alarm),
    ]


def _text(
    x: float, y: int, text: str, *, size: int = 14, weight: int = 400, anchor: str = "start", alarm: str = ""
) -> str:
    warned = f' <tspan fill="{ALARM}" font-weight="600">{escape(alarm)}</tspan>' if alarm else ""
    return (
        f'<text x="{x:g}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
        f' fill="{TEXT}">{escape(text)}{warned}</text>'
    )
