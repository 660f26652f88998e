-- Puts a record here as PostgreSQL holds it, unless it is out of date by now. `commit` is the Redis engine's `commit.lua`.
-- ARGV: those of a commit that inserts the snapshot, then version, forgotten, next, expires (as in meta), lifetime
--       in the cache in ms, lease ('' to replace a record instead), version to replace, user
-- Returns 1 when it did, 2 when a dirty record had vanished, 0 when it did not.

local version, forgotten, next_message, expires, cache, lease, replaced = unpack(ARGV, #ARGV - 7, #ARGV - 1)
local dirty = is_dirty()

if lease ~= '' then
  if redis.call('GET', LEASE) ~= lease or redis.call('EXISTS', unpack(RECORD)) > 0 then
    return 0
  end
else
  local held = redis.call('HMGET', META, 'version', 'run')
  if held[1] ~= replaced or held[2] == RUN then
    return 0
  end
  redis.call('UNLINK', unpack(RECORD))
end

redis.call('DEL', LEASE)
commit(RECORD, ARGV)
redis.call('HSET', META, 'version', version, 'forgotten', forgotten, 'next', next_message, 'expires', expires)
unmark(tonumber(cache))
return (dirty and lease ~= '') and 2 or 1
