"""Runs migrations on the connection that `bot migrate` hands over."""

from alembic import context
from sqlalchemy import Connection, text

connection: Connection | None = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `bot migrate`: it knows which database to migrate, and how")

schema: str = context.config.attributes["schema"]
connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
context.configure(connection=connection, version_table_schema=schema)
with context.begin_transaction():
    context.run_migrations()
