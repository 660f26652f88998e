-- The scripts of the index of what is to be done. What stands above the first `--- name` begins each of them.
--
-- KEYS  waiting  sorted set: records that have something to do, by when, or by when the claim of it ends
--       claims   hash: how often each of them was claimed since a commit said when it is due
--       a third one, see there
-- ARGV  1  the record's id
--
-- All times are in microseconds since 1970, which a score holds exactly. In a Cluster the index is in another slot than
-- the record, so that no script can change both. There a commit takes three steps:
--
--   hint     the index learns when the record may be due, a microsecond early, and numbers this hint
--   commit   the record takes a commit with a hint above its fence only, and makes that hint its fence
--   settle   the index learns the exact time, unless there is a later hint; or the hint is withdrawn, if the commit was
--            refused
--
-- So the index is never later than the record, wherever the process is killed. What raises a time in it must not pass
-- over a commit that is under way: a claim of a record with unsettled hints raises the record's fence first. The commit
-- of a hint that it saw was made before, and is settled instead of the claim; or it is refused, and hints again.
--
-- What is unsettled of a record is '<first> <last>', numbers of hints. The record's meta has the number of the hint of
-- which a commit was made last.

local WAITING, CLAIMS, THIRD = unpack(KEYS)
local RECORD = ARGV[1]

local function microseconds()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function remove()
  redis.call('ZREM', WAITING, RECORD)
  redis.call('HDEL', CLAIMS, RECORD)
  return 1
end

local function take(moment, counts)
  if moment == '0' then return remove() end
  redis.call('ZADD', WAITING, moment, RECORD)
  return math.max(redis.call('HINCRBY', CLAIMS, RECORD, counts), 1)
end

local function is_due(moment)
  local score = redis.call('ZSCORE', WAITING, RECORD)
  return score and tonumber(score) == tonumber(moment)
end

--- due
-- ARGV: nothing, how far to look ahead, how many to list
-- Returns {now, {record, when it is due, the next one, ...}}.

local now = microseconds()
local latest = string.format('%.0f', now + tonumber(ARGV[2]))
local listed = redis.call('ZRANGEBYSCORE', WAITING, '-inf', latest, 'WITHSCORES', 'LIMIT', 0, ARGV[3])
return { string.format('%.0f', now), listed }

--- claim
-- The third key is the record's meta. It says when the record is due where the index was evicted or deleted.
-- ARGV: record, when it was due, when it is due again, how much it counts
-- Returns {how often it was claimed, version of the record or '', 1 if the index or the record knew when it is due};
-- how often is 0 when that is not then.

local held = redis.call('HMGET', THIRD, 'due', 'version')
local score = redis.call('ZSCORE', WAITING, RECORD) or held[1]
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return { 0, held[2] or '', score and 1 or 0 }
end
if ARGV[3] == '0' then
  redis.call('HDEL', THIRD, 'due')
end
return { take(ARGV[3], ARGV[4]), held[2] or '', 1 }

--- claim_in_cluster
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, when it was due, when it is due again, how much it counts, and if the record is fenced what was unsettled
-- Returns how often it was claimed; or what is unsettled, if that has to be looked at first.

if not is_due(ARGV[2]) then
  return 0
end
local unsettled = redis.call('HGET', THIRD, RECORD)
if unsettled and unsettled ~= ARGV[5] and (ARGV[3] == '0' or tonumber(ARGV[3]) > tonumber(ARGV[2])) then
  return unsettled
end
if ARGV[5] then
  redis.call('HDEL', THIRD, RECORD)
end
return take(ARGV[3], ARGV[4])

--- hint
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, when it may be due, the least number of the hint
-- Returns {what is unsettled with it, what was before or '', the score before or ''}; nothing in it where nothing was to
-- be done and will not be, for which no hint is needed.

local before, score = redis.call('HGET', THIRD, RECORD), redis.call('ZSCORE', WAITING, RECORD)
local due = tonumber(ARGV[2])
if due == 0 and not before and not score then
  return {}
end
local first, last = (before or ''):match('^(%d+) (%d+)$')
local number = string.format('%.0f', math.max(microseconds(), tonumber(ARGV[3]), (tonumber(last) or 0) + 1))
local unsettled = (first or number) .. ' ' .. number
redis.call('HSET', THIRD, RECORD, unsettled)
if due > 0 then
  redis.call('ZADD', WAITING, 'LT', string.format('%.0f', due - 1), RECORD)
end
return { unsettled, before or '', score or '' }

--- settle
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, what is unsettled, when it is due by the record
-- Returns 1, or 0 when there is a later hint.

if redis.call('HGET', THIRD, RECORD) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', THIRD, RECORD)
remove()
if ARGV[3] ~= '0' then
  redis.call('ZADD', WAITING, ARGV[3], RECORD)
end
return 1

--- withdraw
-- Takes a hint back whose commit was refused, if nobody has looked at it or hinted since.
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, when it was to be due, what `hint` returned

local due, unsettled, before, score = unpack(ARGV, 2)
local given = due == '0' and score or string.format('%.0f', math.min(due - 1, tonumber(score) or math.huge))
local held = redis.call('ZSCORE', WAITING, RECORD) or ''
if redis.call('HGET', THIRD, RECORD) ~= unsettled or tonumber(held) ~= tonumber(given) then
  return 0
end
if score == '' then
  redis.call('ZREM', WAITING, RECORD)
else
  redis.call('ZADD', WAITING, score, RECORD)
end
if before == '' then
  redis.call('HDEL', THIRD, RECORD)
else
  redis.call('HSET', THIRD, RECORD, before)
end
return 1

--- fence
-- The keys are the record's: meta, and the newest hint of which a commit was made or refused.
-- ARGV: record, what is unsettled, how long to keep the fence in ms
-- Returns {1 if a commit was made of that, when the record is due}; no commit of it is made from now on.

local META, FENCE = KEYS[1], KEYS[2]
local first, last = ARGV[2]:match('^(%d+) (%d+)$')
local due, committed = unpack(redis.call('HMGET', META, 'due', 'hint'))
if tonumber(redis.call('GET', FENCE) or 0) < tonumber(last) then
  redis.call('SET', FENCE, last, 'PX', ARGV[3])
end
return { (tonumber(committed) or 0) >= tonumber(first) and 1 or 0, due or '0' }
