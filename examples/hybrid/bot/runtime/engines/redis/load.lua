-- Reads one user's record in one step: atomically, so no commit or expiry happens in between.
-- KEYS: state, history, meta, applied; talks, when another conversation than that in `history` is wanted
-- ARGV: which one; none for all of them

local function conversations()
  if ARGV[1] then
    return {}, { ARGV[1], redis.call('HGET', KEYS[5], ARGV[1]) or '' }
  end
  return redis.call('LRANGE', KEYS[2], 0, -1), KEYS[5] and redis.call('HGETALL', KEYS[5]) or {}
end

local history, others = conversations()
return { redis.call('HGETALL', KEYS[1]), history, redis.call('HGETALL', KEYS[3]), redis.call('GET', KEYS[4]), others }
