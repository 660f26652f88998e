-- Marks a record clean that a flusher brought to PostgreSQL, unless somebody has committed meanwhile.
-- ARGV: version, lifetime in the cache in ms, when its flush began, delay until the next one in ms, user
-- Returns 1 when it is clean.

if redis.call('HGET', META, 'version') == ARGV[1] then
  unmark(tonumber(ARGV[2]))
  return 1
end
if is_dirty() then
  -- What it waits with now was committed after the flush had begun.
  redis.call('ZREM', DUE, USER)
  redis.call('ZADD', DUE, NOW + tonumber(ARGV[4]), USER)
  redis.call('ZADD', DIRTY, 'XX', ARGV[3], USER)
end
return 0
