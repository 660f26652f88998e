"""The way to Firestore: its settings, one channel, what to try again, and what errors mean."""

import asyncio
import logging
import random
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import google.auth
import grpc
import structlog
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcAsyncIOTransport
from pydantic import Field, FilePath

from bot.runtime.config import Environment
from bot.runtime.engines.firestore.dev_server import EMULATOR_PROJECT, FirestoreDevServer
from bot.runtime.errors import OperatorError, StateUnavailable

T = TypeVar("T")

START_SECONDS = 30.0
"""How long to wait at start for a server that is away, or refuses for now."""

CALL_SECONDS = 10.0
"""How long a call may take, all attempts together."""

ATTEMPT_SECONDS = 4.0
"""How long one attempt may take."""

FIRST_DELAY, LONGEST_DELAY = 0.05, 1.0

PASSING = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
}
"""What is worth another attempt. After any of these but the first, the server may have done its work."""

REFUSED = {
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}
"""What a precondition that does not hold ends in: which of them depends on what it asks for."""

REASONS = {
    grpc.StatusCode.ABORTED: "too many write to the same record at once",
    grpc.StatusCode.DEADLINE_EXCEEDED: "Firestore does not answer in time",
    grpc.StatusCode.FAILED_PRECONDITION: "the database is not one in Native mode",
    grpc.StatusCode.NOT_FOUND: "there is no such database: gcloud firestore databases create",
    grpc.StatusCode.PERMISSION_DENIED: "this account may not use Firestore: give it roles/datastore.user",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "a quota of Firestore is used up",
    grpc.StatusCode.UNAUTHENTICATED: "Google gives no access: see GOOGLE_APPLICATION_CREDENTIALS",
    grpc.StatusCode.UNAVAILABLE: "Firestore cannot be reached",
}

OPTIONS = (
    # By default the library waits for up to two minutes before it connects again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Else a new channel would be given the connection that the old one is left for.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
)

log = structlog.get_logger(__name__)


class FirestoreSettings(Environment):
    """The database at Firestore. All settings but one are Google's own variables."""

    google_cloud_project: str | None = Field(None, description="Project whose Firestore is used.")
    google_application_credentials: FilePath | None = Field(
        None, description="Key file of the account, where the machine has none of its own."
    )
    firestore_database: str = Field("(default)", description="Database of the project.")
    firestore_emulator_host: str | None = Field(
        None, pattern=r"^[^/@\s]+:\d+$", description="Emulator to use in place of Firestore: HOST:PORT."
    )

    @property
    def is_set(self) -> bool:
        """Whether they say where Firestore is."""
        return bool(self.google_cloud_project or self.firestore_emulator_host)


