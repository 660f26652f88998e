"""The bot's tables as migrations of the Supabase CLI: `python -m bot.runtime.cloud.supabase_migrations`.

One file in `supabase/migrations/` per migration of the branch `state`, with the SQL that `bot migrate` would
execute. Whichever way the tables came into being, `bot migrate` then finds nothing to do.
"""

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from bot.runtime.cloud.supabase import CLOSE
from bot.runtime.config import PROJECT
from bot.runtime.engines.postgres.schema import MIGRATIONS

FOLDER = PROJECT / "supabase/migrations"

SCHEMA = "public"  # the CLI's own default, too


def write(folder: Path = FOLDER) -> None:
    """Write every migration; a file that is there keeps its name, and with it its place in the order."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = ScriptDirectory(str(MIGRATIONS))
    for script in reversed(list(scripts.iterate_revisions("state@head", "base"))):
        there = next(folder.glob(f"*_{script.revision}.sql"), None)
        name = f"{datetime.now(UTC):%Y%m%d%H%M%S}_{script.revision}.sql"
        (there or folder / name).write_text(_sql(scripts, script), "utf-8")


def _sql(scripts: ScriptDirectory, script: Script) -> str:
    """One migration, the note that it was applied, and the closing of what it made."""
    buffer = StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        opts={
            "as_sql": True,
            "output_buffer": buffer,
            "starting_rev": script.down_revision,
            "version_table_schema": SCHEMA,
            "fn": lambda revision, _: scripts._upgrade_revs(script.revision, revision),
        },
    )
    with Operations.context(context):
        context.run_migrations()
    lines = f"{buffer.getvalue()}{CLOSE};\n".split("\n")
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    write()
