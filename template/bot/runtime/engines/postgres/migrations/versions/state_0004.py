"""What an agent keeps beside the text of a message."""

from alembic import op

revision = "state_0004"
down_revision = "state_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep it as `json`, which gives back numbers and the order of keys as they were."""
    for table in ("user_message", "user_talk"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN data json")
        op.execute(f"COMMENT ON COLUMN {table}.data IS 'what an agent keeps beside the text'")


def downgrade() -> None:
    """Leave the texts."""
    for table in ("user_message", "user_talk"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN data")
