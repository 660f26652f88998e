"""A table for notes."""

from alembic import op

revision, down_revision, branch_labels, depends_on = "app_0001", None, ("app",), None


def upgrade() -> None:
    """Create the table."""
    op.execute("CREATE TABLE note (id bigint PRIMARY KEY, text text NOT NULL)")
