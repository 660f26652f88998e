"""Connections to DynamoDB: settings, time-outs, retries, and what errors mean."""

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any, Self

import aiohttp
import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    LoginError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from pydantic import Field, SecretStr, model_validator

from bot.runtime.config import Environment, Seconds
from bot.runtime.engines.dynamodb.dev_server import DynamodbDevServer
from bot.runtime.errors import OperatorError, StateTooLarge, StateUnavailable
from bot.runtime.logs import Outage
from bot.runtime.state.store import StoreClock, monotonic

CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
"""How long one request waits for a connection, and for its answer."""

FIRST_DELAY = 0.05
LONGEST_DELAY = 1.0
"""Seconds between one attempt and the next, before chance takes up to all of them away."""

THROTTLED = {
    "ProvisionedThroughputExceededException": "the table's throughput is exceeded",
    "RequestLimitExceeded": "the account's throughput is exceeded",
    "ThrottlingException": "DynamoDB throttles this table",
}
"""Refused, and certainly not executed."""

FAILED = {"InternalServerError", "InternalServerErrorException", "ServiceUnavailable"}
"""Nobody knows whether it was executed; as with every answer of HTTP status 500 and above."""

REASONS = {
    "ResourceNotFoundException": "the table {table} does not exist: run `bot migrate`",
    "AccessDeniedException": "these credentials do not permit dynamodb:{operation} on the table {table}",
    "UnrecognizedClientException": "AWS does not know these credentials: check AWS_ACCESS_KEY_ID",
    "InvalidSignatureException": "AWS refuses the signature: check AWS_SECRET_ACCESS_KEY, and the clock here",
    "ExpiredTokenException": "the credentials have expired: get new ones",
    "MissingAuthenticationTokenException": "the credentials are not complete",
    "UnknownOperationException": "this server does not know {operation}",
    "ValidationException": "DynamoDB finds {operation} invalid: has the table {table} another key than `id`?",
}
"""What errors mean. The server's words are not passed on as they are: some quote what was sent."""

NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
NOT_LOGGED_IN = (SSOError, LoginError, TokenRetrievalError)

SECOND = 1_000_000
"""In microseconds."""

log = structlog.get_logger(__name__)


class DynamodbSettings(Environment):
    """The table at DynamoDB. The settings of AWS have the names that its own tools use."""

    dynamodb_table: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9_.-]{3,255}$",
        description="The table. Unset: NAMESPACE with -state behind.",
    )
    dynamodb_timeout: Seconds = Field(10, description="Seconds a load or commit may take, retries included.")
    dynamodb_connect_timeout: Seconds = Field(
        10, description="Seconds to wait at start for a server that is away, or refuses for now."
    )
    dynamodb_max_connections: int = Field(50, ge=1, description="Most requests at once.")
    aws_region: str | None = Field(None, description="Region at AWS, such as eu-central-1.")
    aws_default_region: str | None = Field(None, description="The same; AWS_REGION wins.")
    aws_profile: str | None = Field(None, description="Section of ~/.aws/config with region and credentials.")
    aws_access_key_id: SecretStr | None = Field(
        None, description="Credentials. Unset: a role of the machine, the task, or the function."
    )
    aws_secret_access_key: SecretStr | None = Field(None, description="The secret to that key.")
    aws_session_token: SecretStr | None = Field(None, description="The token of temporary credentials.")
    aws_endpoint_url_dynamodb: str | None = Field(
        None, pattern="^https?://[^@]+$", description="Another server than AWS', such as DynamoDB local."
    )

    @model_validator(mode="after")
    def _key_has_its_secret(self) -> Self:
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: set both or none")
        return self

    @property
    def region(self) -> str | None:
        """The region that is set."""
        return self.aws_region or self.aws_default_region

    @property
    def names_no_server(self) -> bool:
        """Whether nothing says where the table is. What stands in ~/.aws counts with AWS_PROFILE only."""
        return not (self.region or self.aws_profile or self.aws_endpoint_url_dynamodb)


class ConditionFailed(Exception):
    """The condition of a write did not hold. Nothing was written by the attempt that got this answer."""

    def __init__(self, item: Mapping[str, Any], is_repeated: bool) -> None:
        """Keep what is there.

        Args:
            item: the item as it is, where the server tells; else empty, as when there is none.
            is_repeated: whether an earlier attempt may have been executed, its answer lost.
        """
        super().__init__()
        self.item = item
        self.is_repeated = is_repeated


