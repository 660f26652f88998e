-- Hands the tables that `supabase db push` made over to the bot's user. For `postgres`, with psql. See DEPLOY.md.
BEGIN;
-- Who made a role may give it away, and since PostgreSQL 16 not act for it. That is taken back below.
GRANT bot TO CURRENT_USER;
ALTER TABLE alembic_version OWNER TO bot;
ALTER TABLE user_state OWNER TO bot;
ALTER TABLE user_message OWNER TO bot;
ALTER TABLE user_talk OWNER TO bot;
ALTER TABLE user_file OWNER TO bot;
ALTER TABLE user_state_owner OWNER TO bot;
REVOKE bot FROM CURRENT_USER;
COMMIT;
