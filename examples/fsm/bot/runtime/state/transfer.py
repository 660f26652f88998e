"""Export and import: JSON Lines, one user a line, the same on every engine; few are in memory at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator
from pydantic_core import from_json

from bot.runtime.errors import StateConflict, StateCorrupt, StateTooLarge, StateValueError
from bot.runtime.state.codec import dumps
from bot.runtime.state.jobs import FULL, JOB, STOP, UPDATE, Timetable, jobs_in
from bot.runtime.state.record import (
    FORGETTING,
    UPGRADED_FROM,
    UPGRADED_TO,
    UserRecord,
    encode_entry,
    merged_history,
    merged_others,
)
from bot.runtime.state.store import Changes, StateStore
from bot.runtime.state.turn import COMMIT_ATTEMPTS, Turn

AT_ONCE = 20
"""Records read or written at the same time."""

OVERDUE = "overdue when it was imported"
"""Why a job of an import does not run by itself: it may have run where it comes from."""


JOBS_END = 253_402_300_799_000_000
"""The last second of the year 9999, in microseconds since 1970."""


class UnusableLine(ValueError):
    """A line of an import is no record, or one that cannot be kept. Nobody's record was replaced by it."""

    def __init__(self, number: int, reason: Exception, imported: int) -> None:
        """Name the line, counted from 1, and say how many users are imported."""
        users = "1 user is" if imported == 1 else f"{imported} users are"
        # Keys may be what people wrote. The line has them.
        text = reason.outline if isinstance(reason, StateValueError) else str(reason)
        super().__init__(f"line {number}: {text} ({users} imported; fix the line and import again)")


async def export_lines(
    store: StateStore, unreadable: Callable[[StateCorrupt], object] | None = None
) -> AsyncIterator[bytes]:
    """Every user's record as a line of JSON.

    Args:
        store: where the records are.
        unreadable: is told of each record that is corrupt, which is left out; if `None`, the first is raised.

    Raises:
        StateError: a record could not be read.
    """
    async for record in all_records(store, unreadable):
        for file in (file for entry in record.outbox.values() for file in entry.kept_files()):
            if (content := await store.read_file(record.user_id, file)) is not None:
                record.files[file] = content
        yield orjson.dumps(record.to_json()) + b"\n"


async def all_records(
    store: StateStore, unreadable: Callable[[StateCorrupt], object] | None = None
) -> AsyncIterator[UserRecord]:
    """Every user's record, with all conversations; see `export_lines`."""
    user_ids: list[str] = []
    async for user_id in store.users():
        user_ids.append(user_id)
        if len(user_ids) == AT_ONCE:
            for record in await _loaded(store, user_ids, unreadable):
                yield record
            user_ids.clear()
    for record in await _loaded(store, user_ids, unreadable):
        yield record


async def import_lines(
    store: StateStore, lines: Iterable[bytes], *, with_forgotten: bool = False, merge: bool = False
) -> AsyncIterator[tuple[int, int]]:
    """Put the records of an export into the store. Safe to repeat.

    Args:
        store: where to put them.
        lines: the export.
        with_forgotten: also of users who were forgotten here.
        merge: add to the records that exist, see `import_record`; otherwise they are replaced.

    Yields:
        Now and then, how many users are imported, and how many left out because they were forgotten.

    Raises:
        UnusableLine: a line is no record, or one that cannot be kept.
        StateError: a record could not be written.
    """
    imported = left_out = 0
    timetable = Timetable()
    await timetable.ask(store)
    numbered = enumerate(lines, start=1)
    while batch := list(islice(numbered, AT_ONCE)):
        records: dict[str, tuple[int, UserRecord]] = {}  # of a user who stands there twice, the last
        unusable: list[tuple[int, Exception]] = []
        for number, line in batch:
            try:
                record = read_line(line)
            except ValueError as error:
                unusable.append((number, error))
                break
            records[record.user_id] = number, record
        results = await asyncio.gather(
            *(
                import_record(store, record, with_forgotten=with_forgotten, merge=merge, timetable=timetable)
                for _, record in records.values()
            ),
            return_exceptions=True,
        )
        for (number, _), result in zip(records.values(), results, strict=True):
            if isinstance(result, ValueError | StateTooLarge):
                unusable.append((number, result))
            elif isinstance(result, BaseException):
                raise result
            else:
                imported += result
                left_out += not result
        if unusable:
            number, reason = min(unusable, key=lambda each: each[0])
            raise UnusableLine(number, reason, imported) from None
        yield imported, left_out


