"""How a user's record lies in DynamoDB: one item, in DynamoDB's own form, and what a commit makes of it.

    id          <namespace>:user:<id>
    state:<key> JSON of one of the owner's keys
    fsm:<flow>  JSON of one conversation flow
    history     JSON of the messages, oldest first
    applied     JSON of the ids of the updates applied last, oldest first
    outbox:<id> JSON of the replies of an update
    mark:<name> JSON of bookkeeping that outlives forgetting
    said:<name> JSON of the messages of a further conversation, oldest first
    talk:<name> JSON of what is noted of a conversation, where there are several
    due         when it has something to do, in microseconds since 1970, if it has
    waiting     <namespace>, if it has: what has both is in the index `due`
    claims      how often somebody has begun to do that
    version     grows with every commit
    token       names the commit that wrote this version
    forgotten   the version at which the user was last forgotten
    marker      that nothing is left of the user but this
    expires     when the item is over, in seconds since 1970; DynamoDB deletes it some days later

JSON stands there as text, so that no number is rounded and no map has to exist before a key is put into it.
The files of replies are items of their own, `<namespace>:file:<id>:<part>`, with `content` and `expires`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import orjson

from bot.runtime.errors import StateCorrupt
from bot.runtime.state.codec import loads
from bot.runtime.state.record import HOME, Message, OutboxEntry, UserRecord, decode_record
from bot.runtime.state.store import APPLIED_LIMIT, FORGOTTEN_SECONDS, NEVER, Changes

Item = Mapping[str, Mapping[str, Any]]
"""Attributes by name, each with its type, such as `{"version": {"N": "1"}}`."""

KEY = "id"
STATE, FSM, OUTBOX, MARK = "state:", "fsm:", "outbox:", "mark:"
SAID, TALK = "said:", "talk:"
EXPIRES = "expires"
DUE, WAITING, CLAIMS = "due", "waiting", "claims"
OF_DUE = (DUE, WAITING, CLAIMS)
"""What a claim changes, which is no commit: a record that was loaded may be behind in these alone."""

ITEM_LIMIT = 400 * 1024
"""Most bytes of an item, names included.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html"""

NUMBER_BYTES = 21
"""What a number takes at most."""

AT_ONCE = 100
"""Most attributes that one `UpdateItem` changes, whose expression may have 4 KB; beyond, the item is put."""


def version_of(item: Item) -> int:
    """The version of a record.

    Raises:
        ValueError, KeyError, TypeError: it has none.
    """
    return int(item["version"]["N"]) if item else 0


def token_of(item: Item) -> str | None:
    """The token of the commit that wrote it."""
    token: str | None = item.get("token", {}).get("S")
    return token


def has_expired(item: Item, now: float) -> bool:
    """Whether it only waits to be deleted. `now` is in seconds since 1970."""
    expires = item.get(EXPIRES, {}).get("N")
    return expires is not None and float(expires) <= now


def is_marker(item: Item) -> bool:
    """Whether all that is left is that the user was forgotten."""
    return "marker" in item


def size_of(item: Item) -> int:
    """Its bytes, as DynamoDB counts them."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def decode(user_id: str, item: Item, conversation: str | None) -> UserRecord:
    """Make a record, with one conversation or all, of an item.

    Raises:
        StateCorrupt: it is none.
    """
    try:
        wanted = (name for name, _ in _after(SAID, item)) if conversation is None else (conversation,)
        others = {name: _said(f"{SAID}{name}", item) for name in wanted if name}
        history = others.pop(conversation) if conversation else _said("history", item)
        return decode_record(
            user_id,
            version=version_of(item),
            token=item["token"]["S"],
            state=dict(_after(STATE, item)),
            fsm=dict(_after(FSM, item)),
            unread=history,
            applied=tuple(_applied(item)),
            outbox={int(key): value for key, value in _after(OUTBOX, item)},
            forgotten=_forgotten(item),
            marks=dict(_after(MARK, item)),
            conversation=conversation or HOME,
            conversations=dict(_after(TALK, item)),
            others={name: [Message.from_json(each) for each in said] for name, said in others.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None


def due_of(item: Item) -> int:
    """When it has something to do, in microseconds since 1970; `NEVER` for nothing."""
    return int(item[DUE]["N"]) if DUE in item else NEVER


def changed(
    item: Item, changes: Changes, *, namespace: str, version: int, now: float, ttl: float | None
) -> Item:
    """The item after a commit.

    Args:
        item: the item before; empty when there is no record, or one that has expired.
        changes: the commit.
        namespace: whose record it is.
        version: its version.
        now: seconds since 1970.
        ttl: seconds that a record is kept; `None` for no limit.

    Raises:
        ValueError, KeyError, TypeError: the item is no record. One that is forgotten need not be any.
    """
    applied = [*_applied_if_readable(item)] if changes.forget else _applied(item)
    old: Item = {} if changes.forget else item
    new = {
        name: value
        for name, value in item.items()
        if name.startswith(MARK if changes.forget else (STATE, FSM, OUTBOX, MARK, SAID, TALK))
    }
    for name in ("forgotten", *(OF_DUE if changes.due is None else ())):
        if name in old:
            new[name] = old[name]
    if changes.due:
        new[DUE], new[WAITING] = {"N": str(changes.due)}, {"S": namespace}
    changed = (
        (STATE, changes.state),
        (FSM, changes.fsm),
        (OUTBOX, changes.outbox),
        (MARK, changes.marks),
        (TALK, changes.noted),
    )
    for prefix, values in changed:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if value is None:
                new.pop(name, None)
            else:
                new[name] = {"S": value.decode()}

    for name, change in changes.conversations.items():
        if change is None:
            new.pop(f"{SAID}{name}", None)
        elif name:
            said = [*_said(f"{SAID}{name}", old), *_fragments(change.messages)]
            new[f"{SAID}{name}"] = {"S": orjson.dumps(said[len(said) - change.kept :]).decode()}

    history = [] if changes.clear_history else _said("history", old)
    history += _fragments(changes.messages)
    if changes.keep_history is not None:
        history = history[len(history) - min(len(history), changes.keep_history) :]
    if history:
        new["history"] = {"S": orjson.dumps(history).decode()}

    applied = [*applied, *changes.applied][-APPLIED_LIMIT:]
    if applied:
        new["applied"] = {"S": orjson.dumps(applied).decode()}
    owing = {f"{OUTBOX}{key}" for key in applied}
    owing |= {f"{OUTBOX}{name.removeprefix(MARK)}" for name in new if name.startswith(MARK)}
    new = {name: value for name, value in new.items() if not name.startswith(OUTBOX) or name in owing}

    new["version"], new["token"] = {"N": str(version)}, {"S": changes.token}
    if changes.forget:
        new["forgotten"] = new["version"]
    has_content = "history" in new or any(name.startswith((STATE, FSM, TALK)) for name in new)
    expires = None if ttl is None else max(now, due_of(new) / 1e6) + ttl
    if "forgotten" in new and not has_content:
        new["marker"] = {"BOOL": True}
        expires = now + FORGOTTEN_SECONDS
    if expires is not None:
        new[EXPIRES] = {"N": str(math.ceil(expires))}
    return new


def kept_files(item: Item) -> set[str]:
    """The ids of the files of the replies that wait in it; none of a reply that cannot be read."""
    found: set[str] = set()
    for _, entry in _after(OUTBOX, item):
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            found.update(OutboxEntry.from_json(loads(entry)).kept_files())
    return found


def write(key: str, old: Item, new: Item, *, says_due: bool = False) -> tuple[str, dict[str, Any]]:
    """The request that makes `new` of `old`, on condition that nobody else has committed meanwhile.

    Args:
        key: the item's.
        old: the item before.
        new: the item after.
        says_due: whether it ends any claim. Otherwise one that was made since `old` was read stays; the
            condition has it that a whole item which is put ends none.

    Returns:
        The operation, and its parameters without the table.
    """
    names, values = {"#version": "version"}, {}
    condition = "attribute_not_exists(#version)"
    if "version" in old:
        values[":version"] = old["version"]
        condition = "#version = :version"
    if EXPIRES in old:
        # One that has expired since is not to be written to. Every commit puts this off.
        names["#expires"], values[":expires"] = EXPIRES, old[EXPIRES]
        condition += " AND #expires = :expires"

    said = OF_DUE if says_due else ()
    written = {name: value for name, value in new.items() if old.get(name) != value or name in said}
    removed = [name for name in {**old, **dict.fromkeys(said)} if name not in new and name != KEY]
    parameters: dict[str, Any] = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    if len(written) + len(removed) > AT_ONCE:
        if DUE in old and not says_due:
            names["#due"], values[":due"] = DUE, old[DUE]
            condition += " AND #due = :due"
        operation = "put_item"
        parameters["Item"] = {KEY: {"S": key}, **new}
    else:
        operation = "update_item"
        parameters["Key"] = {KEY: {"S": key}}
        sets, removes = [], []
        for number, (name, value) in enumerate(written.items()):
            names[f"#s{number}"], values[f":s{number}"] = name, value
            sets.append(f"#s{number} = :s{number}")
        for number, name in enumerate(removed):
            names[f"#r{number}"] = name
            removes.append(f"#r{number}")
        parameters["UpdateExpression"] = f"SET {', '.join(sets)}" + (
            f" REMOVE {', '.join(removes)}" if removes else ""
        )
    parameters["ConditionExpression"] = condition
    parameters["ExpressionAttributeNames"] = names
    if values:
        parameters["ExpressionAttributeValues"] = values
    return operation, parameters


def claim(seen: int, until: int, counts: int) -> dict[str, Any]:
    """What changes and conditions a claim has, as parameters of `UpdateItem`; see `StateStore.claim`."""
    names = {"#due": DUE, "#claims": CLAIMS}
    values = {":seen": {"N": str(seen)}}
    if until:
        expression = "SET #due = :until ADD #claims :counts"
        values |= {":until": {"N": str(until)}, ":counts": {"N": str(counts)}}
    else:
        expression = "REMOVE #due, #waiting, #claims"
        names["#waiting"] = WAITING
    return {
        "UpdateExpression": expression,
        "ConditionExpression": "#due = :seen",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW",  # moto's UPDATED_NEW lacks what stays the same
    }


def _said(name: str, item: Item) -> list[Any]:
    return list(loads(item[name]["S"])) if name in item else []


def _fragments(messages: Iterable[Message]) -> list[Any]:
    return [orjson.Fragment(message.encode()) for message in messages]


def _applied(item: Item) -> list[int]:
    ids = loads(item["applied"]["S"]) if "applied" in item else []
    if not {int}.issuperset(map(type, ids)):
        raise TypeError("not ids")
    return list(ids)


def _applied_if_readable(item: Item) -> list[int]:
    try:
        return _applied(item)
    except (ValueError, KeyError, TypeError):
        return []


def _forgotten(item: Item) -> int:
    return int(item["forgotten"]["N"]) if "forgotten" in item else 0


def _after(prefix: str, item: Item) -> Iterator[tuple[str, bytes]]:
    """The attributes whose names begin with `prefix`, without it."""
    for name, value in item.items():
        if name.startswith(prefix):
            yield name[len(prefix) :], value["S"].encode()


def _value_size(value: Mapping[str, Any]) -> int:
    text = value.get("S")
    return NUMBER_BYTES if text is None else len(text.encode())
