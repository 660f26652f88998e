"""Moved to `suite.bot_api`."""

from suite.bot_api import FakeTelegram, Sent, Webhook

__all__ = ["FakeTelegram", "Sent", "Webhook"]
