"""Conversations beside the private one, which is what is there, and authors of messages."""

from alembic import op

revision = "state_0002"
down_revision = "state_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Name the conversation of each message."""
    op.execute("ALTER TABLE user_state ADD COLUMN conversations jsonb NOT NULL DEFAULT '{}'")
    op.execute("""
        ALTER TABLE user_message
            ADD COLUMN conversation text NOT NULL DEFAULT '',
            ADD COLUMN author jsonb,
            DROP CONSTRAINT user_message_pkey,
            ADD PRIMARY KEY (user_id, conversation, number)
    """)
    op.execute("COMMENT ON COLUMN user_message.conversation IS 'chat:topic:business connection; empty: home'")


def downgrade() -> None:
    """Leave the private conversations; the others are lost."""
    op.execute("DELETE FROM user_message WHERE conversation <> ''")
    op.execute("""
        ALTER TABLE user_message
            DROP CONSTRAINT user_message_pkey,
            ADD PRIMARY KEY (user_id, number),
            DROP COLUMN conversation,
            DROP COLUMN author
    """)
    op.execute("ALTER TABLE user_state DROP COLUMN conversations")
