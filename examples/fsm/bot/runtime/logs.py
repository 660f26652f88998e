"""Logs: structured, on standard error, without secrets and, unless asked for, without what people write."""

import html
import linecache
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import structlog

from bot.runtime.config import PROJECT, SECRETS, Settings, load_settings
from bot.runtime.errors import AttachmentError, OperatorError, StateError, StateValueError, WrongReply

Event = MutableMapping[str, Any]

HIDDEN = "(its text is shown with LOG_CONTENT=true)"

OTHERS = "(frames of others are shown with LOG_LEVEL=DEBUG)"

RUNTIME = str(Path(__file__).absolute().parent)
OWN_FOLDERS = (str(PROJECT), str(Path(RUNTIME).parent))
"""Where the owner's code is: in the project, but for the runtime and for libraries."""

REFUSALS = (
    "bot was blocked by the user", "bot was kicked", "can't parse entities", "chat not found",
    "message is not modified", "message is too long", "message text is empty",
    "message to be replied not found", "message to delete not found", "message to edit not found",
    "not enough rights", "query is too old", "terminated by other getUpdates request",
    "user is deactivated", "wrong file identifier",
)  # fmt: skip
"""What Telegram's refusals are recognised by. They are not shown as they are: many quote what was sent."""

OWN_LOGGERS = ("bot", "__main__")
"""The first part of the names of the owner's loggers; whatever they log, the owner means to."""

OWN_ERRORS = (AttachmentError, OperatorError, StateError, WrongReply)
"""Errors whose texts are the bot's own."""

FILLED_IN = re.compile(r"%(?:\(\w+\))?[-#0 +]*[\d*]*(?:\.[\d*]+)?[a-zA-Z]")

SIGNS = re.compile(r"[\\%&+]")
"""With one of these begins what is not written as it is."""

log = structlog.get_logger()


def read_settings(**defaults: Any) -> Settings:
    """Read the settings and set up logs, as every command begins.

    Args:
        defaults: hold where neither the environment nor `.env` says anything.

    Raises:
        OperatorError: a setting cannot be used.
    """
    settings = load_settings()
    unset = {key: value for key, value in defaults.items() if key not in settings.model_fields_set}
    settings = settings.model_copy(update=unset)
    configure_logs(settings)
    return settings


def configure_logs(settings: Settings) -> None:
    """Send this program's logs, and those of the libraries it uses, to standard error.

    Every line of an update carries its `update_id` and `user_id`. Secrets among the settings are replaced
    wherever they appear, also from warnings of Python and from the error that ends the program. Texts of
    exceptions, and what libraries fill into their lines, may be what people write: they are shown with
    `LOG_CONTENT` or at `LOG_LEVEL=DEBUG` only. No text can begin a line of its own.
    """
    is_json = settings.log_format == "json"
    is_debug = settings.log_level == "DEBUG"
    shows = settings.log_content or is_debug

    def make_plain(_logger: Any, _method: str, event: Event) -> Event:
        return {
            _text(key): _clean(value, shows, is_escaped=key != "exception") for key, value in event.items()
        }

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(
                lambda found: "\n".join(f"  {line}" for line in _trace(found[1], shows, is_debug))
            ),
            make_plain,
            structlog.processors.JSONRenderer()
            if is_json
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    root = logging.getLogger()
    root.handlers = [_Forward(shows)]
    root.setLevel(settings.log_level)
    if settings.log_level != "DEBUG":
        logging.getLogger("aiogram.event").setLevel(logging.WARNING)
    # What Python would write by itself.
    warnings.showwarning = _show_warning
    sys.excepthook = lambda _kind, error, _trace: _last_words(error)
    threading.excepthook = lambda args: log.error("a thread failed", exc_info=args.exc_value)
    sys.unraisablehook = lambda args: log.error("an exception was ignored", exc_info=args.exc_value)


