"""What people wrote, and what became of it: the books that have to balance in the end."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self


class Place(NamedTuple):
    """Where somebody writes. Telegram keeps the order within one."""

    user_id: int
    chat_id: int


@dataclass
class Counts:
    """The outcome of a run.

    Attributes:
        sent: updates that people caused.
        lost: those without an effect on state.
        doubled: effects beyond the first, and effects of nothing.
        missing: updates without a reply.
        untrue: replies that say something else than what was kept.
        disorder: effects or replies that came before one that should precede them.
    """

    sent: int = 0
    lost: int = 0
    doubled: int = 0
    missing: int = 0
    untrue: int = 0
    disorder: int = 0

    @property
    def is_clean(self) -> bool:
        return self == Counts(sent=self.sent)

    def __add__(self, other: "Counts") -> Self:
        return type(self)(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass
class Ledger:
    """What was written, by place, in order. Every message has a name, which is unique per user."""

    written: dict[Place, list[str]] = field(default_factory=lambda: defaultdict(list))
    shuffled: set[tuple[Place, str]] = field(default_factory=set)  # no order is expected of these

    def write(self, place: Place, name: str) -> None:
        self.written[place].append(name)

    def balance(
        self, exports: Mapping[int, Mapping[str, Any]], said: Mapping[int, Sequence[str]]
    ) -> Counts:
        """Compare.

        Args:
            exports: per user, what the bot says it keeps about them (`/export`).
            said: per chat, the texts that the bot sent there.
        """
        counts = Counts()
        for user_id in {place.user_id for place in self.written}:
            places = [place for place in self.written if place.user_id == user_id]
            effects = exports[user_id]["state"].get("effects", [])
            counts += self._effects(places, effects)
            counts += self._history(effects, exports[user_id].get("history", ()))
            for place in places:
                counts += self._replies(place, effects, said.get(place.chat_id, ()))
        return counts

    def _effects(self, places: Iterable[Place], effects: Sequence[str]) -> Counts:
        times = Counter(effects)
        counts = Counts()
        for place in places:
            names = self.written[place]
            counts.sent += len(names)
            counts.lost += sum(times[name] == 0 for name in names)
            counts.doubled += sum(max(0, times.pop(name, 0) - 1) for name in names)
            counts.disorder += self._disorder(place, effects)
        counts.doubled += times.total()
        return counts

    def _history(self, effects: Sequence[str], history: Sequence[Mapping[str, Any]]) -> Counts:
        """The conversation, of which the newest part is kept, is changed together with the state."""
        talked = [message["text"].split()[0] for message in history if message["role"] == "user"]
        talked = [name for name in talked if not name.startswith("/")]
        expected = Counter(effects[len(effects) - len(talked) :])
        return Counts(
            lost=(expected - Counter(talked)).total(), doubled=(Counter(talked) - expected).total()
        )

    def _replies(self, place: Place, effects: Sequence[str], said: Sequence[str]) -> Counts:
        truth = {f"{name} #{number}" for number, name in enumerate(effects, start=1)}
        replies = [text for text in dict.fromkeys(said) if re.fullmatch(r"\w+ #\d+", text)]
        answered = [text.split()[0] for text in replies]
        return Counts(
            missing=len(set(self.written[place]) - set(answered)),
            untrue=len(set(replies) - truth),
            disorder=self._disorder(place, answered),
        )

    def _disorder(self, place: Place, names: Iterable[str]) -> int:
        """How many came, for the first time, after one that was written later."""
        position = {
            name: number
            for number, name in enumerate(self.written[place])
            if (place, name) not in self.shuffled
        }
        came = [position[name] for name in dict.fromkeys(names) if name in position]
        return sum(later < earlier for earlier, later in zip(came, came[1:], strict=False))


HEADINGS = (
    "updates sent", "effects lost", "effects doubled", "replies missing", "replies untrue", "order broken"
)  # fmt: skip


def table(rows: Mapping[str, Counts]) -> str:
    """The outcome of several runs, for people."""
    width = max(map(len, rows))
    lines = ["  ".join([" " * width, *HEADINGS])]
    for name, counts in rows.items():
        values = (f"{getattr(counts, each.name):,}" for each in fields(counts))
        cells = (value.rjust(len(heading)) for value, heading in zip(values, HEADINGS, strict=True))
        lines.append("  ".join([name.ljust(width), *cells]))
    return "\n".join(lines)