class _Passing(Exception):
    """An error that may pass: worth a retry."""

    def __init__(self, reason: str, is_uncertain: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_uncertain = is_uncertain


class DynamodbClient:
    """A client for one table."""

    def __init__(self, settings: DynamodbSettings, table: str) -> None:
        """Make it; nothing is opened yet.

        Args:
            settings: where the server is.
            table: the name of the table.

        Raises:
            OperatorError: no server is named, and none could be started here.
        """
        # At DEBUG they would log what is kept, and the headers that let the bot in. What they warn of, with
        # tracebacks, comes as an error besides.
        for library in ("botocore", "aiobotocore"):
            logging.getLogger(library).setLevel(logging.ERROR)
        self.table = table
        self._settings = settings
        self._clock = _ServerClock()
        self._stack = AsyncExitStack()
        self._client: Any = None
        self.embedded: DynamodbDevServer | None = None
        if settings.names_no_server:
            if not find_spec("moto"):
                raise OperatorError(
                    "AWS_REGION is not set: put AWS_REGION=... into .env, and AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY unless the machine has a role "
                    "(on Linux and macOS, `uv sync` also brings a server for development)"
                )
            self.embedded = DynamodbDevServer()

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._client is not None

    @property
    def region(self) -> str:
        """Where requests go, for people to read."""
        if self.embedded:
            return "the development server's"
        region: str = self._client.meta.region_name
        return region

    @property
    def clock_difference(self) -> float:
        """Seconds by which the server's clock is ahead of this machine's, to the second."""
        return self.now() - time.time()

    def now(self) -> float:
        """The time by the server's clock, in seconds since 1970: it may be a little later."""
        return self._clock.now()

    @property
    def unsure(self) -> int:
        """Microseconds by which it may be later."""
        return self._clock.unsure

    async def open(self) -> None:
        """Make the client, and start the development server when it is that one's.

        Raises:
            OperatorError: settings of AWS are missing, or the development server does not start.
        """
        if self._client is not None:
            return
        if self.embedded:
            url = await asyncio.to_thread(self.embedded.join)
            own = {"aws_access_key_id": "development", "aws_secret_access_key": "development"}
            options: dict[str, Any] = {"region_name": "us-east-1", "endpoint_url": url, **own}
        else:
            options = self._options()
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=self._settings.dynamodb_max_connections,
            # botocore would send a commit again without a word; `call` does, and says so.
            retries={"total_max_attempts": 1},
        )
        try:
            session = AioSession(profile=self._settings.aws_profile)
            making = session.create_client("dynamodb", config=config, **options)
            self._client = await self._stack.enter_async_context(making)
        except (NoRegionError, ProfileNotFound, PartialCredentialsError, BotoCoreError, ValueError) as error:
            await self.close()
            raise OperatorError(_explain(error)) from None

    async def wait(self, operation: str, **request: Any) -> dict[str, Any]:
        """Send a request that may be repeated, for as long as a bot that starts waits for its server.

        Raises:
            StateUnavailable: it does not answer in time, or refuses.
        """
        give_up = time.monotonic() + self._settings.dynamodb_connect_timeout
        outage = Outage("waiting for the server", "the server answers")
        while True:
            try:
                answer = await self._attempt(operation, None, request)
            except _Passing as error:
                if time.monotonic() > give_up:
                    raise StateUnavailable(error.reason) from None
                outage.goes_on(reason=error.reason)
                await asyncio.sleep(LONGEST_DELAY / 2)
            else:
                outage.ends()
                return answer

    async def close(self) -> None:
        """Close every connection, and leave the development server."""
        self._client = None
        await self._stack.aclose()
        if self.embedded:
            self.embedded.leave()

    async def call(self, operation: str, user_id: str | None = None, **request: Any) -> dict[str, Any]:
        """Send a request that may be repeated, again while the server is busy or the connection breaks.

        Args:
            operation: as the client calls it, such as `get_item`.
            user_id: whom it is about, for errors.
            request: its parameters without the table.

        Raises:
            ConditionFailed: the condition of a write did not hold.
            StateTooLarge: the item would be larger than DynamoDB takes.
            StateUnavailable: it did not succeed; whether it was executed is unknown.
        """
        reason = "DynamoDB did not answer in time"
        is_repeated = False
        delay = FIRST_DELAY
        try:
            async with asyncio.timeout(self._settings.dynamodb_timeout):
                while True:
                    try:
                        return await self._attempt(operation, user_id, request)
                    except _Passing as error:
                        reason = error.reason
                        is_repeated = is_repeated or error.is_uncertain
                        log.debug("trying again", operation=operation, reason=reason)
                    except ConditionFailed as error:
                        raise ConditionFailed(error.item, is_repeated) from None
                    await asyncio.sleep(random.uniform(0, delay))
                    delay = min(2 * delay, LONGEST_DELAY)
        except TimeoutError:
            raise StateUnavailable(reason, user_id) from None

    async def _attempt(
        self, operation: str, user_id: str | None, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        assert self._client is not None, "connect() comes first"
        before = monotonic()
        try:
            method = getattr(self._client, operation)
            response: dict[str, Any] = await method(TableName=self.table, **request)
        except ClientError as error:
            self._clock.hear(error.response, before)
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code == "ConditionalCheckFailedException":
                item: Any = error.response.get("Item", {})
                raise ConditionFailed(item, False) from None
            if code in THROTTLED:
                raise _Passing(THROTTLED[code], is_uncertain=False) from None
            if code in FAILED or status >= 500:
                raise _Passing("DynamoDB has an error of its own", is_uncertain=True) from None
            name = "".join(map(str.capitalize, operation.split("_")))
            if error.operation_name != name:  # such as AssumeRole, of the service that gives credentials
                reason = f"there are no credentials: AWS refuses {error.operation_name} ({code})"
                raise StateUnavailable(reason, user_id) from None
            if "maximum allowed size" in error.response.get("Error", {}).get("Message", ""):
                raise StateTooLarge("the item is larger than DynamoDB takes", user_id) from None
            reason = REASONS.get(code, f"DynamoDB refuses ({code})")
            raise DynamodbRefuses(reason.format(table=self.table, operation=name), user_id, code) from None
        except (SSLError, *NO_CREDENTIALS, *NOT_LOGGED_IN) as error:
            raise StateUnavailable(_explain(error), user_id) from None
        except RuntimeError as error:
            if "expired" not in str(error):
                raise
            # Those that botocore has just got.
            reason = "the credentials have expired, and no newer ones are to be had"
            raise StateUnavailable(reason, user_id) from None
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:
            # A time-out of ours is also an OSError, but comes as a cancellation.
            raise _Passing(_explain(error), is_uncertain=True) from None
        self._clock.hear(response, before)
        return response

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "region_name": settings.region,
            "endpoint_url": settings.aws_endpoint_url_dynamodb,
        }
        if settings.aws_access_key_id and settings.aws_secret_access_key:
            options["aws_access_key_id"] = settings.aws_access_key_id.get_secret_value()
            options["aws_secret_access_key"] = settings.aws_secret_access_key.get_secret_value()
        if settings.aws_session_token:
            options["aws_session_token"] = settings.aws_session_token.get_secret_value()
        return {name: value for name, value in options.items() if value is not None}


