"""Draw the diagrams of the pages: `uv run python docs/pictures/diagrams.py`, into `docs/assets/`.

Plain SVG, without scripts and fonts of its own; colours follow the reader's system, light or dark. A test
draws them again and compares.
"""

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"

STYLE = """
  svg { font: 14px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
  .panel { fill: #ffffff; } text { fill: #1f2933; } .soft { fill: #52606d; } .small { font-size: 12.5px; }
  .bold { font-weight: 600; } .line { stroke: #7b8794; fill: none; } .box { fill: #eef2f7; stroke: #9aa5b1; }
  .store { fill: #e3f2e8; stroke: #5b9a72; } .bad { fill: #fdecea; stroke: #c0564a; }
  .kill { fill: #b3382c; font-weight: 700; } .arrow { stroke: #3e6fb5; fill: none; stroke-width: 1.6; }
  .head { fill: #3e6fb5; } .lost { stroke: #b3382c; stroke-dasharray: 5 4; fill: none; stroke-width: 1.6; }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #1e2129; } text { fill: #e4e7eb; } .soft { fill: #a9b3c1; } .line { stroke: #8592a3; }
    .box { fill: #2a303c; stroke: #66758a; } .store { fill: #22382b; stroke: #5b9a72; }
    .bad { fill: #40231f; stroke: #c0564a; } .kill { fill: #ff8a7d; } .arrow { stroke: #86b1f0; }
    .head { fill: #86b1f0; } .lost { stroke: #ff8a7d; }
  }
"""


class Drawing:
    """An SVG under way. Coordinates are pixels, from the upper left."""

    def __init__(self, width: int, title: str) -> None:
        """Begin a drawing; its height follows from what is drawn."""
        self._width = width
        self._title = title
        self._parts: list[str] = []
        self._height = 0

    def text(self, x: float, y: float, words: str, look: str = "", anchor: str = "start") -> None:
        """A line of text with its baseline at `y`."""
        place = f'x="{x:g}" y="{y:g}" class="{look}" text-anchor="{anchor}"'
        self._parts.append(f"<text {place}>{escape(words, quote=False)}</text>")
        self._grow(y + 12)

    def box(self, x: float, y: float, width: float, lines: Sequence[str], look: str = "box") -> float:
        """A box with centred lines, the first of them bold; returns its lower edge."""
        height = 14 + 19 * len(lines)
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="6" class="{look}"/>'
        )
        for number, line in enumerate(lines):
            is_question = lines[-1].endswith("?")
            style = "" if is_question else "small" if number else "bold"
            self.text(x + width / 2, y + 22 + 19 * number, line, style, "middle")
        self._grow(y + height + 12)
        return y + height

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str = "line") -> None:
        """A straight line."""
        self._parts.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" class="{look}"/>')
        self._grow(max(y1, y2) + 12)

    def arrow(self, x1: float, y1: float, x2: float, y2: float, look: str = "arrow") -> None:
        """A line with a head at its end; one that is `lost` ends in a cross."""
        self.line(x1, y1, x2, y2, look)
        if look == "lost":
            self.text(x2, y2 + 6, "✗", "kill", "middle")
            return
        if y1 == y2:
            side = 1 if x2 > x1 else -1
            points = f"{x2:g},{y2:g} {x2 - 9 * side:g},{y2 - 5:g} {x2 - 9 * side:g},{y2 + 5:g}"
        else:
            points = f"{x2:g},{y2:g} {x2 - 5:g},{y2 - 9:g} {x2 + 5:g},{y2 - 9:g}"
        self._parts.append(f'<polygon points="{points}" class="head"/>')

    def svg(self) -> str:
        """The finished drawing."""
        size = f'width="{self._width}" height="{self._height:g}" viewBox="0 0 {self._width} {self._height:g}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
                f"<title>{escape(self._title)}</title>",
                f"<style>{STYLE}</style>",
                '<rect width="100%" height="100%" rx="8" class="panel"/>',
                *self._parts,
                "</svg>\n",
            ]
        )

    def _grow(self, y: float) -> None:
        self._height = max(self._height, int(y))


class Exchange(Drawing):
    """Who says what to whom, downwards in time."""

    def __init__(
        self, title: str, lanes: Sequence[str], *, width: int = 760, looks: Sequence[str] = ()
    ) -> None:
        """Begin with one lane per party."""
        super().__init__(width, title)
        step = width / len(lanes)
        self._x = [step * (number + 0.5) for number in range(len(lanes))]
        self.y = 64.0
        self._lanes = list(lanes)
        for number, (x, lane) in enumerate(zip(self._x, lanes, strict=True)):
            self.box(x - 78, 14, 156, [lane], looks[number] if looks else "box")

    def says(self, sender: int, receiver: int, words: str, look: str = "arrow") -> None:
        """A message; one that is `lost` gets only half way."""
        x1, x2 = self._x[sender], self._x[receiver]
        self.y += 34
        self.text((x1 + x2) / 2, self.y - 7, words, "small", "middle")
        self.arrow(x1, self.y, (x1 + x2) / 2 if look == "lost" else x2, self.y, look)

    def does(self, party: int, words: str, look: str = "soft small") -> None:
        """Something that a party does by itself."""
        self.y += 26
        is_last = party == len(self._x) - 1
        self.text(
            self._x[party] + (-10 if is_last else 10), self.y, words, look, "end" if is_last else "start"
        )

    def svg(self) -> str:
        """The finished drawing, with the lanes behind it."""
        lanes = [f'<path d="M{x:g} 47L{x:g} {self.y + 14:g}" class="line"/>' for x in self._x]
        self._parts = lanes + self._parts
        self._grow(self.y + 26)
        return super().svg()


