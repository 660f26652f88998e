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
-- So the index is never later than the record, wherever the process is killed, and whoever raises a time in it knows
-- that no commit is under way that it does not know of: a claim that finds nothing to do raises the fence first. The
-- commit of a hint that it saw was made before, and is settled; or it is refused, and hints again.

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

local function take(moment)
  if moment == '0' then return remove() end
  redis.call('ZADD', WAITING, moment, RECORD)
  return redis.call('HINCRBY', CLAIMS, RECORD, 1)
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
-- ARGV: record, when it was due, when it is due again
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
return { take(ARGV[3]), held[2] or '', 1 }

--- claim_in_cluster
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, when it was due, when it is due again
-- Returns how often it was claimed, or the hint that keeps it from being removed.

local score = redis.call('ZSCORE', WAITING, RECORD)
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
return ARGV[3] == '0' and redis.call('HGET', THIRD, RECORD) or take(ARGV[3])

--- hint
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, when it may be due, the least number of the hint
-- Returns {number of the hint, the hint before it or '', the score before it or ''}; nothing in it where nothing was to
-- be done and will not be, for which no hint is needed.

local before, score = redis.call('HGET', THIRD, RECORD), redis.call('ZSCORE', WAITING, RECORD)
local due = tonumber(ARGV[2])
if due == 0 and not before and not score then
  return {}
end
local number = math.max(microseconds(), tonumber(ARGV[3]), (tonumber(before) or 0) + 1)
redis.call('HSET', THIRD, RECORD, string.format('%.0f', number))
if due > 0 then
  redis.call('ZADD', WAITING, 'LT', string.format('%.0f', due - 1), RECORD)
end
return { string.format('%.0f', number), before or '', score or '' }

--- withdraw
-- Takes a hint back whose commit was refused, if nobody has looked at it or hinted since.
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, when it was to be due, what `hint` returned

local due, hint, before, score = unpack(ARGV, 2)
local held = redis.call('ZSCORE', WAITING, RECORD) or ''
local given = due == '0' and score or string.format('%.0f', math.min(due - 1, tonumber(score) or math.huge))
if redis.call('HGET', THIRD, RECORD) ~= hint or tonumber(held) ~= tonumber(given) then
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

--- settle
-- The third key is a hash of the hints that are not settled.
-- ARGV: record, hint, when it is due by the record, and for a claim when it was due
-- Returns 1 when it was the last hint, and nobody was faster.

local hint, due, seen = unpack(ARGV, 2)
if redis.call('HGET', THIRD, RECORD) ~= hint then
  return 0
end
if seen and tonumber(redis.call('ZSCORE', WAITING, RECORD) or 0) ~= tonumber(seen) then
  return 0
end
redis.call('HDEL', THIRD, RECORD)
if due == '0' then
  return remove()
end
redis.call('ZADD', WAITING, due, RECORD)
if not seen then
  redis.call('HDEL', CLAIMS, RECORD)
end
return 1

--- fence
-- The keys are the record's: meta, and the newest hint of which a commit was made or refused.
-- ARGV: record, a hint, how long to keep it in ms
-- Returns when the record is due; no commit with that hint, or one before it, is made from now on.

local META, FENCE = KEYS[1], KEYS[2]
local due = redis.call('HGET', META, 'due')
if tonumber(redis.call('GET', FENCE) or 0) < tonumber(ARGV[2]) then
  redis.call('SET', FENCE, ARGV[2], 'PX', ARGV[3])
end
return due or '0'
