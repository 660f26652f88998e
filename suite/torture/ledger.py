"""What people wrote, and what became of it: the books that have to balance in the end."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, NamedTuple

from suite.torture.names import file_of

# What an owner's agent says besides is its own affair.
_REPLY = re.compile(r"[pgs]\d+ #\d+")
_NAME = re.compile(r"[pgs]\d+")
_HALF = re.compile(r"([pgs]\d+)( #\d+)?( .*)?")
_TITLE = re.compile(r"^\[[^\]]*\] ?")
"""What a history says of files, before their caption."""
_SORRY = re.compile(r"[pgs]\d+ sorry")
EARLY = 0.01
"""Seconds by which clocks may differ that were read in different processes, one rounded to milliseconds."""
MOST_RUNS = 10
"""How often a reminder may be computed: three processes may be killed at it, and others may commit first."""


class Place(NamedTuple):
    """Where somebody writes. Telegram keeps the order within one.

    In a group with a record of its own all write as one, who has the group's id.
    """

    user_id: int
    chat_id: int


@dataclass
class Balance:
    """The outcome of a run; every fault of the bot is named.

    Attributes:
        sent: updates that people caused.
        lost: those without an effect on state.
        doubled: effects beyond the first, and effects of nothing.
        missing: updates without a reply.
        untrue: replies that say something else than what was kept, and what is kept in the wrong place, or as
            somebody else's.
        disorder: effects and replies that came after one that should have followed them.
        apologies: updates that were apologised for, which is no fault of the bot.
    """

    sent: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    apologies: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.missing or self.untrue or self.disorder)

    @property
    def row(self) -> list[int]:
        """The numbers."""
        return [self.sent, *map(len, (self.lost, self.doubled, self.missing, self.untrue, self.disorder))]

    def __add__(self, other: "Balance") -> "Balance":
        return Balance(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass
class Ledger:
    """What was written, by place, in order. Every message has a name, which is unique per user."""

    written: dict[Place, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))  # name: update
    shuffled: set[int] = field(default_factory=set)  # updates of which no order is expected
    forgotten: dict[int, int] = field(default_factory=dict)  # user: the update at which they were last
    beside: set[int] = field(default_factory=set)  # what came beside one of these: before it or after
    stopped: set[int] = field(default_factory=set)  # updates whose answer somebody stopped, or tried to
    authors: dict[tuple[Place, str], int] = field(default_factory=dict)  # where all write as one
    photos: dict[str, tuple[Place, int]] = field(default_factory=dict)  # of albums: where, and the update
    reminders: dict[tuple[Place, str], float] = field(default_factory=dict)  # asked for: in so many seconds

    def write(self, place: Place, name: str, update_id: int, author: int | None = None) -> None:
        self.written[place][name] = update_id
        if author:
            self.authors[place, name] = author

    def missing(self, said: Mapping[int, Sequence[str]]) -> list[str]:
        """Messages without a reply so far."""
        return [
            name for place in self.written for name in self._unanswered(place, said.get(place.chat_id, ()))
        ]

    def forget(self, user_id: int, pressed: int, beside: Iterable[int]) -> None:
        """A user had everything erased: what was written before has no effect, nor may it get one."""
        self.forgotten[user_id] = max(pressed, self.forgotten.get(user_id, 0))
        self.beside |= set(beside)

    def stop(self, update_ids: Iterable[int]) -> None:
        """Somebody stopped the answers to these: what was said until then is the answer, be it nothing.

        One that is stopped before it begins, as after a kill, has no effect. One too late does nothing.
        """
        self.stopped |= set(update_ids)

    def halves(self, said: Mapping[int, Sequence[str]]) -> list[str]:
        """Answers of which but a part is there, though nobody stopped them."""
        stopped = {
            (place.chat_id, name)
            for place, names in self.written.items()
            for name, update_id in names.items()
            if update_id in self.stopped
        }
        return [
            f"{text!r} in chat {chat_id}"
            for chat_id, texts in said.items()
            for text in texts
            if (half := _HALF.fullmatch(text)) and half[3] and not text.endswith(("sorry", "reminded"))
            if (chat_id, half[1]) not in stopped
        ]

    def is_gone(self, place: Place, name: str) -> bool:
        """Whether a message was written before its user was forgotten."""
        return self.written[place].get(name, 0) < self.forgotten.get(place.user_id, 0)

    def is_certain(self, place: Place, name: str) -> bool:
        """Whether a message has to have an effect, and a reply that stays true."""
        return (
            not self.is_gone(place, name) and self.written[place].get(name) not in self.beside | self.stopped
        )

    def balance(self, exports: Mapping[int, Mapping[str, Any]], said: Mapping[int, Sequence[str]]) -> Balance:
        """Compare.

        An agent may raise. Then its user gets an apology, `NAME sorry`, in the place of effect and reply.

        Args:
            exports: per user, or group with a record of its own, what the bot says it keeps (`/export`).
            said: per chat, the texts that the bot sent there.
        """
        balance = Balance()
        for user_id in {place.user_id for place in self.written}:
            places = [place for place in self.written if place.user_id == user_id]
            effects = exports[user_id]["state"].get("effects", [])
            sorry = {name for place in places for name in _apologies(said.get(place.chat_id, ()))}
            balance += self._effects(user_id, places, effects, sorry)
            balance += self._conversations(user_id, effects, exports[user_id])
            for place in places:
                balance += self._replies(place, effects, said.get(place.chat_id, ()))
        return balance

    def unreminded(self, said: Mapping[int, Sequence[str]]) -> list[str]:
        """Messages that asked for a reminder, and have none so far."""
        return [
            name
            for (place, name) in self.reminders
            if self.is_certain(place, name) and f"{name} reminded" not in said.get(place.chat_id, ())
        ]

    def reminded(
        self,
        exports: Mapping[int, Mapping[str, Any]],
        said: Mapping[int, Sequence[str]],
        runs: Iterable[str],
    ) -> Balance:
        """Compare what was asked for with what was reminded of.

        Args:
            exports: as for `balance`.
            said: as for `balance`.
            runs: whose record, and the message's name, each time that one was computed.
        """
        balance = Balance(
            untrue=[f"{each}: run {n} times" for each, n in Counter(runs).items() if n > MOST_RUNS]
        )
        waited: dict[int, dict[str, list[float]]] = {}
        for user_id, export in exports.items():
            of_user = waited.setdefault(user_id, defaultdict(list))
            for name, seconds in export["state"].get("reminded", ()):
                of_user[name].append(seconds)
        for (place, name), seconds in self.reminders.items():
            label = f"reminder {name} of user {place.user_id}"
            found = waited[place.user_id].pop(name, [])
            balance.doubled += [label] * (len(found) - 1)
            if found and self.is_gone(place, name):
                balance.doubled.append(label)
            balance.untrue += [f"{label}: early" for each in found if each < seconds - EARLY]
            if self.is_certain(place, name):
                balance.lost += [] if found else [label]
                texts = said.get(place.chat_id, ())
                balance.missing += [] if f"{name} reminded" in texts else [label]
        balance.doubled += [f"reminder {name} of nobody" for each in waited.values() for name in each]
        return balance

    def albums(self, exports: Mapping[int, Mapping[str, Any]]) -> Balance:
        """Compare the photos that people sent in albums with those that the agent has seen."""
        balance = Balance()
        seen = Counter[str]()
        for export in exports.values():
            for photos in export["state"].get("photos", ()):
                seen.update(photos)
        for photo, (place, update_id) in self.photos.items():
            label, forgotten = f"photo {photo}", self.forgotten.get(place.user_id, 0)
            balance.doubled += [label] * (seen[photo] - 1)
            if update_id < forgotten and seen[photo]:
                balance.doubled.append(label)
            name = photo.rpartition(" ")[2].partition("/")[0]
            stopped = self.written[place].get(name) in self.stopped
            if update_id > forgotten and update_id not in self.beside and not (seen[photo] or stopped):
                balance.lost.append(label)
        balance.doubled += [f"photo {photo} of nobody" for photo in seen.keys() - self.photos.keys()]
        return balance

    def files(self, sent: Mapping[tuple[int, str], Sequence[bytes]]) -> Balance:
        """Compare the files that came with replies.

        Args:
            sent: by chat and name, the contents, which are to be the same when one comes again.
        """
        balance = Balance()
        for place, names in self.written.items():
            for name in names:
                # The bot knows of one group per person; from whichever they write, files go there.
                chat_id = -1_000 - place.user_id if name[0] == "g" else place.chat_id
                expected, found = file_of(name), sent.get((chat_id, name), ())
                if expected and not found and self.is_certain(place, name):
                    balance.missing.append(f"file of {name} of user {place.user_id}")
                if any(content != expected for content in found):
                    balance.untrue.append(f"file of {name} of user {place.user_id}")
        return balance

    def _effects(
        self, user_id: int, places: Iterable[Place], effects: Sequence[str], sorry: set[str]
    ) -> Balance:
        written = [(place, name) for place in places for name in self.written[place] if name not in sorry]
        certain = Counter(name for place, name in written if self.is_certain(place, name))
        possible = Counter(name for place, name in written if not self.is_gone(place, name))
        balance = Balance(
            sent=sum(len(self.written[place]) for place in places),
            lost=_labels(user_id, certain - Counter(effects)),
            doubled=_labels(user_id, Counter(effects) - possible),
            apologies=_labels(user_id, sorry),
        )
        for place in places:
            balance.disorder += self._disorder(place, effects)
        return balance

    def _conversations(self, user_id: int, effects: Sequence[str], export: Mapping[str, Any]) -> Balance:
        """Each conversation, of which the newest part is kept, is changed together with the state."""
        balance = Balance()
        conversations = {user_id: export.get("history", ())}
        for name, messages in export.get("conversations", {}).items():
            conversations[int(name.split(":")[0])] = messages
        for chat_id, messages in conversations.items():
            place = Place(user_id, chat_id)
            talked: dict[int | None, list[str]] = defaultdict(list)
            for message in messages:
                name = (_TITLE.sub("", message["text"]).split() or [""])[0]
                author = self.authors.get((place, name))
                if message["role"] != "user" or not _NAME.fullmatch(name):
                    continue
                if self.written[place].get(name) in self.stopped:
                    continue
                if name not in self.written[place] or message.get("author", {}).get("id") != author:
                    balance.untrue.append(f"{name} of user {user_id}, kept in chat {chat_id}")
                talked[author].append(name)
            for author, names in talked.items():
                happened = [
                    name
                    for name in effects
                    if name in self.written[place] and self.authors.get((place, name)) == author
                    if self.written[place][name] not in self.stopped
                ]
                newest, found = Counter(happened[len(happened) - len(names) :]), Counter(names)
                if author in self.forgotten:  # what they wrote before may be gone
                    balance.doubled += _labels(user_id, found - Counter(happened))
                else:
                    balance.lost += _labels(user_id, newest - found)
                    balance.doubled += _labels(user_id, found - newest)
        return balance

    def _replies(self, place: Place, effects: Sequence[str], said: Sequence[str]) -> Balance:
        truth = {f"{name} #{number}" for number, name in enumerate(effects, start=1)}
        replies = [text for text in dict.fromkeys(said) if _REPLY.fullmatch(text)]
        answered = _answered(said)
        replies = [text for text in replies if self.is_certain(place, text.split()[0])]
        return Balance(
            missing=[
                f"{name} of user {place.user_id}, {self.written[place][name]}"
                for name in self._unanswered(place, said)
            ],
            untrue=_labels(place.user_id, set(replies) - truth),
            disorder=self._disorder(place, answered),
        )

    def _unanswered(self, place: Place, said: Sequence[str]) -> set[str]:
        certain = {name for name in self.written[place] if self.is_certain(place, name)}
        return certain - set(_answered(said))

    def _disorder(self, place: Place, names: Iterable[str]) -> list[str]:
        """Those that came, for the first time, after one that was written later.

        A process that is stopped just before it sends may send what was forgotten meanwhile.
        """
        updates = self.written[place]
        came, is_after = list[str](), False
        for name in dict.fromkeys(names):
            if updates.get(name, 0) not in self.shuffled | {0}:
                is_gone = self.is_gone(place, name)
                if not (is_gone and is_after):
                    came.append(name)
                is_after |= not is_gone
        return [
            f"{later} after {earlier} of user {place.user_id}, {updates[later]}, {updates[earlier]}"
            for earlier, later in pairwise(came)
            if updates[later] < updates[earlier]
        ]


def _answered(said: Iterable[str]) -> list[str]:
    """The messages that the bot replied to, or apologised for, in that order."""
    texts = dict.fromkeys(said)
    return [text.split()[0] for text in texts if _REPLY.fullmatch(text) or _SORRY.fullmatch(text)]


def _apologies(said: Iterable[str]) -> list[str]:
    """The messages that the bot apologised for."""
    return [text.split()[0] for text in said if _SORRY.fullmatch(text)]


def _labels(user_id: int, names: Iterable[str]) -> list[str]:
    return [f"{name} of user {user_id}" for name in names]


HEADINGS = (
    "updates sent", "effects lost", "effects doubled", "replies missing", "replies untrue", "order broken"
)  # fmt: skip


def table(rows: Mapping[str, Balance]) -> str:
    """The outcome of several runs, for people."""
    width = max(map(len, rows))
    lines = ["  ".join([" " * width, *HEADINGS])]
    for name, balance in rows.items():
        cells = (f"{n:,}".rjust(len(heading)) for n, heading in zip(balance.row, HEADINGS, strict=True))
        lines.append("  ".join([name.ljust(width), *cells]))
    return "\n".join(lines)


def felt(columns: Mapping[str, Mapping[str, int]]) -> str:
    """How often each fault was felt in several runs, for people; `-` where it cannot happen."""
    names = sorted({name for column in columns.values() for name in column})
    width = max(map(len, names))
    lines = ["  ".join(["how often felt".ljust(width), *columns])]
    for name in names:
        cells = (
            (f"{column[name]:,}" if name in column else "-").rjust(len(heading))
            for heading, column in columns.items()
        )
        lines.append("  ".join([name.ljust(width), *cells]))
    return "\n".join(lines)
