CREATE TABLE public.alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> state_0001

CREATE TABLE IF NOT EXISTS user_state (
            user_id text PRIMARY KEY,
            state jsonb NOT NULL,
            created_at timestamptz,
            updated_at timestamptz
        );

DO $$ BEGIN
                IF (SELECT atttypid = 'timestamp'::regtype FROM pg_attribute
                    WHERE attrelid = 'user_state'::regclass AND attname = 'created_at') THEN
                    ALTER TABLE user_state ALTER created_at DROP DEFAULT,
                        ALTER created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC';
                END IF;
            END $$;

UPDATE user_state SET created_at = now() WHERE created_at IS NULL;

ALTER TABLE user_state ALTER created_at SET DEFAULT now(), ALTER created_at SET NOT NULL;

DO $$ BEGIN
                IF (SELECT atttypid = 'timestamp'::regtype FROM pg_attribute
                    WHERE attrelid = 'user_state'::regclass AND attname = 'updated_at') THEN
                    ALTER TABLE user_state ALTER updated_at DROP DEFAULT,
                        ALTER updated_at TYPE timestamptz USING updated_at AT TIME ZONE 'UTC';
                END IF;
            END $$;

UPDATE user_state SET updated_at = now() WHERE updated_at IS NULL;

ALTER TABLE user_state ALTER updated_at SET DEFAULT now(), ALTER updated_at SET NOT NULL;

CREATE FUNCTION pg_temp.unwrapped(state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
        DECLARE inner_state jsonb;
        BEGIN
            inner_state := (state #>> '{}')::jsonb;
            RETURN CASE WHEN jsonb_typeof(inner_state) = 'object' THEN inner_state ELSE state END;
        EXCEPTION WHEN data_exception THEN
            RETURN state;
        END $$;

UPDATE user_state SET state = pg_temp.unwrapped(state) WHERE jsonb_typeof(state) = 'string';

DROP FUNCTION pg_temp.unwrapped(jsonb);

ALTER TABLE user_state ADD COLUMN version bigint NOT NULL DEFAULT 1;

ALTER TABLE user_state ADD COLUMN token text NOT NULL DEFAULT '';

ALTER TABLE user_state ADD COLUMN fsm jsonb NOT NULL DEFAULT '{}';

ALTER TABLE user_state ADD COLUMN applied bigint[] NOT NULL DEFAULT '{}';

ALTER TABLE user_state ADD COLUMN outbox jsonb NOT NULL DEFAULT '{}';

ALTER TABLE user_state ADD COLUMN marks jsonb NOT NULL DEFAULT '{}';

ALTER TABLE user_state ADD COLUMN forgotten bigint NOT NULL DEFAULT 0;

ALTER TABLE user_state ADD COLUMN first_message bigint NOT NULL DEFAULT 1;

ALTER TABLE user_state ADD COLUMN next_message bigint NOT NULL DEFAULT 1;

ALTER TABLE user_state ADD COLUMN expires_at timestamptz;

ALTER TABLE user_state ADD CONSTRAINT user_state_is_object
            CHECK (jsonb_typeof(state) = 'object') NOT VALID;

ALTER TABLE user_state SET (fillfactor = 70);

DROP INDEX IF EXISTS idx_user_state_updated;

CREATE INDEX idx_user_state_updated ON user_state USING brin (updated_at, expires_at);

CREATE TABLE user_message (
            user_id text NOT NULL REFERENCES user_state ON DELETE CASCADE,
            number bigint NOT NULL,
            role text NOT NULL,
            text text NOT NULL,
            at double precision NOT NULL,
            PRIMARY KEY (user_id, number)
        );

COMMENT ON COLUMN user_message.at IS 'seconds since 1970';

CREATE TABLE user_file (
            user_id text NOT NULL REFERENCES user_state ON DELETE CASCADE,
            name text NOT NULL,
            content bytea NOT NULL,
            at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (user_id, name)
        );

ALTER TABLE user_file ALTER content SET STORAGE EXTERNAL;

CREATE TABLE user_state_owner (
            is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
            bot_id bigint NOT NULL
        );

INSERT INTO public.alembic_version (version_num) VALUES ('state_0001') RETURNING public.alembic_version.version_num;

DO $$
DECLARE
    of_ours text;
    api_role text;
BEGIN
    FOREACH of_ours IN ARRAY '{alembic_version,user_state,user_message,user_talk,user_file,user_state_owner}'::text[] LOOP
        IF to_regclass(of_ours) IS NULL THEN
            CONTINUE;
        END IF;
        IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(of_ours)) THEN
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', of_ours);
        END IF;
        EXECUTE format('REVOKE ALL ON TABLE %I FROM PUBLIC', of_ours);
        FOR api_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
            EXECUTE format('REVOKE ALL ON TABLE %I FROM %I', of_ours, api_role);
        END LOOP;
    END LOOP;
END $$;
