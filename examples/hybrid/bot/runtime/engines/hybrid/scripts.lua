-- The scripts of the hybrid engine. What stands above the first `--- name` begins each of them: the record's keys, and
-- what is to be known about them.
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

-- 'warm', 'expired' or 'cold', whether it is dirty, and whether this run of the server verified it.
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

--- load
-- Reads a record, or hands out the lease to fill it. `load` is the Redis engine's `load.lua`.
-- ARGV: token of a new lease, its lifetime in ms, user
-- Returns {'warm', 1 if dirty, 1 if verified, the record}, {'expired', 1 if dirty} or {'cold', lease}.

local found, dirty, verified = look()
if found == 'cold' then
  redis.call('SET', LEASE, ARGV[1], 'NX', 'PX', ARGV[2])
  return { found, redis.call('GET', LEASE) }
end
if found == 'expired' then
  return { found, dirty and 1 or 0 }
end
return { found, dirty and 1 or 0, verified and 1 or 0, load(RECORD) }

--- commit
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

--- fill
-- Puts a record here as PostgreSQL holds it, unless it is out of date by now. `commit` is the Redis engine's `commit.lua`.
-- ARGV: those of a commit that inserts the snapshot, then version, forgotten, next, expires (as in meta), lifetime
--       in the cache in ms, lease ('' to replace a record instead), version to replace, user
-- Returns 1 when it did, 2 when a dirty record had vanished, 0 when it did not.

local version, forgotten, next_message, expires, cache, lease, replaced = unpack(ARGV, #ARGV - 7, #ARGV - 1)
local dirty = is_dirty()

if lease ~= '' then
  if redis.call('GET', LEASE) ~= lease or redis.call('EXISTS', unpack(RECORD)) > 0 then
    return 0
  end
else
  local held = redis.call('HMGET', META, 'version', 'run')
  if held[1] ~= replaced or held[2] == RUN then
    return 0
  end
  redis.call('UNLINK', unpack(RECORD))
end

redis.call('DEL', LEASE)
commit(RECORD, ARGV)
redis.call('HSET', META, 'version', version, 'forgotten', forgotten, 'next', next_message, 'expires', expires)
unmark(tonumber(cache))
return (dirty and lease ~= '') and 2 or 1

--- verify
-- Marks a record from before this run of the server as verified: PostgreSQL holds the same version, or an older one.
-- ARGV: version, 1 when PostgreSQL lacks it, delay until a flusher may take it in ms, user

if redis.call('HGET', META, 'version') == ARGV[1] then
  redis.call('HSET', META, 'run', RUN)
  if ARGV[2] == '1' then
    mark(tonumber(ARGV[3]))
  end
end
return 1

--- snapshot
-- Reads a dirty record, expired or not, for a flusher. `load` is the Redis engine's `load.lua`.
-- ARGV: user
-- Returns {'clean'}, {'gone'}, after which it is no longer dirty, or {'dirty', the record}.

if not is_dirty() then
  return { 'clean' }
end
if redis.call('EXISTS', unpack(RECORD)) == 0 then
  redis.call('ZREM', DIRTY, USER)
  redis.call('ZREM', DUE, USER)
  return { 'gone' }
end
return { 'dirty', load(RECORD) }

--- mark_clean
-- Marks a record clean that a flusher brought to PostgreSQL, unless somebody has committed meanwhile.
-- ARGV: version, lifetime in the cache in ms, when its flush began, delay until the next one in ms, user
-- Returns 1 when it is clean.

if redis.call('HGET', META, 'version') == ARGV[1] then
  unmark(tonumber(ARGV[2]))
  return 1
end
if is_dirty() then
  -- What it waits with now was committed after the flush had begun.
  redis.call('ZREM', DUE, USER)
  redis.call('ZADD', DUE, NOW + tonumber(ARGV[4]), USER)
  redis.call('ZADD', DIRTY, 'XX', ARGV[3], USER)
end
return 0

--- mark_dirty
-- Marks a record dirty that is here and snapshot, for PostgreSQL to get it once more.
-- ARGV: user

local found = look()
local version = redis.call('HGET', META, 'version')
if found == 'warm' and version ~= '0' then
  mark(0)
  return 1
end
return 0

--- postpone
-- Lets a dirty user be taken by a flusher again, after some time.
-- ARGV: time in ms, user

if is_dirty() then
  redis.call('ZREM', DUE, USER)
  redis.call('ZADD', DUE, NOW + tonumber(ARGV[1]), USER)
end
return 1

--- raise_version
-- Raises the version of a record above the one that PostgreSQL holds of another origin.
-- ARGV: version, version in PostgreSQL, user
-- Returns 'raised', 'older' when this run of the server has not verified the record, or 'changed'.

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
