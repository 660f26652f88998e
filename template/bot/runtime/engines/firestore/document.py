"""What Firestore holds of a user: one document, and how a commit changes it.

Its fields are

    state, fsm, outbox   maps: JSON of each of the owner's keys, of each flow, of each update's replies
    marks                map: JSON of bookkeeping that outlives forgetting
    history              map: JSON of each message, by its number
    said                 map: JSON of all messages of each further conversation, oldest first
    talks                map: JSON of what is noted of each conversation, where there are several
    applied              JSON: ids of the updates applied last
    later                when it has something to do, as a commit said last, in microseconds since 1970
    token                names the commit that wrote the document
    forgotten            the version at which the user was last forgotten; -1: this very one
    marker               true when that is all there is to know
    expires_at           when the record is over; Firestore's TTL policy deletes the document some time later

The version is no field: it is the time at which the server says it last wrote the document. The files of
replies are documents of their own: `content` and `expires_at`.

So is what a record has to do, since a claim must not change the version. It is there as long as there is
something, and written by the commit that says so, or by a claim:

    due                  when, in microseconds since 1970; the one field that queries go by
    claims               how often somebody has begun to do it
    token                names the claim that wrote the document
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import orjson
from google.cloud.firestore_v1.field_path import FieldPath

from bot.runtime.errors import StateCorrupt, StateTooLarge
from bot.runtime.state.codec import dumps, loads
from bot.runtime.state.record import HOME, Message, OutboxEntry, UserRecord, decode_record
from bot.runtime.state.store import APPLIED_LIMIT, FORGOTTEN_SECONDS, NEVER, Changes

K = TypeVar("K")
Path = tuple[str, ...]
Value = str | int | bool | datetime
Fields = dict[Path, Value]
"""A document's content: by field, and by map and key."""

MAX_DOCUMENT_BYTES = 1_048_576
MAX_FIELD_PATH_BYTES = 1_500
"""https://cloud.google.com/firestore/quotas"""