def read_line(line: bytes) -> UserRecord:
    """Read one line of an export.

    Raises:
        ValueError: it is not one.
    """
    try:
        # Not orjson, which reads integers beyond 64 bits as floats.
        _Line.model_validate(value := from_json(line, allow_inf_nan=False))
        flows: dict[str, dict[str, Any]] = {part: {} for part in _Flows.model_fields}
        for name, flow in value["fsm"].items():
            flows[_part_of(name)][name] = flow
        _Flows.model_validate(flows)
    except ValidationError as error:
        raise _what_is_wrong(error) from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    return UserRecord.from_json(value)


def _part_of(name: str) -> str:
    """Which of the things that lie among a record's flows one of this name is."""
    if name in (UPGRADED_FROM, UPGRADED_TO):
        return "upgrades"
    if name == FULL or name.startswith(STOP):
        return "full"
    return "jobs" if name.startswith(JOB) else "updates" if name.startswith(UPDATE) else "fsm"


async def import_record(
    store: StateStore,
    record: UserRecord,
    *,
    with_forgotten: bool = False,
    merge: bool = False,
    timetable: Timetable | None = None,
) -> bool:
    """Put a record into the store. Safe to repeat.

    Its jobs come along. Those whose time is over are kept as stopped, but for what is done again and again,
    which goes on at its next time.

    A merge keeps what only the existing record has. A key of the state, or a flow, that both have is taken
    from the imported one; imported messages that are missing are inserted by their time.

    Args:
        store: where to put it.
        record: the record.
        with_forgotten: also when its user was forgotten here, now or before the existing record began.
        merge: add to the record that exists; otherwise it is replaced.
        timetable: the store's time.

    Returns:
        Whether it was put there.

    Raises:
        StateError: it could not be written.
        StateValueError: it holds a value that cannot be kept.
    """
    timetable = timetable or Timetable()
    if record.user_id != FORGETTING:  # whoever asked to be forgotten is to be, however often
        _stop_overdue(record, timetable.now())
    owes = any(entry.is_owed for entry in record.outbox.values())
    for _ in range(COMMIT_ATTEMPTS):
        existing = await store.load(record.user_id, None)
        if existing.forgotten and not with_forgotten:
            return False
        outbox: dict[int, bytes | None] = {key: encode_entry(entry) for key, entry in record.outbox.items()}
        turn = Turn(existing, store.limits, timetable=timetable)
        if record.user_id == FORGETTING:
            record.fsm = _both_asked(existing, record)
        if merge:
            turn.state |= record.state
            turn.fsm |= record.fsm
            turn.history = merged_history(existing.history, record.history)
            turn.replace_others(merged_others(existing.others, record.others))
        else:
            turn.state, turn.fsm, turn.history = record.state, record.fsm, record.history
            turn.replace_others(record.others)
            outbox = dict.fromkeys(existing.outbox) | outbox
        changes = replace(
            turn.changes(outbox, owes=owes) or Changes(due=turn.due({}, outbox, owes=owes)),
            applied=tuple(key for key in record.acknowledged if key not in existing.applied),
            outbox=outbox,
            marks=_marks(existing, record),
            files=record.files,
        )
        try:
            await store.commit(record.user_id, changes, expect=existing.version)
        except StateConflict:
            continue
        return True
    raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", record.user_id)


def _stop_overdue(record: UserRecord, now: int) -> None:
    for job in jobs_in(record.fsm):
        if job.at <= now and not job.stopped:
            later = job.next(now) if job.every else replace(job, stopped=OVERDUE)
            record.fsm[JOB + job.id] = later.to_json()


def _both_asked(existing: UserRecord, imported: UserRecord) -> dict[str, Any]:
    """The requests to be forgotten of both: of a person's two, the later one."""
    walks = [job for each in (existing, imported) for job in jobs_in(each.fsm)]
    people: dict[str, int] = {}
    for walk in walks:
        for user_id, at in walk.arguments.items():
            people[user_id] = max(at, people.get(user_id, 0))
    return {JOB + walks[-1].id: replace(walks[-1], arguments=people).to_json()} if walks else {}


def _marks(existing: UserRecord, imported: UserRecord) -> dict[str, bytes | None]:
    """The imported marks, but for those of updates that are known to be applied here, and acknowledged."""
    return {
        name: dumps(mark, "marks")
        for name, mark in imported.marks.items()
        if not name.isdecimal() or int(name) not in existing.acknowledged
    }


