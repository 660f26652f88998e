"""What PostgreSQL holds in a bot's schema, as a file: the SQL that makes tables and rows again.

The wheel that brings the server has no `pg_dump` that fits it. Tables, columns, constraints and indexes are
all that the bot has; anything else in the schema is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg

SCHEMA = "schema_of_the_bot"
"""What the file calls the schema."""

OTHER_THINGS = """
    SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind NOT IN ('r', 'i')
    UNION SELECT proname FROM pg_proc WHERE pronamespace = $1::regnamespace
    UNION SELECT tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
        WHERE c.relnamespace = $1::regnamespace AND NOT tgisinternal
"""
TABLES = """
    SELECT c.oid, relname, array_to_string(reloptions, ', ') AS options, string_agg(
        format('%I %s', attname, format_type(atttypid, atttypmod))
        || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '')
        || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY attnum) AS columns
    FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
    WHERE relnamespace = $1::regnamespace AND relkind = 'r'
    GROUP BY c.oid ORDER BY relname
"""
CONSTRAINTS = """
    SELECT format(
        'ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)
    ) FROM pg_constraint WHERE connamespace = $1::regnamespace AND contype <> 'n'
    ORDER BY contype = 'f', conrelid::regclass::text, conname
"""
INDEXES = """
    SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid
    WHERE relnamespace = $1::regnamespace
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    ORDER BY 1
"""


async def dump(settings: Mapping[str, str], folder: Path) -> None:
    """Write the whole schema, the table of migrations included."""
    schema = settings["DATABASE_SCHEMA"]
    # With nothing on the search path, every name is written with its schema.
    full_names = {"search_path": "pg_catalog"}
    connection = await asyncpg.connect(settings["DATABASE_URL"], server_settings=full_names)
    try:
        others = await connection.fetch(OTHER_THINGS, schema)
        assert not others, f"this does not write down {others}"
        script = [f"CREATE SCHEMA {SCHEMA}"]
        for table in await connection.fetch(TABLES, schema):
            options = f" WITH ({table['options']})" if table["options"] else ""
            script.append(f"CREATE TABLE {SCHEMA}.{table['relname']} ({table['columns']}){options}")
            script += await _rows(connection, schema, table["relname"])
        for query in (CONSTRAINTS, INDEXES):
            script += [row[0] for row in await connection.fetch(query, schema)]
    finally:
        await connection.close()
    text = "".join(f"{line};\n" for line in script).replace(schema, SCHEMA)
    (folder / "postgres.sql").write_text(text, "utf-8")


async def restore(settings: Mapping[str, str], folder: Path) -> None:
    """Make that schema again, in the place of the one that `settings` name."""
    schema = settings["DATABASE_SCHEMA"]
    script = (folder / "postgres.sql").read_text("utf-8").replace(SCHEMA, schema)
    connection = await asyncpg.connect(settings["DATABASE_URL"])
    try:
        await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
        await connection.execute(script)
    finally:
        await connection.close()


async def _rows(connection: Any, schema: str, table: str) -> list[str]:
    query = f"SELECT quote_literal(to_jsonb(t)) FROM {schema}.{table} t ORDER BY to_jsonb(t)::text"
    into = f"INSERT INTO {SCHEMA}.{table} SELECT * FROM jsonb_populate_record(NULL::{SCHEMA}.{table}"
    return [f"{into}, {row[0]})" for row in await connection.fetch(query)]
