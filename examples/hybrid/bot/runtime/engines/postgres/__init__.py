"""The PostgreSQL engine: a row per user and a row per message, written by one statement."""