async def _loaded(
    store: StateStore, user_ids: Iterable[str], unreadable: Callable[[StateCorrupt], object] | None
) -> list[UserRecord]:
    records = []
    loading = (store.load(user_id, None) for user_id in user_ids)
    for result in await asyncio.gather(*loading, return_exceptions=True):
        if isinstance(result, StateCorrupt) and unreadable:
            unreadable(result)
        elif isinstance(result, BaseException):
            raise result
        elif not _is_gone(result):
            records.append(result)
    return records


def _is_gone(record: UserRecord) -> bool:
    """Whether its user was forgotten, or the record has expired, since it was listed."""
    return record.is_empty and (record.version == 0 or record.forgotten > 0)


def _what_is_wrong(error: ValidationError) -> ValueError:
    """Where and what: without the value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    what, *_ = first["msg"].split(" or instance of ")
    if not first["loc"]:
        return ValueError(f"not an exported record: {what}")
    part, *below = first["loc"] if first["loc"][0] in _Line.model_fields else ("fsm", *first["loc"][1:])
    where = f"{part}{''.join(f'[{each!r}]' for each in below)}"
    return StateValueError(where, f"is not as exported: {what}")


class _Part(BaseModel):
    """A part of a line: just what `UserRecord.to_json` writes, so that nothing is lost or guessed."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Author(_Part):
    id: int
    name: str


class _Message(_Part):
    role: Literal["user", "assistant"]
    text: str
    at: FiniteFloat
    author: _Author | None = None
    data: Any = None

    @field_validator("data")
    @classmethod
    def _can_be_kept(cls, value: Any) -> Any:
        try:
            dumps(value, "data")
        except StateValueError as error:
            raise ValueError(error.outline) from None  # its keys may be what people wrote
        return value


class _Flow(_Part):
    state: str | None = None
    data: dict[str, Any] = {}
    at: FiniteFloat


class _JobData(_Part):
    name: str
    at: Annotated[int, Field(ge=0, le=JOBS_END)]
    place: tuple[int | None, int | None, str | None, int | None]
    args: dict[str, Any] = {}
    every: Annotated[FiniteFloat, Field(ge=1)] | None = None
    zone: str = ""
    tries: Annotated[int, Field(ge=0)] = 0
    to: str = ""
    stopped: str = ""
    made: Annotated[int, Field(ge=0, le=JOBS_END)] = 0
    choices: list[tuple[str, str]] = []

    @field_validator("choices", mode="before")
    @classmethod
    def _are_pairs(cls, value: Any) -> Any:
        return [tuple(each) for each in value] if isinstance(value, list) else value

    @field_validator("place", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("zone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(
                    "this machine does not know the time zone: put the package tzdata into the project"
                ) from None
        return value


class _Job(_Part):
    data: _JobData


class _UpdateData(_Part):
    raw: dict[str, Any]
    at: Annotated[int, Field(ge=0, le=JOBS_END)]
    number: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=0)] = 0


class _Update(_Part):
    data: _UpdateData


class _Chat(_Part):
    chat_id: int


class _Upgrade(_Part):
    data: _Chat


class _Full(_Part):
    data: dict[str, None]


class _Flows(_Part):
    fsm: dict[str, _Flow]
    jobs: dict[str, _Job]
    updates: dict[str, _Update]
    upgrades: dict[str, _Upgrade]
    full: dict[str, _Full]


FileId = Annotated[str, Field(pattern=r"^[0-9]{1,19}/[0-9a-f]{16}/[0-9]{1,10}$")]


class _File(_Part):
    name: str
    kept: FileId | None = None
    path: str | None = None
    url: str | None = None
    headers: dict[str, str] | None = None


class _Reply(_Part):
    method: str
    params: dict[str, str]
    files: dict[str, _File] = {}


class _Outgoing(_Part):
    replies: list[_Reply]
    at: FiniteFloat | None
    owed: bool = False
    failures: Annotated[int, Field(ge=0)] = 0


MARKS = r"^([0-9]{1,19}|[a-z]+|(told|compact):[0-9a-f]+|shown:[0-9]{1,19}|count:[^\x00]{0,64})$"
"""The names of marks: ids of updates, and counters; of the owner's own see `Turn.count`."""

_Mark = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=2, max_length=2)]


class _Line(_Part):
    user_id: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    state: dict[str, Any]
    history: list[_Message]
    conversations: dict[Annotated[str, Field(pattern=r"^[^\x00]+$")], list[_Message]] = {}
    fsm: dict[str, dict[str, Any]]
    applied: list[Annotated[int, Field(ge=0, lt=2**63)]]
    outbox: dict[Annotated[str, Field(pattern=r"^[0-9]{1,19}$")], _Outgoing]
    marks: dict[Annotated[str, Field(pattern=MARKS)], _Mark] = {}
    files: dict[FileId, str] = {}