def happy_path() -> str:
    """One update, nothing goes wrong."""
    drawing = Exchange(
        "One update, when nothing goes wrong",
        ["Telegram", "the bot", "the store"],
        looks=["box", "box", "store"],
    )
    drawing.says(0, 1, "update 17: “hi”")
    drawing.does(1, "1 order: this user's, one by one")
    drawing.says(1, 2, "2 load")
    drawing.says(2, 1, "record, version 41")
    drawing.does(1, "3 is 17 among the applied ids? no")
    drawing.does(1, "4 handle: state changes in memory")
    drawing.says(1, 2, "5 commit, expecting version 41")
    drawing.does(2, "state, conversation, flows,")
    drawing.does(2, "id 17 and its reply: one step")
    drawing.says(2, 1, "version 42")
    drawing.says(1, 0, "6 reply: “Processed: hi (#1)”")
    drawing.says(1, 0, "7 acknowledge 17")
    return drawing.svg()


def crashes() -> str:
    """The bot is killed at each step."""
    drawing = Drawing(860, "The bot is killed at each step")
    rows = [
        ("1-4", "ordered, loaded, handled", "nothing", "delivered again: handled as if for the first time"),
        ("5", "commit on its way", "all of it, or nothing", "delivered again: known by its id, or handled"),
        (
            "5-6",
            "committed, reply not sent",
            "state, id 17, reply",
            "delivered again: the reply is sent from the outbox",
        ),
        (
            "6",
            "Telegram took the reply,",
            "state, id 17, reply",
            "delivered again: the reply is sent a second time",
        ),
        (
            "6-7",
            "replied, not acknowledged",
            "state, id 17, reply",
            "delivered again: state untouched, reply sent again",
        ),
        ("7", "acknowledged", "state, id 17, reply", "done; the outbox is emptied by the user's next turn"),
    ]
    for x, words in (
        (24, "killed at"),
        (110, "what had happened"),
        (316, "what the store has"),
        (500, "what happens then"),
    ):
        drawing.text(x, 30, words, "bold")
    y = 44.0
    for number, (step, happened, kept, then) in enumerate(rows):
        drawing.line(16, y, 844, y)
        drawing.text(24, y + 24, f"✗ {step}", "kill")
        drawing.text(110, y + 24, happened, "small")
        if number == 3:
            drawing.text(110, y + 42, "the bot does not know", "small")
        drawing.text(316, y + 24, kept, "small")
        drawing.text(500, y + 24, then, "small")
        y += 54 if number == 3 else 38
    drawing.line(16, y, 844, y)
    drawing.text(
        24, y + 24, "State: changed exactly once in every row. Reply: at least once, in every row.", "bold"
    )
    return drawing.svg()


def two_replicas() -> str:
    """Two replicas meet at one user."""
    drawing = Exchange(
        "Two replicas meet at one user",
        ["replica A", "the store", "replica B"],
        looks=["box", "store", "box"],
    )
    drawing.says(0, 1, "load, for update 17")
    drawing.says(2, 1, "load, for update 18")
    drawing.does(1, "both get version 41")
    drawing.says(2, 1, "commit 18, expecting 41")
    drawing.says(1, 2, "version 42")
    drawing.says(0, 1, "commit 17, expecting 41")
    drawing.says(1, 0, "StateConflict: it is 42 by now")
    drawing.does(0, "nothing was written;")
    drawing.does(0, "no reply had gone out")
    drawing.says(0, 1, "load: version 42, with what 18 changed")
    drawing.does(0, "handled again, on that")
    drawing.says(0, 1, "commit 17, expecting 42")
    drawing.says(1, 0, "version 43: both are in")
    return drawing.svg()


def decision() -> str:
    """Which backend? Narrow enough for a telephone."""
    drawing = Drawing(400, "Which backend?")
    questions: list[tuple[list[str], list[str]]] = [
        (
            ["Does the bot run on one machine,", "with a disk that lasts?"],
            ["sqlite", "one file; nothing to install"],
        ),
        (["May everything be lost", "when the bot stops?"], ["memory", "nothing is kept"]),
        (
            ["Is it session data, of which a power failure", "may take the last second?"],
            ["redis", "expires after 24 h, or as set"],
        ),
        (
            ["Do you run Redis and PostgreSQL anyway, and", "want fewer row writes than turns?"],
            ["hybrid", "Redis answers, PostgreSQL keeps"],
        ),
    ]
    y = 14.0
    for question, result in questions:
        bottom = drawing.box(12, y, 376, question)
        drawing.arrow(274, bottom, 274, bottom + 34)
        drawing.text(284, bottom + 21, "yes", "small")
        end = drawing.box(160, bottom + 34, 228, result, "store")
        drawing.arrow(70, bottom, 70, end + 18)
        drawing.text(80, bottom + 62, "no", "small")
        y = end + 18
    drawing.box(12, y, 376, ["postgres", "on disk before it counts; SQL over it"], "store")
    return drawing.svg()


DIAGRAMS = {
    "happy-path": happy_path,
    "crashes": crashes,
    "two-replicas": two_replicas,
    "which-backend": decision,
}


def main(folder: Path) -> None:
    """Write every diagram into a folder."""
    for name, draw in DIAGRAMS.items():
        (folder / f"{name}.svg").write_text(draw(), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ASSETS)
