-- Raises the version of a record above the one that PostgreSQL holds of another origin.
-- ARGV: version, version in PostgreSQL, user
-- Returns 'raised', 'older' when this run of the server does not vouch for the record, or 'changed'.

local version, run = unpack(redis.call('HMGET', META, 'version', 'run'))
if version ~= ARGV[1] then
  return 'changed'
end
if run ~= RUN then
  return 'older'
end
local microseconds = time[1] * 1000000 + time[2]
redis.call('HSET', META, 'version', string.format('%.0f', math.max(tonumber(ARGV[2]) + 1, microseconds)))
return 'raised'
