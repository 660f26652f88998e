-- Marks a record dirty that is here and snapshot, for PostgreSQL to get it once more.
-- ARGV: user

local found = look()
local version = redis.call('HGET', META, 'version')
if found == 'warm' and version ~= '0' then
  mark(0)
  return 1
end
return 0
