"""Settings: read from the environment and `.env`, checked once, passed around as one object."""

import hashlib
import hmac
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import Field, JsonValue, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from bot.runtime.chosen import NAMESPACE
from bot.runtime.errors import OperatorError

Seconds = Annotated[float, Field(gt=0, le=86_400)]
E = TypeVar("E", bound="Environment")

SECRETS: set[str] = set()
"""What no log line may show: filled as settings are read, whichever class they belong to."""

LEAST_SECRET = 4
"""Anything shorter is no secret, and striking it out would make logs unreadable."""

KEEPS_APART: dict[str, JsonValue] = {"keeps_bots_apart": True}
"""Marks the settings that keep several bots apart on one server; each test has names of its own for them."""

WEBHOOK_PORTS = (443, 80, 88, 8443)  # https://core.telegram.org/bots/api#setwebhook


class Environment(BaseSettings):
    """Settings from the environment and `.env`. Names are the variables', in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    def model_post_init(self, context: Any) -> None:
        """Have logs strike out what is secret here."""
        SECRETS.update(secret for secret in self.secrets() if len(secret) >= LEAST_SECRET)

    def secrets(self) -> Iterator[str]:
        """Every value that must not be shown, and the passwords in those that are addresses."""
        for _, value in self:
            if isinstance(value, SecretStr):
                text = value.get_secret_value()
                yield text
                yield from _passwords(text)


class Settings(Environment):
    """Every setting of the bot, but for those of the state engine, which stand beside the engine."""

    bot_token: SecretStr | None = Field(None, description="The token @BotFather gave you.")
    telegram_api_url: str = Field(
        "https://api.telegram.org", description="Bot API server; yours, if you host one."
    )

    webhook_url: str | None = Field(
        None, description="Public https address for webhook mode. Unset: long polling."
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Secret Telegram sends with each update. Unset: derived from the token."
    )
    webhook_max_connections: int = Field(
        40, ge=1, le=100, description="Deliveries Telegram may have under way at once."
    )
    host: str = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104 - containers need it
    port: int = Field(
        8080, ge=0, le=65_535, description="Port of the webhook, /healthz, /readyz and /metrics."
    )

    state_ttl: int | None = Field(
        None,
        ge=0,
        description="Seconds after its last change that a user's record is kept; 0: for ever.",
    )
    fsm_ttl: int | None = Field(
        None,
        ge=0,
        description="Seconds after its last step that a flow left half-way is dropped; 0: with the record.",
    )
    state_max_bytes: int = Field(
        262_144, ge=1_024, description="Most bytes of state and conversation kept per user."
    )
    history_limit: int = Field(50, ge=0, description="Messages of the conversation kept per user.")
    namespace: str = Field(
        NAMESPACE,
        pattern=r"^[a-z][a-z0-9-]{0,38}[a-z0-9]$",
        description="Keeps several bots apart on one server.",
        json_schema_extra=KEEPS_APART,
    )

    agent_timeout: Seconds = Field(
        50, description="Seconds an agent may take for one message; Telegram waits for 60."
    )
    max_concurrent_updates: int = Field(
        256, ge=1, description="Updates of different users handled at the same time."
    )
    flood_limit: int = Field(
        0, ge=0, description="Messages a user may send within FLOOD_SECONDS; 0: as many as they like."
    )
    flood_seconds: int = Field(60, ge=1, le=86_400, description="Seconds over which messages are counted.")
    shutdown_timeout: Seconds = Field(
        30, description="Seconds given to running updates when the bot is told to stop."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least level of what is logged."
    )
    log_format: Literal["console", "json"] = Field("console", description="How lines are written.")

    @field_validator("bot_token")
    @classmethod
    def _token_looks_right(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not re.fullmatch(r"\d+:[A-Za-z0-9_-]+", value.get_secret_value()):
            raise ValueError("is not a bot token; @BotFather gives one like 123456:ABC-DEF")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _secret_is_allowed(cls, value: SecretStr | None) -> SecretStr | None:
        # https://core.telegram.org/bots/api#setwebhook, secret_token
        if value and not re.fullmatch(r"[A-Za-z0-9_-]{16,256}", value.get_secret_value()):
            raise ValueError("must be 16 to 256 of the characters A-Z a-z 0-9 _ -")
        return value

    @field_validator("telegram_api_url", "webhook_url")
    @classmethod
    def _url_is_http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address like https://bot.example.com/telegram")
        return value.rstrip("/")

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_any_case(cls, value: str) -> str:
        return value.upper()

    @property
    def token(self) -> str:
        """The bot's token.

        Raises:
            OperatorError: `BOT_TOKEN` is not set.
        """
        if self.bot_token is None:
            raise OperatorError(
                "BOT_TOKEN is not set: get a token from @BotFather and put BOT_TOKEN=... into .env"
            )
        return self.bot_token.get_secret_value()

    @property
    def bot_id(self) -> int:
        """The bot's Telegram id, which is the first part of its token."""
        return int(self.token.partition(":")[0])

    @property
    def webhook_path(self) -> str:
        """Path under which updates arrive, `/` when `WEBHOOK_URL` has none."""
        return urlsplit(self.webhook_url or "").path or "/"

    @property
    def secret(self) -> str:
        """What Telegram must send with each update: set, or derived from the token."""
        if self.webhook_secret is not None:
            return self.webhook_secret.get_secret_value()
        return hmac.new(self.token.encode(), b"webhook-secret", hashlib.sha256).hexdigest()

    def secrets(self) -> Iterator[str]:
        """As everywhere, and what is derived from the token."""
        yield from super().secrets()
        if self.bot_token:
            yield self.token.partition(":")[2]
            yield self.secret


def _passwords(text: str) -> Iterator[str]:
    """The passwords of a text that is an address, as written there and as they are."""
    user_info, separator, _ = text.partition("://")[2].rpartition("@")
    password = user_info.partition(":")[2] if separator else ""
    in_query = re.findall(r"[?&]password=([^&]*)", text)
    for each in filter(None, [password, *in_query]):
        yield each
        yield unquote(each)


def load_settings() -> Settings:
    """Read the settings of the bot.

    Raises:
        OperatorError: as `load`.
    """
    return load(Settings)


def load(kind: type[E]) -> E:
    """Read settings of one kind.

    Raises:
        OperatorError: a variable has a value that cannot be used; all such are named in one line.
    """
    try:
        return kind()
    except ValidationError as error:
        faults = map(_fault, error.errors(include_input=False, include_url=False))
        raise OperatorError(f"bad settings: {'; '.join(faults)}") from None


def _fault(fault: ErrorDetails) -> str:
    reason = fault["msg"].removeprefix("Value error, ")
    name = ".".join(map(str, fault["loc"])).upper()
    return f"{name}: {reason}" if name else reason
