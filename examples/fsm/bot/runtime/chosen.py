"""What was chosen for this project. The one Python file that differs from project to project."""

ENGINE = "sqlite"
"""The state engine: a package of `bot.runtime.engines`."""

STORE = "bot.runtime.engines.sqlite.store:SqliteStore"
"""The class of the store, as `module:name`."""

NAMESPACE = "my-bot"
"""Keeps several bots apart on one server, unless the setting of that name says otherwise."""
