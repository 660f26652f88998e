"""Fixtures of the providers' tests: those of the engine that the provider runs."""

from importlib import import_module

from bot.runtime.chosen import ENGINE

# pytest takes fixtures for what they are wherever it finds them, and a provider has one engine only.
globals().update(
    (name, value)
    for name, value in vars(import_module(f"suite.engines.{ENGINE}.conftest")).items()
    if not name.startswith("_")
)
