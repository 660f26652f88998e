-- What every script of the hybrid engine begins with: the record's keys, and what is to be known about them.
--
-- KEYS  the four of the record (see the Redis engine's `commit.lua`), and
--       dirty  sorted set: users whose newest commit PostgreSQL may not have, by the time of the oldest such commit
--       due    sorted set: the same users, by the time from when on one flusher may take each of them
--       lease  string: who misses the record may fill it with what PostgreSQL holds as long as this is there
-- ARGV  the user's id is the last one
--
-- The record's meta hash holds, besides what the Redis engine's `commit.lua` keeps there,
--       next     number that the next message will have in PostgreSQL
--       expires  time at which the record is to be forgotten, 0 for never; the keys' own expiry is the cache's
--       run      the run of the server that wrote the record last, or found it to be what PostgreSQL holds
--
-- All times are in milliseconds since 1970.

local STATE, HISTORY, META, APPLIED, DIRTY, DUE, LEASE = unpack(KEYS)
local RECORD = { STATE, HISTORY, META, APPLIED }
local USER = ARGV[#ARGV]
local RUN = redis.call('INFO', 'server'):match('run_id:(%x+)') or ''

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

local function is_dirty()
  return redis.call('ZSCORE', DIRTY, USER) ~= false
end

-- Eviction takes the keys of a record one by one.
local function is_whole(version, parts)
  if not version or not parts then
    return false
  end
  for part in parts:gmatch('%S+') do
    local key = ({ state = STATE, history = HISTORY, applied = APPLIED })[part]
    if key and redis.call('EXISTS', key) == 0 then
      return false
    end
  end
  return true
end

-- 'warm', 'expired' or 'cold', whether it is dirty, and whether this run of the server vouches for it.
-- What is left of a clean record that expired, or that was evicted in part, is removed: PostgreSQL has the snapshot.
-- A dirty one stays, also when it expired: what PostgreSQL holds would come back in its place.
local function look()
  local version, parts, expires, run = unpack(redis.call('HMGET', META, 'version', 'parts', 'expires', 'run'))
  local deadline, dirty = tonumber(expires) or 0, is_dirty()
  local has_expired = deadline > 0 and deadline <= NOW
  if not dirty and (has_expired or not is_whole(version, parts)) then
    redis.call('UNLINK', unpack(RECORD))
    return 'cold', dirty, false
  end
  if redis.call('EXISTS', unpack(RECORD)) == 0 then
    return 'cold', dirty, false
  end
  return has_expired and 'expired' or 'warm', dirty, run == RUN
end

-- Has the record wait for a flusher, `delay` from now on if it does not wait already. It can neither expire nor,
-- under a policy that takes volatile keys only, be evicted until then.
local function mark(delay)
  if redis.call('PTTL', META) >= 0 then -- all keys of a record expire together
    for _, key in ipairs(RECORD) do
      redis.call('PERSIST', key)
    end
  end
  if not is_dirty() then
    redis.call('ZADD', DIRTY, NOW, USER)
    redis.call('ZADD', DUE, NOW + delay, USER)
  end
end

-- Makes a cache entry of the record: PostgreSQL has it. What writes first here is allowed when memory has run
-- out, and Redis lets a script that has begun to write go on: flushing is the way out.
local function unmark(cache)
  redis.call('ZREM', DIRTY, USER)
  redis.call('ZREM', DUE, USER)
  redis.call('HSET', META, 'run', RUN)
  local deadline, expires = NOW + cache, tonumber(redis.call('HGET', META, 'expires')) or 0
  if expires > 0 then
    deadline = math.min(deadline, expires)
  end
  for _, key in ipairs(RECORD) do
    redis.call('PEXPIREAT', key, string.format('%.0f', deadline))
  end
end
