-- The bot's user at Supabase, to be made by `postgres` with psql, which asks for the user's password. See DEPLOY.md.
CREATE ROLE bot LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 30;
\password bot
GRANT USAGE, CREATE ON SCHEMA public TO bot;

-- What the bot asks of each session, and the session pooler does not pass on. The times are DATABASE_TIMEOUT.
ALTER ROLE bot SET statement_timeout = '10s';
ALTER ROLE bot SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE bot SET plan_cache_mode = 'force_generic_plan';
