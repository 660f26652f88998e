-- The bot's user at Supabase, to be made by `postgres` with psql, which asks for the user's password. See DEPLOY.md.
CREATE ROLE bot LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 30;
\password bot
GRANT USAGE, CREATE ON SCHEMA public TO bot;
