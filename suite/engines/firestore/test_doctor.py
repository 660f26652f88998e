"""What `bot doctor` says of a Firestore.

The emulator has no administration to ask. So a server of our own answers for it, with the messages of
Google's library: that shows what the doctor makes of an answer, and not that Google gives it.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.cloud.firestore_admin_v1.types import Database, Field, Index

from bot.runtime.engines.firestore.doctor import EXEMPT, diagnose
from bot.runtime.engines.firestore.store import FirestoreStore
from bot.runtime.state.record import Limits
from bot.runtime.state.store import Finding
from suite.engines.firestore.server import make_client

ACTIVE = Field.TtlConfig(state=Field.TtlConfig.State.ACTIVE)
INDEXED = Field.IndexConfig(indexes=[Index()])
GOOD = Database(
    location_id="eur3",
    type_=Database.DatabaseType.FIRESTORE_NATIVE,
    delete_protection_state=Database.DeleteProtectionState.DELETE_PROTECTION_ENABLED,
    point_in_time_recovery_enablement=(Database.PointInTimeRecoveryEnablement.POINT_IN_TIME_RECOVERY_ENABLED),
)


@dataclass
class Administration(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers for one database, or refuses the methods named."""

    database: Database
    fields: dict[str, Field] = field(default_factory=dict)
    refusals: dict[str, grpc.StatusCode] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def service(self, call: Any) -> Any:
        method = call.method.rpartition("/")[2]

        async def answer(request: bytes, context: Any) -> bytes:
            if method in self.refusals:
                await context.abort(self.refusals[method], "hunter2")
            if method == "GetDatabase":
                return bytes(Database.serialize(self.database))
            assert method == "GetField"
            name = request[2:].decode()
            self.asked.append(name)
            return bytes(Field.serialize(self.fields.get(name.rpartition("/")[2], Field())))

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
async def administration() -> AsyncIterator[tuple[Administration, str]]:
    """A database as it should be, and where it is."""
    administration = Administration(
        GOOD, {"expires_at": Field(ttl_config=ACTIVE), "due": Field(index_config=INDEXED)}
    )
    server = grpc.aio.server(handlers=[administration])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield administration, f"127.0.0.1:{port}"
    await server.stop(None)


async def examined(host: str, limits: Limits | None = None) -> list[Finding]:
    client = make_client(host, "demo-bot")
    await client.open()
    findings = await diagnose(client, "my-bot", limits or Limits())
    await client.close()
    return findings


def warnings(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.level == "warning"]


async def test_all_is_well(administration: tuple[Administration, str]) -> None:
    answers, host = administration
    findings = await examined(host)
    assert {finding.level for finding in findings} == {"ok"}
    base = "projects/demo-bot/databases/(default)/collectionGroups/my-bot/fields"
    assert answers.asked == [f"{base}/{name}" for name in (*EXEMPT, "due")]


async def test_nothing_is_deployed(administration: tuple[Administration, str]) -> None:
    answers, host = administration
    answers.fields = {name: Field(index_config=INDEXED) for name in (*EXEMPT, "due")}
    ttl, indexes = warnings(await examined(host))
    assert "never deleted" in ttl
    assert "state, history, fsm" in indexes
    assert all("firebase deploy --only firestore" in text for text in (ttl, indexes))


async def test_what_has_something_to_do_is_not_indexed(administration: tuple[Administration, str]) -> None:
    answers, host = administration
    answers.fields.pop("due")
    (error,) = [finding for finding in await examined(host) if finding.level != "ok"]
    assert (error.level, error.text[:40]) == ("error", "`due` is not indexed, so what a record h")


async def test_a_database_that_risks_records(administration: tuple[Administration, str]) -> None:
    answers, host = administration
    answers.database = Database(type_=Database.DatabaseType.FIRESTORE_NATIVE)
    protection, recovery = warnings(await examined(host))
    assert "--delete-protection" in protection
    assert "--enable-pitr" in recovery


async def test_a_database_of_the_wrong_kind(administration: tuple[Administration, str]) -> None:
    answers, host = administration
    answers.database = Database(type_=Database.DatabaseType.DATASTORE_MODE)
    assert "error" in {finding.level for finding in await examined(host)}


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "roles/datastore.viewer"),
        (grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_it_may_not_look(
    administration: tuple[Administration, str], refusal: grpc.StatusCode, words: str
) -> None:
    answers, host = administration
    answers.refusals = {"GetDatabase": refusal, "GetField": refusal}
    (text,) = warnings(await examined(host))
    assert words in text
    assert "hunter2" not in text


async def test_it_may_look_at_the_database_alone(administration: tuple[Administration, str]) -> None:
    """What it finds there is not kept back."""
    answers, host = administration
    answers.database = Database(type_=Database.DatabaseType.DATASTORE_MODE)
    answers.refusals = {"GetField": grpc.StatusCode.PERMISSION_DENIED}
    error, warning = await examined(host)
    assert (error.level, warning.level) == ("error", "warning")
    assert "Native mode" in error.text
    assert "roles/datastore.viewer" in warning.text


async def test_a_limit_that_leaves_no_room(administration: tuple[Administration, str]) -> None:
    _, host = administration
    (text,) = warnings(await examined(host, Limits(max_bytes=900_000)))
    assert "STATE_MAX_BYTES=900000" in text


async def test_an_emulator_is_called_one(direct: FirestoreStore) -> None:
    (text,) = warnings(await direct.diagnose())
    assert "emulator" in text
