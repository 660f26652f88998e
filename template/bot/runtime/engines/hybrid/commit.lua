-- Commits to a record that is here, and marks it dirty in the same step. `commit` is the Redis engine's `commit.lua`.
-- ARGV: those of the Redis engine's `commit.lua`, delay until a flusher may take it in ms, 1 to take what is there (or, to
--       forget, is not there) as it is, user
-- Returns what `commit` does; {'not ready'} when there is no record, or one that has to be compared first.

local numbers = {}
for number in ARGV[2]:gmatch('%S+') do
  table.insert(numbers, tonumber(number))
end
local expected, forget, appended = numbers[1], numbers[5] == 1, numbers[12]
local delay, trusted = tonumber(ARGV[#ARGV - 2]), ARGV[#ARGV - 1] == '1'

if forget then
  -- What is there is taken as it is, corrupt or not.
  if not trusted and redis.call('EXISTS', unpack(RECORD)) == 0 then
    return { 'not ready' }
  end
else
  local found, _, verified = look()
  if found == 'cold' or found == 'warm' and not (verified or trusted) then
    return { 'not ready' }
  end
  if found == 'expired' then
    if expected > 0 then
      return { 'conflict' }
    end
    redis.call('UNLINK', STATE, HISTORY, APPLIED)
    local next_message = redis.call('HGET', META, 'next') or 1
    redis.call('UNLINK', META)
    redis.call('HSET', META, 'version', 0, 'token', '', 'forgotten', 0, 'parts', '', 'next', next_message)
  end
end

local before = redis.pcall('HGET', META, 'version')
local next_message = tonumber(redis.pcall('HGET', META, 'next')) or 1
local reply = commit(RECORD, ARGV)
if reply[1] ~= 'done' or reply[2] == before then
  return reply
end

-- The expiry it has now is the one after which it is to be forgotten.
local left = redis.call('PTTL', META)
local expires = left > 0 and NOW + left or 0
redis.call('HSET', META, 'next', next_message + appended, 'run', RUN, 'expires', string.format('%.0f', expires))
redis.call('DEL', LEASE)
mark(delay)
return reply
