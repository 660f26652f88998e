"""What an owner does to a project between two updates: edits that can be made to any rendered project."""

from pathlib import Path

ROOM = ("bot/agent.py", "bot/handlers.py", "bot/flow/", "tests/", "migrations/")
"""What is the owner's: files and folders that the template writes once, or never."""

FLOW = ("bot/flow/", "tests/test_flow.py")
"""Those of them that come with backend fsm."""

ROUTERS = '''

@before.message(CommandStart())
async def start(message: Message) -> TelegramMethod[Any]:
    """Greet in the owner's own words."""
    return message.answer("Good evening!")


@after.message(F.photo)
async def photo(message: Message) -> TelegramMethod[Any]:
    """Take a picture."""
    return message.answer("What a picture!")
'''

IMPORTS = """from typing import Any

from aiogram import F, Router
from aiogram.filters import CommandStart
from aiogram.methods import TelegramMethod
from aiogram.types import Message
"""

TESTS = '''"""The owner's own tests."""

from bot.runtime.testing import Chat


async def test_start_greets(chat: Chat) -> None:
    assert await chat.say("/start") == ["Good evening!"]


async def test_a_picture_is_taken(chat: Chat) -> None:
    assert await chat.send_photo(b"a picture") == ["What a picture!"]


async def test_it_still_counts(chat: Chat) -> None:
    assert await chat.say("hi") == ["Got it: hi (#1)"]
'''

MIGRATION = '''"""A table of the owner's."""

from alembic import op

revision = "app_0001"
down_revision = None
branch_labels = ("app",)
depends_on = None


def upgrade() -> None:
    """Create it."""
    op.execute("CREATE TABLE app_order (id bigint PRIMARY KEY)")


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE app_order")
'''

SERVICE = """
  proxy:
    image: caddy:2
    restart: unless-stopped
"""

PACKAGES = ("aiocache>=0.12", "zstandard>=0.23")
TOOLS = ("aioresponses>=0.7", "zeep>=4")
"""What the owner adds with `uv add`: names that sort before and after all others."""

DELETED = ("tests/test_state.py", "bot/flow/steps.py")
"""What the owner deletes, where it is there."""


def is_owners(path: str) -> bool:
    """Whether a file of a project is the owner's."""
    return path.startswith(ROOM)


def edit(project: Path, *, migration: bool = False) -> None:
    """Make every edit.

    Args:
        project: a rendered project.
        migration: whether to add one, too.
    """
    edit_room(project, migration=migration)
    edit_shared(project)


def edit_room(project: Path, *, migration: bool = False) -> None:
    """Edit, add and delete files of the owner's own room."""
    _replace(project / "bot/agent.py", "Processed: ", "Got it: ")
    handlers = project / "bot/handlers.py"
    _replace(handlers, "from aiogram import Router\n", IMPORTS)
    _append(handlers, ROUTERS)
    _replace(project / "tests/test_agent.py", '"message_count": 2', '"message_count": 1 + 1')
    (project / "tests/test_conversation.py").write_text(TESTS, "utf-8")
    for name in DELETED:
        (project / name).unlink(missing_ok=True)
    if migration:
        (project / "migrations").mkdir()
        (project / "migrations/app_0001.py").write_text(MIGRATION, "utf-8")


def edit_shared(project: Path) -> None:
    """Write into the owner's places of files that both change, and a line or two elsewhere."""
    _append(project / "README.md", "\n## Who looks after it\n\nThe shop's night shift.\n")
    _replace(project / "README.md", "# My Bot\n", "# My Bot, the shop's own\n")
    add_packages(project)
    port = '      PORT: "8080"\n'
    _replace(project / "compose.yaml", port, f"{port}      TZ: Europe/Berlin\n")
    _append(project / "compose.yaml", SERVICE)


def add_packages(project: Path) -> None:
    """Write what `uv add` writes; test_update.py compares."""
    for packages, end in ((PACKAGES, "\n]\n\n[project.scripts]"), (TOOLS, "\n]\n\n[build-system]")):
        lines = "".join(f'\n    "{package}",' for package in packages)
        _replace(project / "pyproject.toml", end, f"{lines}{end}")


def _replace(path: Path, old: str, new: str, *, times: int = 1) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == times, f"{path}: {old!r} stands there {text.count(old)} times"
    path.write_text(text.replace(old, new), "utf-8")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