class Outage:
    """Says in one line that something is away, and in another that it is back; the rest is for `DEBUG`."""

    def __init__(self, away: str, back: str) -> None:
        """Make it: nothing is away yet.

        Args:
            away: what to say at first, as a warning.
            back: what to say at last.
        """
        self._away, self._back = away, back
        self._since: float | None = None

    def goes_on(self, **shown: Any) -> None:
        """It is away, now or still; `shown` says more of it."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning(self._away, **shown)
        else:
            log.debug(self._away, **shown)

    def ends(self) -> None:
        """It is there, now or still."""
        if self._since is not None:
            log.info(self._back, seconds=round(time.monotonic() - self._since, 1))
            self._since = None


def plain(text: str) -> str:
    """A text as one line that may be printed: without secrets, and what is no plain character escaped."""
    return _text(_struck_out(text))


class _Forward(logging.Handler):
    """Passes on what is logged by `logging`."""

    def __init__(self, shows: bool) -> None:
        super().__init__()
        self._shows = shows

    def emit(self, record: logging.LogRecord) -> None:
        level = max(each for each in (0, 10, 20, 30, 40, 50) if each <= max(record.levelno, 0))
        if self._shows or record.name.partition(".")[0] in OWN_LOGGERS:
            try:
                text = record.getMessage()
            except Exception:  # placeholders and arguments do not fit
                text = f"{record.msg} {record.args}"
        else:
            text = _fixed_words(record)
        log.log(level, text, logger=record.name, exc_info=record.exc_info)


def _fixed_words(record: logging.LogRecord) -> str:
    """What a library's line says without what was filled in: only what stands in the library's own code."""
    line = str(record.msg).partition("\n")[0]
    if record.name == "asyncio":  # which is handed its texts; what is filled in comes last
        found = re.match(r"[A-Za-z ,.!-]*", line)
        return found[0].strip() if found else ""
    if line and line in "".join(linecache.getlines(record.pathname)):
        return FILLED_IN.sub("…", line) if record.args else line
    return f"… ({record.pathname}:{record.lineno})"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    reason = message if isinstance(message, Warning) else category(message)
    log.warning("Python warns", reason=reason, at=f"{filename}:{lineno}")


def _last_words(error: BaseException) -> None:
    """Log the error that ends the program."""
    if not isinstance(error, KeyboardInterrupt):
        log.critical("the program failed", exc_info=error)


def _trace(error: BaseException, shows: bool, is_whole: bool) -> Iterator[str]:
    """A traceback line by line, with those of the errors that led to it before.

    Where the owner's code is in it, it has the frames of this only, unless it is to be whole.
    """
    chain = _chain(error)
    stacks = {id(each): _stack(each) for each in chain}
    is_owners = isinstance(error, WrongReply) or any(
        _is_owners(frame) for stack in stacks.values() for frame in stack
    )
    is_whole = is_whole or not is_owners
    for each in reversed(chain):
        stack = stacks[id(each)]
        kept = (
            stack
            if is_whole
            else traceback.StackSummary.from_list([each for each in stack if _is_owners(each)])
        )
        if kept or is_whole:
            yield "Traceback (most recent call last):"
        for frame in kept.format():
            yield from map(_text, frame.splitlines())
        yield _what(each, shows, HIDDEN)
        if shows:
            yield from (f"  {_text(str(note))}" for note in getattr(each, "__notes__", ()))
        if isinstance(each, BaseExceptionGroup):
            for member in each.exceptions:
                yield from (f"  | {line}" for line in _trace(member, shows, is_whole))
        if each is not error:
            yield "which led to"
    if not is_whole:
        yield OTHERS


def _stack(error: BaseException) -> traceback.StackSummary:
    """Where it was raised; what cannot even be parsed has no frame of its own."""
    stack = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        stack.append(traceback.FrameSummary(error.filename, error.lineno, "<module>"))
    return stack


def _is_owners(frame: traceback.FrameSummary) -> bool:
    """Whether the owner wrote it."""
    folders = tuple(f"{folder}{os.sep}" for folder in OWN_FOLDERS)
    is_inside = frame.filename.startswith(folders) and not frame.filename.startswith(f"{RUNTIME}{os.sep}")
    return is_inside and not {"site-packages", ".venv"} & {*Path(frame.filename).parts}


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and those that led to it, the last one first."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or (not error.__suppress_context__ and error.__context__) or error
    return chain


def _what(error: BaseException, shows: bool, hidden: str = "") -> str:
    """An error in a line: its type, and of its text what may be shown, or else `hidden`."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)
    except Exception:
        text = ""
    if not shows:
        if isinstance(error, StateValueError):
            text = error.outline
        elif not isinstance(error, OWN_ERRORS):
            is_telegrams = kind.__module__.startswith("aiogram.")
            known = [phrase for phrase in REFUSALS if is_telegrams and phrase in text]
            text = known[0] if known else hidden if text else ""
    return _text(f"{name}: {text}" if text else name)


