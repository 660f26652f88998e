"""The hybrid engine: Redis in front, written behind to PostgreSQL."""
