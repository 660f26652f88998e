"""Settings: read from the environment and `.env`, checked once, passed around as one object."""

import codecs
import hashlib
import hmac
import io
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from dotenv.parser import parse_stream
from pydantic import (
    AliasChoices,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
    SettingsError,
)

from bot.runtime.chosen import NAMESPACE
from bot.runtime.errors import OperatorError

Seconds = Annotated[float, Field(gt=0, le=86_400)]
People = Annotated[frozenset[int | str] | None, NoDecode]
"""Ids of people, chats and channels, and user names in lower case without @."""
E = TypeVar("E", bound="Environment")

SECRETS: set[str] = set()
"""What no log line may show: filled as settings are read, whichever class they belong to."""

LEAST_SECRET = 4
"""Anything shorter is no secret, and replacing it would make logs unreadable."""

KEEPS_APART: dict[str, JsonValue] = {"keeps_bots_apart": True}
"""Marks the settings that keep several bots apart on one server; each test has names of its own for them."""

TELEGRAM = "https://api.telegram.org"

PROXIES = ("http", "socks4", "socks5", "socks5h")

WEBHOOK_PORTS = (443, 80, 88, 8443)  # https://core.telegram.org/bots/api#setwebhook


PROJECT = Path(__file__).absolute().parents[2]
if not (PROJECT / "pyproject.toml").is_file():
    PROJECT = Path.cwd()
"""The folder of the project, from wherever a command is called. It has `.env` and `.data/`. A bot that was
installed without its project takes the working directory for it."""

DATA = PROJECT / ".data"
"""Where servers for development keep their data."""


def announce_data(folder: Path) -> None:
    """Say on standard error where a new server for development keeps its data."""
    print(f"Starting a server for development, which keeps its data in {folder}", file=sys.stderr)


def _encoding_of(file: Path) -> str:
    """The encoding of a text file; editors and shells on Windows write others than UTF-8."""
    try:
        content = file.read_bytes()
    except OSError:
        return "utf-8"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if 0 in content[:2]:  # without a mark
        return "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


