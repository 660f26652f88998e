-- Running upgrade state_0003 -> state_0004

ALTER TABLE user_message ADD COLUMN data json;

COMMENT ON COLUMN user_message.data IS 'what an agent keeps beside the text';

ALTER TABLE user_talk ADD COLUMN data json;

COMMENT ON COLUMN user_talk.data IS 'what an agent keeps beside the text';

UPDATE public.alembic_version SET version_num='state_0004' WHERE public.alembic_version.version_num = 'state_0003';

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