_EPOCH = datetime.fromtimestamp(0, UTC)
_FORGOTTEN_NOW = -1
_DUE = "_due_"  # no user's id has a second line
_BEGINS = "%"
"""Before a key that Firestore takes for no field's name."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document's content, its values serialised. An empty one stands for none."""

    token: str = ""
    state: Mapping[str, str] = field(default_factory=dict)
    fsm: Mapping[str, str] = field(default_factory=dict)
    history: Mapping[int, str] = field(default_factory=dict)
    applied: tuple[int, ...] = ()
    outbox: Mapping[int, str] = field(default_factory=dict)
    forgotten: int = 0
    expires: datetime | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)
    talks: Mapping[str, str] = field(default_factory=dict)
    later: int = NEVER

    @property
    def is_marker(self) -> bool:
        """Whether all that is left is that the user was forgotten."""
        return self.forgotten != 0 and not (self.state or self.fsm or self.history or self.talks)

    def record(self, user_id: str, version: int, conversation: str | None = HOME) -> UserRecord:
        """The record that the document, at this version, holds; with one conversation or all.

        Raises:
            StateCorrupt: a part is not what a commit writes.
        """
        try:
            wanted = self.said if conversation is None else {conversation} & self.said.keys()
            said = {name: loads(self.said[name]) for name in wanted}
            history = said.pop(conversation, []) if conversation else []
            if not conversation:
                history = loads(f"[{','.join(self.history[number] for number in sorted(self.history))}]")
            others = {name: [Message.from_json(each) for each in messages] for name, messages in said.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(user_id, error) from None
        return decode_record(
            user_id,
            version=version,
            token=self.token,
            state=_encoded(self.state),
            fsm=_encoded(self.fsm),
            unread=history,
            applied=self.applied,
            outbox=_encoded(self.outbox),
            forgotten=self._forgotten_at(version),
            marks=_encoded(self.marks),
            conversation=conversation or HOME,
            conversations=_encoded(self.talks),
            others=others,
        )

    def after(self, changes: Changes, *, version: int, now: datetime, ttl: timedelta | None) -> "Document":
        """What the document is after a commit.

        Args:
            changes: what the commit writes.
            version: this document's.
            now: the server's time.
            ttl: how long the record is kept; `None` for no limit.
        """
        before = Document(applied=self.applied, marks=self.marks) if changes.forget else self
        forgotten = _FORGOTTEN_NOW if changes.forget else self._forgotten_at(version)
        applied = (*before.applied, *changes.applied)[-APPLIED_LIMIT:]
        outbox = _merged(before.outbox, changes.outbox)
        marks = _merged(before.marks, changes.marks)
        after = Document(
            token=changes.token,
            state=_merged(before.state, changes.state),
            fsm=_merged(before.fsm, changes.fsm),
            history=_continued(before.history, changes),
            applied=applied,
            outbox={key: entry for key, entry in outbox.items() if key in applied or str(key) in marks},
            forgotten=forgotten,
            marks=marks,
            said=_said_after(before.said, changes),
            talks=_merged(before.talks, changes.noted),
            later=before.later if changes.due is None else changes.due,
        )
        if after.is_marker:
            return after._until(now + timedelta(seconds=FORGOTTEN_SECONDS))
        return (
            after
            if ttl is None
            else after._until(max(now, _EPOCH + timedelta(microseconds=after.later)) + ttl)
        )

    def fields(self) -> Fields:
        """The document as Firestore holds it."""
        fields: Fields = {("token",): self.token, ("applied",): dumps(list(self.applied), "applied").decode()}
        for name, texts in (
            ("state", self.state),
            ("fsm", self.fsm),
            ("marks", self.marks),
            ("said", self.said),
            ("talks", self.talks),
        ):
            fields |= {(name, _name_of(key)): text for key, text in texts.items()}
        for name, entries in (("history", self.history), ("outbox", self.outbox)):
            fields |= {(name, str(number)): text for number, text in entries.items()}
        if self.forgotten:
            fields["forgotten",] = self.forgotten
        if self.later:
            fields["later",] = self.later
        if self.is_marker:
            fields["marker",] = True
        if self.expires:
            fields["expires_at",] = self.expires
        return fields

    def _forgotten_at(self, version: int) -> int:
        return version if self.forgotten == _FORGOTTEN_NOW else self.forgotten

    def _until(self, expires: datetime) -> "Document":
        return replace(self, expires=expires)


def read(user_id: str, fields: Mapping[str, Any]) -> Document:
    """Read the fields of Firestore's own message.

    Raises:
        StateCorrupt: a commit did not write them.
    """
    try:
        return Document(
            token=_text(fields["token"]),
            state={_key_of(name): text for name, text in _texts(fields, "state").items()},
            fsm={_key_of(name): text for name, text in _texts(fields, "fsm").items()},
            history={int(number): text for number, text in _texts(fields, "history").items()},
            applied=applied_ids(fields),
            outbox={int(number): text for number, text in _texts(fields, "outbox").items()},
            forgotten=fields["forgotten"].integer_value if "forgotten" in fields else 0,
            expires=expiry(fields),
            marks=_marks(fields),
            said={_key_of(name): text for name, text in _texts(fields, "said").items()},
            talks={_key_of(name): text for name, text in _texts(fields, "talks").items()},
            later=fields["later"].integer_value if "later" in fields else NEVER,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(user_id, error) from None


def read_remains(fields: Mapping[str, Any]) -> Document:
    """What has to outlive even a document that cannot be read: ids of updates and marks, if they can."""
    try:
        return Document(applied=applied_ids(fields), marks=_marks(fields))
    except (ValueError, KeyError, TypeError):
        return Document()


def applied_ids(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids of the updates applied last. Raises `ValueError`, `KeyError` or `TypeError`."""
    ids = tuple(loads(_text(fields["applied"])))
    if not {int}.issuperset(map(type, ids)):
        raise TypeError("not ids")
    return ids


def _marks(fields: Mapping[str, Any]) -> dict[str, str]:
    return {_key_of(name): text for name, text in _texts(fields, "marks").items()}


def expiry(fields: Mapping[str, Any]) -> datetime | None:
    """When the record is over. Raises `TypeError`."""
    if "expires_at" not in fields:
        return None
    value = fields["expires_at"]
    if value.WhichOneof("value_type") != "timestamp_value":
        raise TypeError("not a time")
    moment: datetime = value.timestamp_value.ToDatetime(tzinfo=UTC)
    return moment


def difference(before: Fields, after: Fields) -> tuple[Fields, list[str]]:
    """What to send so that `before` becomes `after`: the changed fields, and the mask that names them.

    A field that the mask alone names is deleted.
    """
    changed = {path: value for path, value in after.items() if before.get(path) != value}
    return changed, [mask_path(path) for path in (*changed, *(before.keys() - after.keys()))]


def mask_path(path: Path) -> str:
    """A field's path as Firestore writes it, quoted where it must be."""
    return FieldPath(*path).to_api_repr()


def check_document(user_id: str, name: str, fields: Fields) -> None:
    """Refuse what Firestore would refuse.

    Args:
        user_id: for the error.
        name: the document's, from its collection on.
        fields: its content.

    Raises:
        StateTooLarge: the document is too large, or one of its keys too long.
    """
    size = document_size(name, fields)
    if size > MAX_DOCUMENT_BYTES:
        reason = f"{size} bytes, bookkeeping included, are more than Firestore's {MAX_DOCUMENT_BYTES}"
        raise StateTooLarge(reason, user_id)
    for path in fields:
        if len(path) > 1 and (length := len(mask_path(path).encode())) > MAX_FIELD_PATH_BYTES:
            reason = f"a key's path of {length} bytes is more than Firestore's {MAX_FIELD_PATH_BYTES}"
            raise StateTooLarge(reason, user_id)


def document_size(name: str, fields: Fields) -> int:
    """Bytes that Firestore counts for a document.

    Maps count like documents, https://cloud.google.com/firestore/docs/storage-size says: so we take them to
    have the 32 additional bytes, too, and rather refuse a few bytes too early.
    """
    size = sum(map(_text_size, name.split("/"))) + 16 + 32
    maps = {path[0] for path in fields if len(path) > 1}
    size += sum(_text_size(name) + 32 for name in maps)
    return size + sum(_text_size(path[-1]) + _size(value) for path, value in fields.items())


def document_id(user_id: str) -> str:
    """The id of a user's document: theirs where it is plain, else percent-encoded.

    Neither `.` nor `_` is in it, so it is none of the ids Firestore reserves, nor one of those we do.
    """
    return quote(user_id, safe=":").replace(".", "%2E").replace("_", "%5F") or _BEGINS


def kept_files(outbox: Mapping[Any, str]) -> frozenset[str]:
    """The ids of the files of the replies that wait in an outbox; none of a reply that cannot be read."""
    found: set[str] = set()
    for entry in outbox.values():
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            found.update(OutboxEntry.from_json(loads(entry)).kept_files())
    return frozenset(found)


def files_in(fields: Mapping[str, Any]) -> frozenset[str]:
    """The same of a document as Firestore holds it, whatever else is wrong with that."""
    try:
        return kept_files(_texts(fields, "outbox"))
    except TypeError:
        return frozenset()


def part_id(user_id: str, name: str) -> str:
    """The id of the document with a part of a file: with a line in front it is no user's.

    All of a user's stand together, between that of no name and that of `~`.
    """
    return f"_{document_id(user_id)} {quote(name, safe='')}"


def due_id(user_id: str) -> str:
    """The id of the document that says when a user's record has something to do."""
    return f"{_DUE}{document_id(user_id)}"


def due_in(fields: Mapping[str, Any]) -> int:
    """When that is, in microseconds since 1970; `NEVER` where there is no such document."""
    return int(fields["due"].integer_value) if "due" in fields else NEVER


def user_due(document_id: str) -> str:
    """Whose document of that kind it is."""
    return user_of(document_id.removeprefix(_DUE)) or ""


def user_of(document_id: str) -> str | None:
    """Whose document it is; `None` for nobody's."""
    if document_id.startswith("_"):
        return None
    return "" if document_id == _BEGINS else unquote(document_id)


def _unreadable(user_id: str, error: Exception) -> StateCorrupt:
    return StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id)


def _name_of(key: str) -> str:
    """The field's name for a key: Firestore takes neither an empty one nor `__like_this__`."""
    return f"{_BEGINS}{key}" if not key or key.startswith(("__", _BEGINS)) else key


def _key_of(name: str) -> str:
    return name.removeprefix(_BEGINS)


def _text(value: Any) -> str:
    if value.WhichOneof("value_type") != "string_value":
        raise TypeError("not a text")
    text: str = value.string_value
    return text


def _texts(fields: Mapping[str, Any], name: str) -> dict[str, str]:
    if name not in fields:
        return {}
    if fields[name].WhichOneof("value_type") != "map_value":
        raise TypeError("not a map")
    return {key: _text(value) for key, value in fields[name].map_value.fields.items()}


def _encoded(texts: Mapping[K, str]) -> dict[K, bytes]:
    return {key: text.encode() for key, text in texts.items()}


def _merged(before: Mapping[K, str], changes: Mapping[K, bytes | None]) -> dict[K, str]:
    kept = {key: text for key, text in before.items() if key not in changes}
    return kept | {key: value.decode() for key, value in changes.items() if value is not None}


def _continued(before: Mapping[int, str], changes: Changes) -> dict[int, str]:
    """The history with the new messages, trimmed."""
    history = {} if changes.clear_history else dict(before)
    first = max(before, default=0) + 1
    for number, message in enumerate(changes.messages, start=first):
        history[number] = message.encode().decode()
    surplus = len(history) - (len(history) if changes.keep_history is None else changes.keep_history)
    for number in sorted(history)[: max(0, surplus)]:
        del history[number]
    return history


def _said_after(before: Mapping[str, str], changes: Changes) -> dict[str, str]:
    """The further conversations with the new messages, trimmed."""
    said = dict(before)
    for name, change in changes.conversations.items():
        if change is None:
            said.pop(name, None)
        elif name:
            fresh = [orjson.Fragment(message.encode()) for message in change.messages]
            messages = [*loads(said.get(name, "[]")), *fresh]
            said[name] = orjson.dumps(messages[len(messages) - change.kept :]).decode()
    return said


def _size(value: Value) -> int:
    match value:
        case bool():
            return 1
        case str():
            return _text_size(value)
        case _:
            return 8


def _text_size(text: str) -> int:
    return (len(text) if text.isascii() else len(text.encode())) + 1
