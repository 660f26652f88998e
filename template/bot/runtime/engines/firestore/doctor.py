"""What `bot doctor` looks at in Firestore: what could cost records, or money."""

from google.api_core.exceptions import GoogleAPICallError
from google.cloud.firestore_admin_v1.services.firestore_admin import FirestoreAdminAsyncClient
from google.cloud.firestore_admin_v1.services.firestore_admin.transports import (
    FirestoreAdminGrpcAsyncIOTransport,
)
from google.cloud.firestore_admin_v1.types import Database, Field
from grpc import RpcError, StatusCode

from bot.runtime.engines.firestore.connection import ATTEMPT_SECONDS, FirestoreClient, code_of
from bot.runtime.engines.firestore.document import MAX_DOCUMENT_BYTES
from bot.runtime.state.record import Limits
from bot.runtime.state.store import Finding

EXEMPT = ("state", "history", "fsm", "outbox", "marks", "applied", "content", "expires_at")
"""Fields that no query goes by: an index would only cost, and a map's entries each have one."""

DEPLOY = "deploy firestore.indexes.json (firebase deploy --only firestore)"


async def diagnose(client: FirestoreClient, collection: str, limits: Limits) -> list[Finding]:
    """Look at the limits, the database, the TTL policy and the indexes. Rules do not concern servers."""
    findings = _diagnose_limits(limits)
    admin = FirestoreAdminAsyncClient(transport=FirestoreAdminGrpcAsyncIOTransport(channel=client.channel))
    base = f"{client.database}/collectionGroups/{collection}/fields"
    try:
        database = await admin.get_database(name=client.database, retry=None, timeout=ATTEMPT_SECONDS)
        findings += _diagnose_database(database)
        fields = {
            name: await admin.get_field(name=f"{base}/{name}", retry=None, timeout=ATTEMPT_SECONDS)
            for name in (*EXEMPT, "due")
        }
        findings += _diagnose_fields(fields)
    except (GoogleAPICallError, RpcError) as error:  # what was found before stands
        findings.append(_why_not(code_of(error)))
    return findings


def _diagnose_limits(limits: Limits) -> list[Finding]:
    if limits.max_bytes <= MAX_DOCUMENT_BYTES // 2:
        return []
    text = (
        f"STATE_MAX_BYTES={limits.max_bytes} leaves little of a document's {MAX_DOCUMENT_BYTES} bytes "
        "to replies under way: set at most half"
    )
    return [Finding("warning", text)]


def _why_not(code: StatusCode | None) -> Finding:
    if code == StatusCode.UNIMPLEMENTED:
        return Finding("warning", "this is an emulator: records are in its memory, and policies play no part")
    if code == StatusCode.PERMISSION_DENIED:
        text = "this account may not look at TTL policy and indexes: that takes roles/datastore.viewer"
        return Finding("warning", text)
    name = code.name if code else "no answer"
    return Finding("warning", f"TTL policy and indexes cannot be looked at ({name})")


def _diagnose_database(database: Database) -> list[Finding]:
    if database.type_ != Database.DatabaseType.FIRESTORE_NATIVE:
        return [Finding("error", "the database is not one in Native mode: create one that is")]
    findings = [Finding("ok", f"the database is in {database.location_id}, in Native mode")]
    if database.delete_protection_state != Database.DeleteProtectionState.DELETE_PROTECTION_ENABLED:
        text = "one command deletes the database: gcloud firestore databases update --delete-protection"
        findings.append(Finding("warning", text))
    enabled = Database.PointInTimeRecoveryEnablement.POINT_IN_TIME_RECOVERY_ENABLED
    if database.point_in_time_recovery_enablement != enabled:
        text = "nothing brings back what was overwritten: gcloud firestore databases update --enable-pitr"
        findings.append(Finding("warning", text))
    return findings


def _diagnose_fields(fields: dict[str, Field]) -> list[Finding]:
    findings = []
    if not fields.pop("due").index_config.indexes:
        text = f"`due` is not indexed, so what a record has to do later is not found: {DEPLOY}"
        findings.append(Finding("error", text))
    states = Field.TtlConfig.State
    match fields["expires_at"].ttl_config.state:
        case states.ACTIVE | states.CREATING:
            findings.append(Finding("ok", "expired records are deleted (TTL policy on expires_at)"))
        case _:
            text = f"expired records and the markers of forgotten users are never deleted: {DEPLOY}"
            findings.append(Finding("warning", text))
    indexed = [name for name, each in fields.items() if each.index_config.indexes]
    if indexed:
        text = f"indexed for nothing, which costs with every write: {', '.join(indexed)}; {DEPLOY}"
        return [*findings, Finding("warning", text)]
    return [*findings, Finding("ok", "what no query goes by is not indexed")]
