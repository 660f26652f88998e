"""The engine's tables. A `user_state` table with users' states in it is adopted, with every row."""

from alembic import op

revision = "state_0001"
down_revision = None
branch_labels = ("state",)
depends_on = None

NEW_COLUMNS = {
    "version": "bigint NOT NULL DEFAULT 1",
    "token": "text NOT NULL DEFAULT ''",
    "fsm": "jsonb NOT NULL DEFAULT '{}'",
    "applied": "bigint[] NOT NULL DEFAULT '{}'",
    "outbox": "jsonb NOT NULL DEFAULT '{}'",
    "marks": "jsonb NOT NULL DEFAULT '{}'",
    "forgotten": "bigint NOT NULL DEFAULT 0",
    "first_message": "bigint NOT NULL DEFAULT 1",
    "next_message": "bigint NOT NULL DEFAULT 1",
    "expires_at": "timestamptz",
}


def upgrade() -> None:
    """Create the tables, or add to the one that is there what it lacks."""
    op.execute("""
        CREATE TABLE IF NOT EXISTS user_state (
            user_id text PRIMARY KEY,
            state jsonb NOT NULL,
            created_at timestamptz,
            updated_at timestamptz
        )
    """)
    _use_time_zones()
    _unwrap_strings()
    for name, kind in NEW_COLUMNS.items():
        op.execute(f"ALTER TABLE user_state ADD COLUMN {name} {kind}")
    # NOT VALID: rows of other making stay as they are; reading one is an error that names the user.
    op.execute("""
        ALTER TABLE user_state ADD CONSTRAINT user_state_is_object
            CHECK (jsonb_typeof(state) = 'object') NOT VALID
    """)
    # With room left in each page, and no B-tree on what every commit changes, an update stays in its page and
    # touches no index (HOT; beside a BRIN index since PostgreSQL 16).
    op.execute("ALTER TABLE user_state SET (fillfactor = 70)")
    op.execute("DROP INDEX IF EXISTS idx_user_state_updated")
    op.execute("CREATE INDEX idx_user_state_updated ON user_state USING brin (updated_at, expires_at)")
    op.execute("""
        CREATE TABLE user_message (
            user_id text NOT NULL REFERENCES user_state ON DELETE CASCADE,
            number bigint NOT NULL,
            role text NOT NULL,
            text text NOT NULL,
            at double precision NOT NULL,
            PRIMARY KEY (user_id, number)
        )
    """)
    op.execute("COMMENT ON COLUMN user_message.at IS 'seconds since 1970'")
    op.execute("""
        CREATE TABLE user_file (
            user_id text NOT NULL REFERENCES user_state ON DELETE CASCADE,
            name text NOT NULL,
            content bytea NOT NULL,
            at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (user_id, name)
        )
    """)
    op.execute("ALTER TABLE user_file ALTER content SET STORAGE EXTERNAL")  # most are compressed as they are
    op.execute("""
        CREATE TABLE user_state_owner (
            is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
            bot_id bigint NOT NULL
        )
    """)


def downgrade() -> None:
    """Leave a `user_state` table with users' states; conversations and bookkeeping are lost."""
    op.execute("DROP TABLE user_state_owner")
    op.execute("DROP TABLE user_file")
    op.execute("DROP TABLE user_message")
    op.execute("DELETE FROM user_state WHERE expires_at <= now() OR (forgotten > 0 AND state = '{}')")
    op.execute("ALTER TABLE user_state DROP CONSTRAINT user_state_is_object")
    op.execute("DROP INDEX idx_user_state_updated")
    for name in NEW_COLUMNS:
        op.execute(f"ALTER TABLE user_state DROP COLUMN {name}")
    op.execute("ALTER TABLE user_state RESET (fillfactor)")


def _use_time_zones() -> None:
    """Times without a zone are UTC."""
    for name in ("created_at", "updated_at"):
        op.execute(f"""
            DO $$ BEGIN
                IF (SELECT atttypid = 'timestamp'::regtype FROM pg_attribute
                    WHERE attrelid = 'user_state'::regclass AND attname = '{name}') THEN
                    ALTER TABLE user_state ALTER {name} DROP DEFAULT,
                        ALTER {name} TYPE timestamptz USING {name} AT TIME ZONE 'UTC';
                END IF;
            END $$
        """)
        op.execute(f"UPDATE user_state SET {name} = now() WHERE {name} IS NULL")
        op.execute(f"ALTER TABLE user_state ALTER {name} SET DEFAULT now(), ALTER {name} SET NOT NULL")


def _unwrap_strings() -> None:
    """Take the object out of a JSON string that holds one: a client with a codec of its own encodes twice."""
    op.execute("""
        CREATE FUNCTION pg_temp.unwrapped(state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
        DECLARE inner_state jsonb;
        BEGIN
            inner_state := (state #>> '{}')::jsonb;
            RETURN CASE WHEN jsonb_typeof(inner_state) = 'object' THEN inner_state ELSE state END;
        EXCEPTION WHEN data_exception THEN
            RETURN state;
        END $$
    """)
    op.execute("UPDATE user_state SET state = pg_temp.unwrapped(state) WHERE jsonb_typeof(state) = 'string'")
    op.execute("DROP FUNCTION pg_temp.unwrapped(jsonb)")