class FirestoreClient:
    """One channel to one database, opened anew when it falls silent.

    Attributes:
        settings: where that is.
        database: its name, project and all.
    """

    def __init__(
        self,
        settings: FirestoreSettings,
        *,
        seconds: float = CALL_SECONDS,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        """Name the database; nothing is opened yet.

        Args:
            settings: where it is; where they do not say it, an emulator is started.
            seconds: how long a call may take, all attempts together.
            attempt_seconds: how long one attempt may take.
        """
        self.settings = settings
        self._seconds = seconds
        self._attempt_seconds = attempt_seconds
        self.database = (
            f"projects/{settings.google_cloud_project or EMULATOR_PROJECT}"
            f"/databases/{settings.firestore_database}"
        )
        self._credentials: Any = None
        self._api: FirestoreAsyncClient | None = None
        self._channel: Any = None
        self._embedded = None if settings.is_set else FirestoreDevServer()
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What every call carries: whose data it is about and, for the emulator, that rules do not apply."""
        carried = [("google-cloud-resource-prefix", self.database)]
        if self.settings.firestore_emulator_host:
            carried.append(("authorization", "Bearer owner"))
        return carried

    @property
    def channel(self) -> Any:
        """The open channel."""
        return self._channel

    async def open(self) -> None:
        """Make the channel, unless there is one, and start the emulator where nothing else is named.

        The channel connects by itself.

        Raises:
            OperatorError: there are no credentials, or none that can be used, or the emulator does not start.
        """
        if self._api is None:
            if self._embedded:
                host = await asyncio.to_thread(self._embedded.join)
                self.settings = self.settings.model_copy(update={"firestore_emulator_host": host})
            if not self.settings.firestore_emulator_host:
                # Once, for all channels to come: where they are asked for over the network, it takes seconds.
                self._credentials = await asyncio.to_thread(credentials, self.settings)
            self._open_channel()

    async def close(self) -> None:
        """Close the channel, and those that were left; leave the emulator. Calls under way fail."""
        channel, self._channel, self._api = self._channel, None, None
        if channel is not None:
            await channel.close()
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        if self._embedded:
            self._embedded.leave()

    async def call(
        self,
        work: Callable[[FirestoreAsyncClient, float], Awaitable[T]],
        *,
        user_id: str | None = None,
        seconds: float | None = None,
    ) -> T:
        """Do one piece of work, again when it fails for a passing reason.

        Args:
            work: given the service and how many seconds it has; it may run several times.
            user_id: for the error.
            seconds: how long all attempts may take together; `None` for the usual time.

        Raises:
            StateUnavailable: Firestore did not do it; the text says why.
        """
        seconds = self._seconds if seconds is None else seconds
        give_up = time.monotonic() + seconds
        patience = min(self._attempt_seconds, seconds)
        delay = FIRST_DELAY
        while True:
            api = self._api
            if api is None:
                raise StateUnavailable("the store is not connected", user_id)
            allowed = max(0.1, min(patience, give_up - time.monotonic()))
            try:
                return await work(api, allowed)
            except (GoogleAPICallError, grpc.RpcError) as error:
                code = code_of(error)
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                code = grpc.StatusCode.CANCELLED  # with its channel
            # A last attempt has hardly any time: that it ran out says nothing of the channel.
            if code == grpc.StatusCode.DEADLINE_EXCEEDED and allowed > patience / 2:
                self._renew(api)
            wait = delay * random.uniform(0.5, 1)
            if code not in PASSING or time.monotonic() + wait >= give_up:
                raise StateUnavailable(_reason(code), user_id)
            await asyncio.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY)

    def _renew(self, api: FirestoreAsyncClient) -> None:
        """Leave a channel whose connection may be half-open; what is under way on it gets its time."""
        if self._api is not api:
            return
        log.warning("firestore fell silent: connecting anew")
        left = self._channel
        self._open_channel()
        task = asyncio.create_task(left.close(self._attempt_seconds))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _open_channel(self) -> None:
        self._channel = self._make_channel()
        transport = FirestoreGrpcAsyncIOTransport(channel=self._channel)
        self._api = FirestoreAsyncClient(transport=transport)

    def _make_channel(self) -> Any:
        if host := self.settings.firestore_emulator_host:
            return grpc.aio.insecure_channel(host, options=OPTIONS)
        return FirestoreGrpcAsyncIOTransport.create_channel(credentials=self._credentials, options=OPTIONS)


def credentials(settings: FirestoreSettings) -> Any:
    """What proves to Google who asks.

    Raises:
        OperatorError: there is nothing, or nothing that can be used.
    """
    scopes = FirestoreGrpcAsyncIOTransport.AUTH_SCOPES
    logging.getLogger("google.auth").setLevel(logging.ERROR)  # its warnings say what our error does
    try:
        file = settings.google_application_credentials
        if file is None:
            return google.auth.default(scopes=scopes)[0]
        with warnings.catch_warnings():
            # Of files from strangers. This is the operator's own, named by Google's own variable.
            warnings.simplefilter("ignore", DeprecationWarning)
            return google.auth.load_credentials_from_file(str(file), scopes=scopes)[0]  # type: ignore[no-untyped-call]
    except (GoogleAuthError, ValueError, OSError):
        raise OperatorError(
            "Google does not know who this is: run `gcloud auth application-default login`, "
            "or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
        ) from None


def _is_cancelled() -> bool:
    """Whether somebody cancelled this task, and not gRPC what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def code_of(error: Exception) -> Any:
    """The gRPC status that an error means; `None` when it has none."""
    code = error.grpc_status_code if isinstance(error, GoogleAPICallError) else error.code()  # type: ignore[attr-defined]
    if code == grpc.StatusCode.UNAVAILABLE and "from plugin" in str(error):
        # The request never left: whoever gives access to it does not, or cannot be asked.
        return grpc.StatusCode.UNAUTHENTICATED
    return code


def _reason(code: Any) -> str:
    """In our words: Firestore's may quote what is kept."""
    return REASONS.get(code) or f"Firestore failed ({code.name if code else 'no status'})"