def _clean(value: Any, shows: bool, *, is_escaped: bool = False) -> Any:
    """A value as it may be written. Renderers themselves escape what is in dicts and lists."""
    if isinstance(value, str):
        value = _struck_out(value)
        return _text(value) if is_escaped else value
    if isinstance(value, dict):
        return {_struck_out(str(key)): _clean(item, shows) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, shows) for item in value]
    if isinstance(value, BaseException):
        return _struck_out(" after ".join(_what(each, shows) for each in _chain(value)))
    if value is None or (isinstance(value, int | float) and str(value) not in SECRETS):
        return value
    return _clean(str(value), shows, is_escaped=is_escaped)


def _text(text: str) -> str:
    """The text on one line: what does not print, or would move a terminal's cursor, escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _struck_out(text: str) -> str:
    """The text without secrets, be they written as they are or as `repr`, JSON, URLs and HTML write them."""
    secrets, spelled = _patterns(frozenset(SECRETS))
    for secret in secrets:
        text = text.replace(secret, "***")
    if spelled and SIGNS.search(text):
        text = spelled.sub("***", text)
    return text


@lru_cache(maxsize=1)
def _patterns(secrets: frozenset[str]) -> tuple[list[str], re.Pattern[str] | None]:
    by_length = sorted(secrets, key=len, reverse=True)  # an address before the password in it
    parts = [
        "".join(map(_spellings, re.findall(r"%[0-9A-Fa-f]{2}|.", secret, re.DOTALL))) for secret in by_length
    ]
    return by_length, re.compile("|".join(parts)) if parts else None


def _spellings(char: str) -> str:
    """A pattern of all the ways in which a character, or a `%xx` in a secret, may be written."""
    if len(char) > 1:
        return f"(?i:%(?:25){{0,3}}{char[1:]})"
    if char.isascii() and char.isalnum():
        return char
    code, parts = ord(char), char.encode("utf-8", "surrogatepass")
    units = char.encode("utf-16-be", "surrogatepass").hex()
    slashes = r"\\{1,8}"
    ways = [
        slashes if char == "\\" else r"\\{0,8}" + re.escape(char),
        "".join(f"%(?:25){{0,3}}{part:02x}" for part in parts),
        "".join(f"{slashes}x{part:02x}" for part in parts),
        "".join(f"{slashes}{part:03o}" for part in parts),
        "".join(f"{slashes}u{units[at : at + 4]}" for at in range(0, len(units), 4)),
        f"{slashes}U{code:08x}",
        f"&#0*{code};|&#x0*{code:x};",
    ]
    if code < 256:
        ways.append(f"{slashes}x{code:02x}")
    if char in "\n\r\t":
        ways.append(slashes + ascii(char)[2])
    if (escaped := html.escape(char)) != char:
        ways.append(escaped)
    if char == " ":
        ways.append(r"\+")
    return f"(?i:{'|'.join(ways)})"
