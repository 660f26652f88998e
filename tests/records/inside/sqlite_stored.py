"""What a bot's SQLite file holds, as another file: the SQL that makes it again."""

from collections.abc import Mapping
from pathlib import Path

import apsw


async def dump(settings: Mapping[str, str], folder: Path) -> None:
    """Write down tables, indexes and rows, and what the head of the file says."""
    connection = apsw.Connection(settings["SQLITE_PATH"])
    script = [f"PRAGMA {name} = {connection.pragma(name)}" for name in ("application_id", "user_version")]
    schema = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    script += [str(sql) for _, _, sql in schema]
    for table in (name for kind, name, _ in schema if kind == "table"):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        values = " || ', ' || ".join(f"quote({column})" for column in columns)
        rows = connection.execute(f"SELECT {values} FROM {table} ORDER BY 1")
        script += [f"INSERT INTO {table} VALUES ({row[0]})" for row in rows]
    connection.close()
    (folder / "sqlite.sql").write_text("".join(f"{line};\n" for line in script), "utf-8")


async def restore(settings: Mapping[str, str], folder: Path) -> None:
    """Make that file, in the place of the one that `settings` name."""
    path = Path(settings["SQLITE_PATH"])
    path.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute((folder / "sqlite.sql").read_text("utf-8"))
    connection.close()
