-- Running upgrade state_0001 -> state_0002

ALTER TABLE user_state ADD COLUMN conversations jsonb NOT NULL DEFAULT '{}';

ALTER TABLE user_message ADD COLUMN author jsonb;

CREATE TABLE user_talk (
            user_id text NOT NULL REFERENCES user_state ON DELETE CASCADE,
            conversation text NOT NULL,
            number bigint NOT NULL,
            role text NOT NULL,
            text text NOT NULL,
            at double precision NOT NULL,
            author jsonb,
            PRIMARY KEY (user_id, conversation, number)
        );

COMMENT ON COLUMN user_talk.conversation IS 'chat:topic:business connection';

COMMENT ON COLUMN user_talk.at IS 'seconds since 1970';

UPDATE public.alembic_version SET version_num='state_0002' WHERE public.alembic_version.version_num = 'state_0001';

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
