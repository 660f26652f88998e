-- Hands out users to flush, those that have waited longest first, and says how many wait, and since when.
-- KEYS: dirty, due; ARGV: most users, how far ahead of now in ms, length of the lease in ms
-- Returns {users, how many are dirty, since when the oldest of them is, now}.

local DIRTY, DUE = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

local users = redis.call('ZRANGEBYSCORE', DUE, '-inf', NOW + tonumber(ARGV[2]), 'LIMIT', 0, ARGV[1])
for _, user in ipairs(users) do
  -- Removing first: adding alone is refused when memory has run out.
  redis.call('ZREM', DUE, user)
  redis.call('ZADD', DUE, NOW + tonumber(ARGV[3]), user)
end
return { users, redis.call('ZCARD', DIRTY), redis.call('ZRANGE', DIRTY, 0, 0, 'WITHSCORES')[2] or '', NOW }
