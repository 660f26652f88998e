"""What of the kit applies to the bot it was put into."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bot.runtime.chosen import ENGINE, STORE

HERE = Path(__file__).resolve().parent

PER_ENGINE = ("contract", "durability", "engines", "dev_servers", "providers", "torture")
ONCE = ("behaviour", "flow", "own")
PARTS = {"all": (*PER_ENGINE, *ONCE), "engine": PER_ENGINE, "once": ONCE}
"""Folders by what `--part` may say."""


@cache
def provider() -> str | None:
    """The cloud provider of this bot, as its answers to the template's questions have it."""
    answers = (HERE.parent / ".copier-answers.yml").read_text("utf-8")
    lines = [line for line in answers.splitlines() if line.startswith("cloud_provider:")]
    return lines[0].partition(":")[2].strip() if lines else None


@cache
def outlives_the_process() -> bool:
    """Whether the engine keeps records when the bot has ended."""
    module, _, name = STORE.partition(":")
    survives: bool = getattr(import_module(module), name).survives_exit
    return survives


@cache
def _starts_a_server() -> bool:
    """Whether the engine has a server for development of the kind in `bot/runtime/engines/dev_server.py`."""
    modules = ("bot.runtime.engines.dev_server", f"bot.runtime.engines.{ENGINE}.dev_server")
    return all(map(find_spec, modules))


def why_not(path: Path) -> str | None:
    """Why a file or folder of the kit does not apply here; `None` when it does.

    Args:
        path: somewhere in this package.
    """
    match path.relative_to(HERE).parts:
        case ("durability", *_) if not outlives_the_process():
            return f"{ENGINE} keeps nothing when the bot ends"
        case ("engines", engine, *_) if engine not in (ENGINE, "__init__.py"):
            return f"the engine is {ENGINE}"
        case ("dev_servers", *_) if not _starts_a_server():
            return f"{ENGINE} starts no development server that processes share"
        case ("providers", *_) if provider() is None:
            return "the bot has no cloud provider"
        case ("providers", name, *_) if name.startswith("test_") and not _is_of(provider(), name):
            return f"the provider is {provider()}"
        case (
            "behaviour",
            "test_jobs_cli.py"
            | "test_model_killed.py"
            | "test_operation.py"
            | "test_state_cli.py"
            | "test_streaming_killed.py",
        ) if not outlives_the_process():
            return f"{ENGINE} keeps nothing when the bot ends"
        case ("flow", "test_processes.py") if not outlives_the_process():
            return f"{ENGINE} keeps nothing when the bot ends"
        case _:
            return None


def _is_of(provider: str | None, name: str) -> bool:
    """Whether a file of tests is about a provider: `test_<provider>.py` or `test_<provider>_<what>.py`."""
    return provider is not None and f"{Path(name).stem}_".startswith(f"test_{provider}_")
