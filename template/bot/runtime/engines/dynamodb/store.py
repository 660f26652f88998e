"""The DynamoDB engine: one item per user, one conditional write per commit."""

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Self

import orjson
import structlog

from bot.runtime.config import load
from bot.runtime.engines.dynamodb import item as dynamodb_item
from bot.runtime.engines.dynamodb import table as dynamodb_table
from bot.runtime.engines.dynamodb.connection import (
    ConditionFailed,
    DynamodbClient,
    DynamodbRefuses,
    DynamodbSettings,
)
from bot.runtime.engines.dynamodb.doctor import diagnose
from bot.runtime.engines.dynamodb.item import (
    CLAIMS,
    DUE,
    ITEM_LIMIT,
    KEY,
    Item,
    has_expired,
    is_marker,
    token_of,
    version_of,
)
from bot.runtime.errors import (
    OperatorError,
    StateConflict,
    StateCorrupt,
    StateForeign,
    StateTooLarge,
    StateUnavailable,
)
from bot.runtime.state.record import HOME, Limits, UserRecord
from bot.runtime.state.store import (
    FILE_SECONDS,
    Agenda,
    Changes,
    Finding,
    check_size,
    cut,
    joined,
    parts_of,
)

if TYPE_CHECKING:
    from bot.runtime.config import Settings

MOST_BYTES = ITEM_LIMIT - 64 * 1024
"""What `STATE_MAX_BYTES` may be: bookkeeping and replies under way have to fit into the same item."""

FILE_BYTES = 1024 * 1024
"""What `REPLY_FILE_BYTES` is unless it is set: each 256 KB of it is a paid write of its own."""

REMEMBERED = 256
"""Items kept from their load to their commit: as many as there are updates at once."""

MERGE_ATTEMPTS = 20
MERGE_DELAY = 0.2
"""How often a commit that goes with any version is computed anew, and the most seconds between."""

log = structlog.get_logger(__name__)


