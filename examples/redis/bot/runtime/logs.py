"""Logs: structured, on standard error, and without secrets."""

import logging
import sys
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog

from bot.runtime.config import SECRETS, Settings

Event = MutableMapping[str, Any]


def configure_logs(settings: Settings) -> None:
    """Send this program's logs, and those of the libraries it uses, to standard error.

    Every line of an update carries its `update_id` and `user_id`. Secrets among the settings are replaced
    wherever they appear, also from warnings of Python and from the error that ends the program; what
    users write is not logged.
    """
    is_json = settings.log_format == "json"
    about: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_text: list[structlog.types.Processor] = [
        structlog.processors.format_exc_info,
        _redact,
        structlog.processors.JSONRenderer() if is_json else _console_renderer(),
    ]
    structlog.configure(
        processors=[*about, *as_text],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*about, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *as_text],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)
    sys.excepthook = _log_the_last_error
    if settings.log_level != "DEBUG":
        logging.getLogger("aiogram.event").setLevel(logging.WARNING)


def _console_renderer() -> structlog.types.Processor:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def _log_the_last_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log the error that ends the program, which Python would print as it is."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        structlog.get_logger().critical("the program failed", exc_info=(kind, error, trace))


def _redact(_logger: Any, _method: str, event: Event) -> Event:
    """Replace secrets in what is about to be written."""
    secrets = sorted(SECRETS, key=len, reverse=True)  # an address before the password in it
    return {key: _clean(value, secrets) for key, value in event.items()}


def _clean(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, dict):
        return {_clean(key, secrets): _clean(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item, secrets) for item in value]
    if value is None or isinstance(value, int | float):
        return value
    return _clean(str(value), secrets)
