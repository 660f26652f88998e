"""What an owner does to a project between two updates: edits that can be made to any rendered project."""

from pathlib import Path

from support import UV, must

NOTE = "Kept by its owner, who may well write a line that is longer than the template's own.\n"

HANDLER = '''"""A handler of the owner's."""

from typing import Any

from aiogram import Router
from aiogram.filters import Command
from aiogram.methods import TelegramMethod
from aiogram.types import Message


def router() -> Router:
    """Take the owner's command."""
    own = Router(name="own")
    own.message(Command("hours"))(hours)
    return own


async def hours(message: Message) -> TelegramMethod[Any]:
    """Say when the shop is open."""
    return message.answer("From nine to five.")
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

DELETED = "grafana/dashboard.json"
ADDED_MIGRATION = "bot/migrations/versions/app_0001.py"


def has_migrations(project: Path) -> bool:
    """Whether owners of this project can add migrations of their own."""
    return (project / ADDED_MIGRATION).parent.is_dir()


def edit(project: Path, *, migration: bool) -> None:
    """Make every edit. What stands beside the edited lines is what the project's documents ask to edit.

    Args:
        project: a rendered project.
        migration: whether to add one, too.
    """
    _replace(project / "bot/agent.py", 'return f"Processed: {message} (', 'return f"Got it: {message} (')
    _replace(project / "suite/test_agent.py", '== "Processed: ', '== "Got it: ', times=3)
    _replace(project / "README.md", "\nA Telegram agent bot that does not forget.", f"\n{NOTE}")
    _append(project / "README.md", "\n## Who looks after it\n\nThe shop's night shift.\n")
    _add_dependencies(project)
    port = '      PORT: "8080"\n'
    _replace(project / "compose.yaml", port, f"{port}      TZ: Europe/Berlin\n")
    _append(project / "compose.yaml", SERVICE)
    _add_handler(project)
    if migration:
        (project / ADDED_MIGRATION).parent.mkdir(parents=True, exist_ok=True)
        (project / ADDED_MIGRATION).write_text(MIGRATION, "utf-8")
    (project / DELETED).unlink()


def _add_dependencies(project: Path) -> None:
    """`uv add`, of packages that sort before and after all others; `--frozen` spares it to lock them."""
    must(UV, "add", "--quiet", "--frozen", "aiocache>=0.12", "zstandard>=0.23", cwd=project)
    must(UV, "add", "--quiet", "--frozen", "--dev", "aioresponses>=0.7", "zeep>=4", cwd=project)


def _add_handler(project: Path) -> None:
    handlers = project / "bot/telegram/handlers.py"
    (project / "bot/telegram/hours.py").write_text(HANDLER, "utf-8")
    before, routers = "from bot.runtime.telegram.chat_action import", "return [_commands(), "
    _replace(handlers, before, f"from bot.runtime.telegram import hours\n{before}")
    _replace(handlers, routers, f"{routers}hours.router(), ")


def _replace(path: Path, old: str, new: str, *, times: int = 1) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == times, f"{path}: {old!r} stands there {text.count(old)} times"
    path.write_text(text.replace(old, new), "utf-8")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
