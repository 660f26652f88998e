"""Conversations beside the private one, which is what is there, and authors of messages."""

from alembic import op

revision = "state_0002"
down_revision = "state_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give further conversations a table: what bots of before still run goes on with theirs as it is."""
    op.execute("ALTER TABLE user_state ADD COLUMN conversations jsonb NOT NULL DEFAULT '{}'")
    op.execute("ALTER TABLE user_message ADD COLUMN author jsonb")
    op.execute("""
        CREATE TABLE user_talk (
            user_id text NOT NULL REFERENCES user_state ON DELETE CASCADE,
            conversation text NOT NULL,
            number bigint NOT NULL,
            role text NOT NULL,
            text text NOT NULL,
            at double precision NOT NULL,
            author jsonb,
            PRIMARY KEY (user_id, conversation, number)
        )
    """)
    op.execute("COMMENT ON COLUMN user_talk.conversation IS 'chat:topic:business connection'")
    op.execute("COMMENT ON COLUMN user_talk.at IS 'seconds since 1970'")


def downgrade() -> None:
    """Leave the private conversations; the others are lost."""
    op.execute("DROP TABLE user_talk")
    op.execute("ALTER TABLE user_message DROP COLUMN author")
    op.execute("ALTER TABLE user_state DROP COLUMN conversations")
