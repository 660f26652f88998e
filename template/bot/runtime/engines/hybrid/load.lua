-- Reads a record, or hands out the lease to fill it. `load` is the Redis engine's `load.lua`.
-- ARGV: token of a new lease, its lifetime in ms, user
-- Returns {'warm', 1 if dirty, 1 if vouched for, the record}, {'expired', 1 if dirty} or {'cold', lease}.

local found, dirty, verified = look()
if found == 'cold' then
  redis.call('SET', LEASE, ARGV[1], 'NX', 'PX', ARGV[2])
  return { found, redis.call('GET', LEASE) }
end
if found == 'expired' then
  return { found, dirty and 1 or 0 }
end
return { found, dirty and 1 or 0, verified and 1 or 0, load(RECORD) }
