-- Removes a string, unless somebody changed it.
-- KEYS: the key; ARGV: what it is expected to hold.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1])
end
