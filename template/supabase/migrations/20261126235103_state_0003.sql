-- Running upgrade state_0002 -> state_0003

ALTER TABLE user_state
            ADD COLUMN due bigint NOT NULL DEFAULT 0,
            ADD COLUMN claims integer NOT NULL DEFAULT 0;

COMMENT ON COLUMN user_state.due IS 'microseconds since 1970; 0: nothing to do';

COMMENT ON COLUMN user_state.claims IS 'how often that was begun';

CREATE INDEX idx_user_state_due ON user_state (due) WHERE due > 0;

UPDATE public.alembic_version SET version_num='state_0003' WHERE public.alembic_version.version_num = 'state_0002';

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
