"""Logs: structured, on standard error, and without secrets."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from bot.config import Settings

Event = MutableMapping[str, Any]


def configure_logs(settings: Settings) -> None:
    """Send this program's logs, and those of the libraries it uses, to standard error.

    Every line of an update carries its `update_id` and `user_id`. The token and the webhook's secret are
    struck out wherever they appear; what users write is not logged.
    """
    is_json = settings.log_format == "json"
    about: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_text: list[structlog.types.Processor] = [
        structlog.processors.format_exc_info,
        _Redact(settings.secrets()),
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
    if settings.log_level != "DEBUG":
        logging.getLogger("aiogram.event").setLevel(logging.WARNING)


def _console_renderer() -> structlog.types.Processor:
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


class _Redact:
    """Strikes secrets out of whatever is about to be written."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = secrets

    def __call__(self, _logger: Any, _method: str, event: Event) -> Event:
        return {key: self._clean(value) for key, value in event.items()}

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, "***")
            return value
        if isinstance(value, dict):
            return {key: self._clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item) for item in value]
        if value is None or isinstance(value, int | float):
            return value
        return self._clean(str(value))
