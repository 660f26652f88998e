"""Alembic's environment: what the database looks like, version by version."""