class Environment(BaseSettings):
    """Settings from the environment and `.env`. Names are the variables', in lower case."""

    model_config = SettingsConfigDict(
        env_file=PROJECT / ".env",
        env_file_encoding=_encoding_of(PROJECT / ".env"),
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    def model_post_init(self, context: Any) -> None:
        """Register what is secret here, so that logs replace it."""
        _keep_out_of_logs(self.secrets())

    def warnings(self) -> Iterator[str]:
        """What `bot doctor` says of settings that can be used, but should not stay as they are."""
        yield from ()

    def secrets(self) -> Iterator[str]:
        """Every value that must not be shown, and the passwords in those that are addresses."""
        for _, value in self:
            if isinstance(value, SecretStr):
                text = value.get_secret_value()
                yield text
                yield from _passwords(text)


class Settings(Environment):
    """The bot, whichever state engine it has."""

    bot_token: SecretStr | None = Field(None, description="The token @BotFather gave you.")
    telegram_api_url: str = Field(
        "https://api.telegram.org", description="Bot API server; yours, if you host one."
    )

    telegram_proxy: SecretStr | None = Field(
        None,
        description="Proxy on the way to Telegram: http://, socks4:// or socks5://. Unset: HTTPS_PROXY, "
        "ALL_PROXY and NO_PROXY, as other programs read them.",
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
        description="Seconds after its last change that a user's record is kept; 0: without limit. "
        "Unset: 86400 on Redis alone, without limit elsewhere.",
    )
    fsm_ttl: int | None = Field(
        None,
        ge=0,
        description="Seconds after its last step that a flow left half-way is dropped; 0: with the record.",
    )
    state_max_bytes: int = Field(
        262_144, ge=1_024, description="Most bytes of state, conversation and waiting replies per user."
    )
    reply_file_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes of a file that the agent sends from memory. "
        "Unset: 52428800, as much as Telegram takes; 1048576 on DynamoDB and Firestore.",
    )
    attachment_bytes: int = Field(
        20_971_520,
        ge=1,
        description="Most bytes of a file that the agent reads; of several in a message, of each. Telegram "
        "hands out no more than 20971520, a Bot API server of yours does.",
    )
    attachment_timeout: Seconds = Field(30, description="Seconds that reading such a file may take.")
    history_limit: int = Field(
        50, ge=0, description="Messages kept of each conversation: each chat and topic has its own."
    )
    namespace: str = Field(
        NAMESPACE,
        description="Keeps several bots apart on one server.",
        json_schema_extra=KEEPS_APART,
    )

    agent_timeout: Seconds = Field(
        50, description="Seconds an agent may take for one message; Telegram waits for 60."
    )
    jobs_seconds: Seconds | None = Field(
        None,
        description="Seconds between two looks for jobs that other processes noted. "
        "Unset: 1; 5 on DynamoDB and Firestore.",
    )
    max_concurrent_updates: int = Field(
        256, ge=1, description="Updates of different users handled at the same time."
    )
    allowed_users: People = Field(
        None,
        description="Who may use the bot: ids or @names, separated by commas. Unset: everybody. Names can "
        "change hands, ids cannot.",
    )
    admins: People = Field(
        None,
        description="Who is meant by `turn.is_admin` and the filter `is_admin`, and may use the bot besides.",
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
    log_content: bool = Field(
        False,
        description="Whether lines show what may be people's words: texts of exceptions, and what Telegram "
        "and libraries say. LOG_LEVEL=DEBUG shows it, too.",
    )

    @field_validator("allowed_users", "admins", mode="before")
    @classmethod
    def _people_are_ids_or_names(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [_person(each) for each in re.split(r"[\s,]+", value.strip(" ,"))]

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
        if not _is_address(value, ("http", "https")):
            raise ValueError("must be an address like https://bot.example.com/telegram")
        return value.rstrip("/")

    @field_validator("webhook_url")
    @classmethod
    def _webhook_is_encrypted(cls, value: str | None, info: ValidationInfo) -> str | None:
        # A Bot API server of one's own may deliver without TLS.
        if value and value.startswith("http://") and info.data.get("telegram_api_url") == TELEGRAM:
            raise ValueError("must begin with https://, which Telegram requires")
        return value

    @field_validator("telegram_proxy")
    @classmethod
    def _proxy_is_one(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_proxy(value.get_secret_value())
        return value

    @field_validator("namespace")
    @classmethod
    def _namespace_is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,38}[a-z0-9]", value):
            raise ValueError(
                "must be 2 to 40 of the characters a-z 0-9 -, begin with a letter and not end with -"
            )
        return value

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
    def proxy(self) -> str | None:
        """The proxy on the way to Telegram: set, or the one of the usual variables, such as `HTTPS_PROXY`.

        Raises:
            OperatorError: that is none.
        """
        if self.telegram_proxy is not None:
            return self.telegram_proxy.get_secret_value()
        api = urlsplit(self.telegram_api_url)
        host, proxies = api.hostname or "", getproxies()
        address = proxies.get(api.scheme) or proxies.get("all")
        if not address or proxy_bypass(host) or host == "localhost" or host.startswith("127."):
            return None
        address = address if "://" in address else f"http://{address}"
        _keep_out_of_logs(_passwords(address))
        try:
            check_proxy(address)
        except ValueError as error:
            raise OperatorError(f"{api.scheme.upper()}_PROXY or ALL_PROXY: {error}") from None
        return address

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


def _person(text: str) -> int | str:
    """An id or a user name.

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch(r"-?[1-9]\d{0,18}", text):
        return int(text)
    if not re.fullmatch(r"@[A-Za-z]\w{3,31}", text, re.ASCII):
        raise ValueError("must be ids like 123456789 and names like @somebody, separated by commas")
    return text[1:].lower()


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
        OperatorError: a variable has a value that cannot be used; all such are named in one line. Or a line
            of `.env` is none.
    """
    _check_lines(kind)
    try:
        return kind()
    except ValidationError as error:
        faults = map(_fault, error.errors(include_input=False, include_url=False))
        raise OperatorError(f"bad settings: {'; '.join(faults)}") from None
    except SettingsError as error:  # a list or an object that is not JSON
        raise OperatorError(f"bad settings: {error}") from None


def _check_lines(kind: type[Environment]) -> None:
    """Raise `OperatorError` for a line of `.env` that would be left out, and so seem not to be there."""
    file, encoding = kind.model_config.get("env_file"), kind.model_config.get("env_file_encoding")
    if not isinstance(file, Path) or not file.is_file():
        return
    try:
        text = file.read_text(encoding)
    except (OSError, UnicodeError) as error:
        raise OperatorError(f"{file} cannot be read ({type(error).__name__}): save it as UTF-8") from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise OperatorError(
                f"{file}, line {binding.original.line} is not NAME=VALUE: is a quote not closed?"
            )


def check_proxy(address: str) -> None:
    """Check the address of a proxy.

    Raises:
        ValueError: it is none; the text says how one looks.
    """
    if not _is_address(address, PROXIES) or urlsplit(address).port is None:
        raise ValueError(f"must be an address like socks5://host:1080 (or {', '.join(PROXIES)})")


def _is_address(text: str, schemes: Collection[str]) -> bool:
    """Whether it names a host, and a port that can be one if any, by one of these schemes."""
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def _keep_out_of_logs(secrets: Iterable[str]) -> None:
    SECRETS.update(secret for secret in secrets if len(secret) >= LEAST_SECRET)


def _fault(fault: ErrorDetails) -> str:
    name = ".".join(map(str, fault["loc"])).upper()
    return f"{name}: {_reason(fault)}" if name else _reason(fault)


def _reason(fault: ErrorDetails) -> str:
    return fault["msg"].removeprefix("Value error, ")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as `bot settings` shows it: without its value, which may be secret.

    Attributes:
        name: the name of the variable.
        default: its default; empty when there is none.
        meaning: its description.
        is_set: whether the environment or `.env` sets it.
        problem: why the bot cannot use what is set; empty when it can.
    """

    name: str
    default: str
    meaning: str
    is_set: bool
    problem: str


@dataclass(frozen=True, slots=True)
class SettingGroup:
    """The settings of one class.

    Attributes:
        title: the first line of the class's docstring.
        settings: in the order in which the class has them.
        problem: why they cannot be used together; empty when they can.
    """

    title: str
    settings: list[Setting]
    problem: str


def kinds_of_settings() -> list[type[Environment]]:
    """Every subclass of `Environment` that has been imported, an owner's own included."""
    kinds = list(Environment.__subclasses__())
    for kind in kinds:
        kinds += [each for each in kind.__subclasses__() if each not in kinds]
    return kinds


def describe_settings() -> Iterator[SettingGroup]:
    """Describe the settings of every subclass of `Environment` that has been imported, good values or bad."""
    seen: set[str] = set()
    for kind in kinds_of_settings():
        group = _describe(kind)
        settings = [setting for setting in group.settings if setting.name not in seen]
        seen.update(setting.name for setting in settings)
        yield SettingGroup(group.title, settings, group.problem)


def _describe(kind: type[Environment]) -> SettingGroup:
    problems: dict[str, str] = {}
    try:
        kind()
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            problems.setdefault(str(fault["loc"][0]) if fault["loc"] else "", _reason(fault))
    except SettingsError as error:
        problems[""] = str(error)
    found: set[str] = set()
    for source in (EnvSettingsSource, DotEnvSettingsSource):
        with suppress(SettingsError):
            found.update(source(kind)())
    settings = []
    for field_name, field in kind.model_fields.items():
        keys = _keys(field_name, field)
        prefix = kind.model_config.get("env_prefix", "") if keys == [field_name] else ""
        settings.append(
            Setting(
                name=f"{prefix}{keys[0]}".upper(),
                default=_default(field),
                meaning=field.description or "",
                is_set=not found.isdisjoint(keys),
                problem=next((problems[key] for key in keys if key in problems), ""),
            )
        )
    title = (kind.__doc__ or kind.__name__).strip().partition("\n")[0].rstrip(".")
    return SettingGroup(title, settings, problems.get("", ""))


def _keys(field_name: str, field: FieldInfo) -> list[str]:
    """What pydantic-settings calls a field: its aliases, if it has any, or its name."""
    match field.validation_alias:
        case str(alias):
            return [alias]
        case AliasChoices(choices=choices):
            return [str(choice) for choice in choices]
        case _:
            return [field_name]


def _default(field: FieldInfo) -> str:
    match field.get_default(call_default_factory=False):
        case None:
            return ""
        case bool(value):
            return str(value).lower()
        case value if field.is_required():
            return ""
        case value:
            return str(value)  # a secret shows itself as asterisks
