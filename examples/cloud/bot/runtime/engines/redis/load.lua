-- Reads one user's record in one step: atomically, so no commit or expiry happens in between.
-- KEYS: state, history, meta, applied

return {
  redis.call('HGETALL', KEYS[1]),
  redis.call('LRANGE', KEYS[2], 0, -1),
  redis.call('HGETALL', KEYS[3]),
  redis.call('GET', KEYS[4]),
}
