-- The index of what is to be done, and what PostgreSQL's index knows of it. What stands above the first `--- name`
-- begins each script.
--
-- KEYS  waiting, claims  see the Redis engine's `waiting.lua`
--       asked    string: the run of the server, and up to when PostgreSQL was asked what is due; for a while
--
-- All times are in microseconds since 1970.

local LONGEST_CLAIM = 600000000 -- what is noted for later than that may be of a claim, or outdated

local WAITING, CLAIMS, ASKED = KEYS[1], KEYS[2], KEYS[3]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

--- due
-- ARGV: how far to look ahead, how many to list
-- Returns {now, {record, when it is due, the next one, ...}, the run of the server, 1 if PostgreSQL has to be asked}.

local latest = now + tonumber(ARGV[1])
-- Another one after a restart, and after a failover; see `scripts.lua`.
local run = redis.call('INFO', 'replication'):match('master_replid:(%x+)')
  or redis.call('INFO', 'server'):match('run_id:(%x+)')
  or ''
local asked_run, asked_until = (redis.call('GET', ASKED) or ''):match('^(%x*) (%d+)$')
local is_asked = asked_run == run and tonumber(asked_until) >= latest
local listed = redis.call(
  'ZRANGEBYSCORE', WAITING, '-inf', string.format('%.0f', latest), 'WITHSCORES', 'LIMIT', 0, ARGV[2]
)
return { string.format('%.0f', now), listed, run, is_asked and 0 or 1 }

--- adopt
-- Takes over what PostgreSQL's index says. A record that is here, and as new, knows better; so does who claimed it.
-- The third key and those after it are the records' meta.
-- ARGV: of each of them its id, when it is due, and its version
-- Returns how many are not here, or older.

local count = 0
for number = 1, #KEYS - 2 do
  local record, due, version = unpack(ARGV, number * 3 - 2, number * 3)
  local held = redis.pcall('HMGET', KEYS[number + 2], 'version', 'due')
  if (tonumber(held[1]) or 0) < tonumber(version) then
    local ends = tonumber(redis.call('ZSCORE', WAITING, record) or 0)
    local is_claimed = ends < now + LONGEST_CLAIM and redis.call('HEXISTS', CLAIMS, record) == 1
    redis.call('ZADD', WAITING, is_claimed and 'NX' or 'LT', due, record)
    count = count + 1
  elseif held[2] then
    redis.call('ZADD', WAITING, 'NX', held[2], record)
  end
end
return count