class DynamodbRefuses(StateUnavailable):
    """DynamoDB refuses a request for good.

    Attributes:
        code: DynamoDB's name for the reason.
    """

    def __init__(self, reason: str, user_id: str | None, code: str) -> None:
        """Keep what it said."""
        super().__init__(reason, user_id)
        self.code = code


class _ServerClock:
    """The server's time, which the `Date` of its answers tells to the second; at first, this machine's.

    So replicas whose clocks disagree still agree on what has expired, and on what is later. Many answers tell
    it better than to the second.
    """

    def __init__(self) -> None:
        self._bounds = StoreClock()

    def hear(self, response: Mapping[str, Any], before: int) -> None:
        """Note the time of an answer to what was asked then, by the monotonic clock."""
        if date := response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""):
            told = int(parsedate_to_datetime(date).timestamp()) * SECOND
            self._bounds.hear(told, before, unsure=SECOND)

    def now(self) -> float:
        """Seconds since 1970: it may be a little later, and is not before."""
        return (monotonic() + self._bounds.least) / SECOND

    @property
    def unsure(self) -> int:
        """Microseconds by which it may be later."""
        return self._bounds.most - self._bounds.least


def _explain(error: Exception) -> str:
    """Say in a few words what is wrong, without anything that was sent."""
    if isinstance(error, NoRegionError):
        return "no region is set: put AWS_REGION=... into .env"
    if isinstance(error, ProfileNotFound):
        return "AWS_PROFILE names a profile that ~/.aws/config does not have"
    if isinstance(error, NoCredentialsError):
        return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"
    if isinstance(error, NO_CREDENTIALS):
        return "the credentials cannot be read, or are not complete"
    if isinstance(error, NOT_LOGGED_IN):
        return "the login at AWS is over: run `aws sso login`, or `aws login`"
    if isinstance(error, SSLError):
        return "the server's certificate is not one this machine trusts"
    if isinstance(error, HTTPClientError | ConnectionError | aiohttp.ClientError | OSError):
        return f"DynamoDB cannot be reached ({type(error).__name__})"
    if isinstance(error, ValueError):
        return "AWS_ENDPOINT_URL_DYNAMODB is no address like http://localhost:8000"
    return f"the AWS client failed ({type(error).__name__})"
