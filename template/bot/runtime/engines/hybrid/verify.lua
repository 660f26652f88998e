-- Vouches for a record from before this run of the server: PostgreSQL holds it, or holds an older one.
-- ARGV: version, 1 when PostgreSQL lacks it, delay until a flusher may take it in ms, user

if redis.call('HGET', META, 'version') == ARGV[1] then
  redis.call('HSET', META, 'run', RUN)
  if ARGV[2] == '1' then
    mark(tonumber(ARGV[3]))
  end
end
return 1
