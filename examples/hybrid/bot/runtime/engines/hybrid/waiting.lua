-- The index of what is to be done, and what PostgreSQL's index knows of it. What stands above the first `--- name`
-- begins each script.
--
-- KEYS  waiting, claims  see the Redis engine's `waiting.lua`; the latter of claims in this run of the server only
--       asked    string: the run of the server, up to when PostgreSQL was asked what is due, and when that was
--
-- All times are in microseconds since 1970.

local WAITING, CLAIMS, ASKED = KEYS[1], KEYS[2], KEYS[3]

--- due
-- ARGV: how far to look ahead, how many to list, after how long PostgreSQL is to be asked again
-- Returns {now, {record, when it is due, the next one, ...}, the run of the server, 1 if PostgreSQL has to be asked}.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local latest = now + tonumber(ARGV[1])
-- Another one after a restart, and after a failover; see `scripts.lua`.
local run = redis.call('INFO', 'replication'):match('master_replid:(%x+)')
  or redis.call('INFO', 'server'):match('run_id:(%x+)')
  or ''
local asked_run, asked_until, asked_at = (redis.call('GET', ASKED) or ''):match('^(%x*) (%d+) (%d+)$')
if asked_run ~= run then
  -- What was claimed before may have been noted since for another time, which this server does not know.
  redis.call('DEL', CLAIMS)
  redis.call('SET', ASKED, run .. ' 0 0')
  asked_until, asked_at = 0, 0
end
local is_asked = tonumber(asked_until) >= latest and tonumber(asked_at) + tonumber(ARGV[3]) >= now
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
    count = count + 1
  else
    due = held[2]
  end
  if due then
    redis.call('ZADD', WAITING, redis.call('HEXISTS', CLAIMS, record) == 1 and 'NX' or 'LT', due, record)
  end
end
return count
