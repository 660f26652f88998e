"""When a record has something to do, and how often somebody has begun to do it."""

from alembic import op

revision = "state_0003"
down_revision = "state_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Note it in the user's row, and index those of whom there is something to note."""
    # With a constant default no row is rewritten, and versions of the bot that know neither column go on.
    op.execute("""
        ALTER TABLE user_state
            ADD COLUMN due bigint NOT NULL DEFAULT 0,
            ADD COLUMN claims integer NOT NULL DEFAULT 0
    """)
    op.execute("COMMENT ON COLUMN user_state.due IS 'microseconds since 1970; 0: nothing to do'")
    op.execute("COMMENT ON COLUMN user_state.claims IS 'how often that was begun'")
    # It is empty at first, so the table is read once and nothing is sorted or written. A commit that leaves
    # `due` as it is stays HOT.
    op.execute("CREATE INDEX idx_user_state_due ON user_state (due) WHERE due > 0")


def downgrade() -> None:
    """What is to be done at some time is no longer found."""
    op.execute("DROP INDEX idx_user_state_due")
    op.execute("ALTER TABLE user_state DROP COLUMN due, DROP COLUMN claims")