class DynamodbStore:
    """Keeps records in DynamoDB, without a time limit by default.

    A commit is computed from the whole item, so that its size is known before anything is sent, and sent as
    what has changed. The item is the one that was loaded, when that is the version the commit expects;
    another round trip fetches it otherwise.
    """

    name: ClassVar[str] = "dynamodb"
    survives_exit: ClassVar[bool] = True
    due_seconds: ClassVar[float] = 5.0

    def __init__(
        self,
        client: DynamodbClient,
        namespace: str,
        limits: Limits | None = None,
        ttl: float | None = None,
    ) -> None:
        """Make a store that is not connected yet.

        Args:
            client: connections to the table; the store owns it from now on.
            namespace: keeps several bots apart in one table.
            limits: what one record may hold.
            ttl: seconds after its last commit that a record is kept; `None` for no limit.
        """
        self.limits = limits or Limits()
        self.client = client
        self._namespace = namespace
        self._ttl = ttl
        self._loaded: OrderedDict[str, Item] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Make the store that the settings describe.

        Raises:
            OperatorError: a setting is missing or cannot be used.
        """
        if settings.state_max_bytes > MOST_BYTES:
            raise OperatorError(
                f"STATE_MAX_BYTES is more than fits into an item of DynamoDB: set at most {MOST_BYTES}"
            )
        own = load(DynamodbSettings)
        client = DynamodbClient(own, own.dynamodb_table or f"{settings.namespace}-state")
        limits = Limits.from_settings(settings, FILE_BYTES)
        return cls(client, settings.namespace, limits, settings.state_ttl or None)

    async def connect(self) -> None:
        """Wait for the server and see that the table is there. See `StateStore.connect`."""
        if self.client.is_open:
            return
        try:
            await self.client.open()
            if self.client.embedded:
                await dynamodb_table.migrate(self.client)
            await self.client.wait("get_item", Key=self._key_of_bot())
        except BaseException:
            await self.close()
            raise
        log.info("connected to dynamodb", table=self.client.table, region=self.client.region)

    async def close(self) -> None:
        """Close every connection, and leave the development server."""
        self._loaded.clear()
        await self.client.close()

    async def ping(self) -> None:
        """Check that the server answers. See `StateStore.ping`."""
        await self.client.call("get_item", Key=self._key_of_bot())

    async def migrate(self) -> str:
        """Make the table unless it is there. See `OperatorStore.migrate`."""
        was_open = self.client.is_open
        try:
            await self.client.open()
            return await dynamodb_table.migrate(self.client)
        finally:
            if not was_open:
                await self.close()

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records. See `OperatorStore.diagnose`."""
        return await diagnose(self.client, self._ttl)

    async def bind(self, bot_id: int) -> None:
        """Note whose records these are, or refuse another bot. See `OperatorStore.bind`."""
        answer = await self.client.wait(
            "update_item",
            Key=self._key_of_bot(),
            UpdateExpression="SET #bot = if_not_exists(#bot, :bot)",
            ExpressionAttributeNames={"#bot": "bot_id"},
            ExpressionAttributeValues={":bot": {"N": str(bot_id)}},
            ReturnValues="ALL_NEW",
        )
        owner = answer["Attributes"]["bot_id"].get("N")
        if owner != str(bot_id):
            raise StateForeign(
                f"namespace {self._namespace} of the table {self.client.table} belongs to bot {owner}, "
                f"not to {bot_id}: set another NAMESPACE"
            )

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record: DynamoDB reads an item as a whole, and it is paid for. See `StateStore.load`."""
        item = await self._read(user_id)
        record = UserRecord(user_id, conversation=conversation or HOME)
        if live := self._live(item):
            record = dynamodb_item.decode(user_id, live, conversation)
        self._loaded[user_id] = item
        self._loaded.move_to_end(user_id)
        if len(self._loaded) > REMEMBERED:
            self._loaded.popitem(last=False)
        return record

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write changes. See `StateStore.commit`.

        When the answer is lost, the same write is tried again: its token tells whether it was applied.
        """
        check_size(user_id, changes, self.limits)
        if expect is None:
            version, _ = await self._merge(user_id, changes)
            return version
        await self._keep_files(user_id, changes.files)
        try:
            item = self._loaded.pop(user_id, None)
            if item is None or self._version(user_id, self._live(item)) != expect:
                item = await self._read(user_id)
            return await self._write(user_id, item, changes, expect)
        except (StateConflict, StateTooLarge):
            await self._drop_soon(user_id, changes.files)
            raise

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """Read a file of a reply. See `StateStore.read_file`."""
        parts = []
        for name in parts_of(file):
            key = self._key_of_part(user_id, name)
            answer = await self.client.call("get_item", user_id, Key=key, ConsistentRead=True)
            parts.append(answer.get("Item", {}).get("content", {}).get("B"))
        return joined(file, parts)

    async def drop_files(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files of replies. See `StateStore.drop_files`."""
        files = list(files)
        for file in files:
            for name in parts_of(file):
                await self.client.call("delete_item", user_id, Key=self._key_of_part(user_id, name))
        await self._list_files(user_id, "DELETE", files)

    async def _drop_soon(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files to which nothing refers; if DynamoDB does not answer, when they expire."""
        with suppress(StateUnavailable):
            await self.drop_files(user_id, files)

    async def _keep_files(self, user_id: str, files: Mapping[str, bytes]) -> None:
        """Keep files of replies, for the commit that refers to them."""
        await self._list_files(user_id, "ADD", files)
        for file, content in files.items():
            for name, part in cut(file, content):
                item = {"content": {"B": bytes(part)}, dynamodb_item.EXPIRES: self._file_expires()}
                item |= self._key_of_part(user_id, name)
                await self.client.call("put_item", user_id, Item=item)

    async def _list_files(self, user_id: str, verb: str, files: Iterable[str]) -> None:
        """Put files on the user's list or take them off it: forgetting reads there what no record names."""
        if ids := list(files):
            await self.client.call(
                "update_item",
                user_id,
                Key=self._key_of_files(user_id),
                UpdateExpression=f"{verb} #files :files SET #expires = :expires",
                ExpressionAttributeNames={"#files": "files", "#expires": dynamodb_item.EXPIRES},
                ExpressionAttributeValues={":files": {"SS": ids}, ":expires": self._file_expires()},
            )

    async def _listed_files(self, user_id: str) -> frozenset[str]:
        key = self._key_of_files(user_id)
        answer = await self.client.call("get_item", user_id, Key=key, ConsistentRead=True)
        return frozenset(answer.get("Item", {}).get("files", {}).get("SS", ()))

    def _file_expires(self) -> dict[str, str]:
        return {"N": str(math.ceil(self.client.now() + FILE_SECONDS))}

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do: the index follows the table within moments.

        See `StateStore.due`. Its time is that of versions.
        """
        latest = int((self.client.now() + within) * 1e6)
        found: list[tuple[str, int]] = []
        async for page in self._waiting(latest, Limit=most):
            for item in page["Items"]:
                found.append((item[KEY]["S"].removeprefix(self._user("")), dynamodb_item.due_of(item)))
            if len(found) >= most:
                break
        return Agenda(int(self.client.now() * 1e6), found[:most], self.client.unsure)

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do. See `StateStore.claim`."""
        key = {KEY: {"S": self._user(user_id)}}
        try:
            answer = await self.client.call(
                "update_item", user_id, Key=key, **dynamodb_item.claim(seen, until, counts)
            )
        except ConditionFailed as error:
            if error.is_repeated:
                raise StateUnavailable("nobody knows whether it was claimed", user_id) from None
            return 0
        return max(int(answer.get("Attributes", {}).get(CLAIMS, {}).get("N", 1)), 1)

    async def reindex(self) -> int:
        """Count who has something to do: the index is DynamoDB's own. See `OperatorStore.reindex`."""
        return sum([page["Count"] async for page in self._waiting(None, Select="COUNT")])

    async def _waiting(self, latest: int | None, **request: Any) -> AsyncIterator[dict[str, Any]]:
        """Pages of the index, those that are due first at first, up to a time in microseconds since 1970."""
        request["IndexName"] = dynamodb_table.INDEX
        request["KeyConditionExpression"] = "#waiting = :namespace"
        request["ExpressionAttributeNames"] = {"#waiting": dynamodb_item.WAITING}
        request["ExpressionAttributeValues"] = {":namespace": {"S": self._namespace}}
        if latest is not None:
            request["KeyConditionExpression"] += " AND #due <= :latest"
            request["ExpressionAttributeNames"]["#due"] = DUE
            request["ExpressionAttributeValues"][":latest"] = {"N": str(latest)}
        while True:
            try:
                page = await self.client.call("query", **request)
            except DynamodbRefuses as error:
                if error.code not in dynamodb_table.NO_INDEX:
                    raise
                reason = f"the table {self.client.table} has no index `due` yet: run `bot migrate`"
                raise StateUnavailable(reason) from None
            yield page
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def forget(self, user_id: str) -> bool:
        """Erase a user, leaving a marker. See `StateStore.forget`."""
        _, item = await self._merge(user_id, Changes(forget=True))
        return bool(self._live(item)) and not is_marker(item)

    async def users(self) -> AsyncIterator[str]:
        """The ids of all users; DynamoDB reads the whole table for it. See `StateStore.users`."""
        prefix = self._user("")
        request: dict[str, Any] = {
            "ConsistentRead": True,
            "ProjectionExpression": "#id",
            "FilterExpression": (
                "begins_with(#id, :prefix) AND attribute_not_exists(#marker)"
                " AND (attribute_not_exists(#expires) OR #expires > :now)"
            ),
            "ExpressionAttributeNames": {"#id": KEY, "#marker": "marker", "#expires": dynamodb_item.EXPIRES},
            "ExpressionAttributeValues": {
                ":prefix": {"S": prefix},
                ":now": {"N": str(int(self.client.now()))},
            },
        }
        while True:
            page = await self.client.call("scan", **request)
            for item in page["Items"]:
                yield item[KEY]["S"].removeprefix(prefix)
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    async def raw(self, user_id: str) -> str:
        """What is stored for a user: the item as DynamoDB gives it. See `OperatorStore.raw`."""
        return orjson.dumps(await self._read(user_id), default=str).decode()

    async def _read(self, user_id: str) -> Item:
        """The item, expired or not; empty when there is none."""
        key = {KEY: {"S": self._user(user_id)}}
        answer = await self.client.call("get_item", user_id, Key=key, ConsistentRead=True)
        item: Item = answer.get("Item", {})
        return item

    async def _merge(self, user_id: str, changes: Changes) -> tuple[int, Item]:
        """Write changes into whatever is there; the new version, and what was there."""
        for _ in range(MERGE_ATTEMPTS):
            item = await self._read(user_id)
            try:
                return await self._write(user_id, item, changes, None), item
            except StateConflict:
                await asyncio.sleep(random.uniform(0, MERGE_DELAY))
        raise StateUnavailable(f"others committed first, {MERGE_ATTEMPTS} times in a row", user_id)

    async def _write(self, user_id: str, old: Item, changes: Changes, expect: int | None) -> int:
        """Write changes into the item `old`, on condition that it is still like that."""
        now = self.client.now()
        live = self._live(old)
        version = self._version(user_id, live, is_forgiving=changes.forget)
        if token_of(live) == changes.token:
            return version
        if expect is not None and expect != version:
            raise StateConflict("another commit was first", user_id)
        # Never one that was used before: greater than what is there, expired or not, and where nothing is
        # left, later than whatever has expired there and been deleted.
        previous = self._version(user_id, old, is_forgiving=True)
        version = max(previous + 1, int(now * 1e6))
        try:
            new = dynamodb_item.changed(
                live, changes, namespace=self._namespace, version=version, now=now, ttl=self._ttl
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None
        key = self._user(user_id)
        size = dynamodb_item.size_of({KEY: {"S": key}, **new})
        if size > ITEM_LIMIT:
            raise StateTooLarge(
                f"{size} bytes with bookkeeping are more than DynamoDB's {ITEM_LIMIT}", user_id
            )
        dropped = dynamodb_item.kept_files(old) - dynamodb_item.kept_files(new)
        if changes.forget:
            dropped |= await self._listed_files(user_id)
        says_due = changes.due is not None or changes.forget or bool(old and not live)
        operation, request = dynamodb_item.write(key, old, new, says_due=says_due)
        try:
            await self.client.call(operation, user_id, **request)
        except DynamodbRefuses as error:
            if error.code != "ValidationException":
                raise
            # The key was good enough to read by, so it is the record, which will not be valid later either.
            reason = "DynamoDB does not take it; no name in it may have more than 64 KB"
            raise StateTooLarge(reason, user_id) from None
        except ConditionFailed as error:
            # Some servers do not show what is there.
            found = error.item or await self._read(user_id)
            if token_of(found) == changes.token:
                return self._version(user_id, found)
            if error.is_repeated:
                reason = "the answer was lost, and somebody else has committed since"
                raise StateUnavailable(reason, user_id) from None
            if live and found.get("version") == old["version"] and found.get(DUE) != old.get(DUE):
                return await self._write(user_id, found, changes, expect)  # a claim was first, no commit
            raise StateConflict("another commit was first", user_id) from None
        await self._drop_soon(user_id, dropped)
        return version

    def _live(self, item: Item) -> Item:
        """The item, or nothing when it has expired."""
        return {} if has_expired(item, self.client.now()) else item

    def _version(self, user_id: str, item: Item, *, is_forgiving: bool = False) -> int:
        try:
            return version_of(item)
        except (ValueError, KeyError, TypeError):
            if is_forgiving:
                return 0
            raise StateCorrupt("what is stored is no record of this bot", user_id) from None

    def _user(self, user_id: str) -> str:
        return f"{self._namespace}:user:{user_id}"

    def _key_of_part(self, user_id: str, name: str) -> dict[str, dict[str, str]]:
        return {KEY: {"S": f"{self._namespace}:file:{user_id}:{name}"}}

    def _key_of_files(self, user_id: str) -> dict[str, dict[str, str]]:
        return {KEY: {"S": f"{self._namespace}:files:{user_id}"}}

    def _key_of_bot(self) -> dict[str, dict[str, str]]:
        return {KEY: {"S": f"{self._namespace}:bot"}}
