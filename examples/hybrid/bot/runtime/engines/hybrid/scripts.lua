-- The scripts of the hybrid engine. What stands above the first `--- name` begins each of them: the record's keys, and
-- what is to be known about them.
--
-- KEYS  the five of the record and that of its files (see the Redis engine's `commit.lua`), and
--       dirty  sorted set: users whose newest commit PostgreSQL may not have, by the time of the oldest such commit
--       due    sorted set: the same users, by the time from when on one flusher may take each of them
--       lease  string: who misses the record may fill it with what PostgreSQL holds as long as this is there
--       waiting, claims  the index of what is to be done (see the Redis engine's `waiting.lua`), also of records that
--              are not here
-- ARGV  the last three: 1 where only what PostgreSQL has counts (HYBRID_ACK=postgres), a random name, the user's id
--
-- The record's meta hash holds, besides what the Redis engine's `commit.lua` keeps there,
--       next     number that the next message will have in PostgreSQL
--       expires  time at which the record is to be forgotten, 0 for never; the keys' own expiry is the cache's
--       base     the version that PostgreSQL is known to have; the record is dirty when that is not its own
--       lineage  the run of the server that wrote the record last, or found it to be what PostgreSQL holds, and a random
--                name: within one lineage, each version came from the one before, and nothing was lost in between
--
-- All times are in milliseconds since 1970.

local STATE, HISTORY, META, APPLIED, TALKS, FILES, DIRTY, DUE, LEASE, WAITING, CLAIMS = unpack(KEYS)
local RECORD = { STATE, HISTORY, META, APPLIED, TALKS }
local COMMITTED = { STATE, HISTORY, META, APPLIED, TALKS, FILES }
local WAITS, NAME, USER = ARGV[#ARGV - 2] == '1', unpack(ARGV, #ARGV - 1)
-- Another one after a restart, and after a failover: also when it leads back to a server that was the master before.
local RUN = redis.call('INFO', 'replication'):match('master_replid:(%x+)')
  or redis.call('INFO', 'server'):match('run_id:(%x+)')
  or ''

local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

local function is_of_this_run(lineage)
  return lineage and lineage:sub(1, #RUN) == RUN
end

-- Also when the list of the dirty ones was evicted or deleted.
local function is_dirty()
  local version, base = unpack(redis.call('HMGET', META, 'version', 'base'))
  return redis.call('ZSCORE', DIRTY, USER) ~= false or base and base ~= version
end

-- Eviction takes the keys of a record one by one.
local function is_whole(version, parts)
  if not version or not parts then
    return false
  end
  for part in parts:gmatch('%S+') do
    local key = ({ state = STATE, history = HISTORY, applied = APPLIED, talks = TALKS })[part]
    if key and redis.call('EXISTS', key) == 0 then
      return false
    end
  end
  return true
end

-- 'warm', 'expired' or 'cold', whether it is dirty, and its lineage.
-- What is left of a clean record that expired, or that was evicted in part, is removed: PostgreSQL has the snapshot.
-- A dirty one stays, also when it expired: what PostgreSQL holds would come back in its place. In part it stays where
-- it may have been acknowledged.
local function look()
  local version, parts, expires, lineage = unpack(redis.call('HMGET', META, 'version', 'parts', 'expires', 'lineage'))
  local deadline, dirty = tonumber(expires) or 0, is_dirty()
  local has_expired = deadline > 0 and deadline <= NOW
  if not dirty and has_expired or not (dirty and not WAITS) and not is_whole(version, parts) then
    redis.call('UNLINK', unpack(RECORD))
    return 'cold', dirty
  end
  if redis.call('EXISTS', unpack(RECORD)) == 0 then
    return 'cold', dirty
  end
  return has_expired and 'expired' or 'warm', dirty, lineage or ''
end

-- Has the record wait for a flusher, `delay` from now on if it does not wait already. It can neither expire nor,
-- under a policy that takes volatile keys only, be evicted until then.
local function mark(delay)
  if redis.call('PTTL', META) >= 0 then -- all keys of a record expire together
    for _, key in ipairs(RECORD) do
      redis.call('PERSIST', key)
    end
  end
  redis.call('ZADD', DIRTY, 'NX', NOW, USER)
  redis.call('ZADD', DUE, 'NX', NOW + delay, USER)
end

-- Notes that nothing was lost before this version; what this run of the server has not seen begins a lineage.
local function trust(lineage)
  if not is_of_this_run(lineage) then
    lineage = RUN .. NAME
    redis.call('HSET', META, 'lineage', lineage)
  end
  return lineage
end

-- Makes a cache entry of the record: PostgreSQL has it. What writes first here is allowed when memory has run
-- out, and Redis lets a script that has begun to write go on: flushing is the way out.
local function unmark(cache)
  redis.call('ZREM', DIRTY, USER)
  redis.call('ZREM', DUE, USER)
  local version, lineage, expires = unpack(redis.call('HMGET', META, 'version', 'lineage', 'expires'))
  redis.call('HSET', META, 'base', version)
  trust(lineage)
  local deadline = NOW + cache
  expires = tonumber(expires) or 0
  if expires > 0 then
    deadline = math.min(deadline, expires)
  end
  for _, key in ipairs(COMMITTED) do
    redis.call('PEXPIREAT', key, string.format('%.0f', deadline))
  end
end

--- load
-- Reads a record, or hands out the lease to fill it. `load` is the Redis engine's `load.lua`.
-- ARGV: lifetime of a new lease in ms; whether one conversation is wanted (1), all (0) or that in `history` (-1); which
-- Returns {'warm', lineage, 1 if dirty, 1 if verified, the record}, {'expired', lineage, 1 if dirty} or {'cold', lease}.

local found, dirty, lineage = look()
if found == 'cold' then
  local lease = redis.call('GET', LEASE)
  if not is_of_this_run(lease) then
    lease = RUN .. NAME
    redis.call('SET', LEASE, lease, 'PX', ARGV[1])
  end
  return { found, lease }
end
if found == 'expired' then
  return { found, lineage, dirty and 1 or 0 }
end
local keys = ARGV[2] == '-1' and { STATE, HISTORY, META, APPLIED } or RECORD
local record = load(keys, { ARGV[2] == '1' and ARGV[3] or nil })
return { found, lineage, dirty and 1 or 0, is_of_this_run(lineage) and 1 or 0, record }

--- commit
-- Commits to a record that is here, and marks it dirty in the same step. `commit` is the Redis engine's `commit.lua`.
-- ARGV: those of the Redis engine's `commit.lua`, delay until a flusher may take it in ms, 1 to take what is there (or, to
--       forget, is not there) as it is
-- Returns what `commit` does, when it is done with the lineage in the last place; {'not ready'} when there is no record,
-- or one that has to be compared first.

local numbers = {}
for number in ARGV[2]:gmatch('%S+') do
  table.insert(numbers, tonumber(number))
end
local expected, forget, appended = numbers[1], numbers[5] == 1, numbers[12]
local delay, trusted = tonumber(ARGV[#ARGV - 4]), ARGV[#ARGV - 3] == '1'
local held = redis.pcall('HMGET', META, 'version', 'next', 'base', 'lineage')
local before, next_message, base, lineage = held[1], tonumber(held[2]) or 1, held[3], held[4]

if forget then
  -- What is there is taken as it is, corrupt or not.
  if not trusted and redis.call('EXISTS', unpack(RECORD)) == 0 then
    return { 'not ready' }
  end
else
  local found = look()
  if found == 'cold' or found == 'warm' and not (is_of_this_run(lineage) or trusted) then
    return { 'not ready' }
  end
  if found == 'expired' then
    if expected > 0 then
      return { 'conflict' }
    end
    redis.call('UNLINK', unpack(RECORD))
    redis.call('HSET', META, 'version', 0, 'token', '', 'forgotten', 0, 'parts', '', 'next', next_message)
  end
end

local reply = commit({ STATE, HISTORY, META, APPLIED, TALKS, FILES, WAITING, CLAIMS }, ARGV)
if reply[1] ~= 'done' then
  return reply
end
if reply[2] == before then
  return { 'done', before, lineage or '' }
end

-- The expiry it has now is the one after which it is to be forgotten.
local left = redis.call('PTTL', META)
local expires = left > 0 and NOW + left or 0
redis.call('HSET', META, 'next', next_message + appended, 'expires', string.format('%.0f', expires))
if base then
  redis.call('HSET', META, 'base', base)
end
if is_of_this_run(lineage) then
  redis.call('HSET', META, 'lineage', lineage) -- forgetting has dropped it
end
redis.call('DEL', LEASE)
redis.call('PERSIST', FILES)
mark(delay)
return { 'done', reply[2], trust(lineage) }

--- fill
-- Puts a record here as PostgreSQL holds it, unless it is out of date by now. `commit` is the Redis engine's `commit.lua`.
-- ARGV: those of a commit that inserts the snapshot, then version, forgotten, next, expires (as in meta), lifetime
--       in the cache in ms, lease ('' to replace a record instead), version and lineage to replace
-- Returns 1 when it did, 2 when a dirty record had vanished, 0 when it did not.

local version, forgotten, next_message, expires, cache, lease, replaced, lineage = unpack(ARGV, #ARGV - 10, #ARGV - 3)
local dirty = is_dirty()

if lease ~= '' then
  local is_held = is_of_this_run(lease) and redis.call('GET', LEASE) == lease
  if not is_held or redis.call('EXISTS', unpack(RECORD)) > 0 then
    return 0
  end
else
  local held = redis.call('HMGET', META, 'version', 'lineage')
  if held[1] ~= replaced or (held[2] or '') ~= lineage then
    return 0
  end
  redis.call('UNLINK', unpack(RECORD))
end

redis.call('DEL', LEASE)
commit(RECORD, ARGV) -- without files: such as stand here may be those of a commit to come
redis.call('HSET', META, 'version', version, 'forgotten', forgotten, 'next', next_message, 'expires', expires)
unmark(tonumber(cache))
-- Whoever brings a record may have claimed it. What else the index says of one that was not here may be older.
local due = redis.call('HGET', META, 'due')
if due then
  redis.call('ZADD', WAITING, redis.call('HEXISTS', CLAIMS, USER) == 1 and 'NX' or 'LT', due, USER)
end
return (dirty and lease ~= '') and 2 or 1

--- verify
-- Marks a record from before this run of the server as verified: PostgreSQL holds the same version, or an older one.
-- ARGV: version, 1 when PostgreSQL lacks it, delay until a flusher may take it in ms

local version, lineage = unpack(redis.call('HMGET', META, 'version', 'lineage'))
if version == ARGV[1] then
  trust(lineage)
  if ARGV[2] == '1' then
    mark(tonumber(ARGV[3]))
  else
    redis.call('HSET', META, 'base', version)
  end
end
return 1

--- snapshot
-- Reads a record, expired or not, for a flusher. `load` is the Redis engine's `load.lua`.
-- Returns {'cold'}, {'gone'} for one that was dirty and is so no longer, or 'clean' or 'dirty', the record, and the names
-- of the parts of its files.

local found, dirty = look()
if found == 'cold' and dirty then
  redis.call('ZREM', DIRTY, USER)
  redis.call('ZREM', DUE, USER)
  return { 'gone' }
end
if found == 'cold' then
  return { found }
end
return { dirty and 'dirty' or 'clean', load(RECORD, {}), redis.call('HKEYS', FILES) }

--- mark_clean
-- Marks a record clean that a flusher brought to PostgreSQL, unless somebody has committed meanwhile.
-- ARGV: version, lineage, lifetime in the cache in ms, when its flush began, delay until the next one in ms
-- Returns 1 when it is clean.

local version, lineage, base = unpack(redis.call('HMGET', META, 'version', 'lineage', 'base'))
if not version or (lineage or '') ~= ARGV[2] then
  -- It was lost meanwhile. What is in its place, or is just being brought, may be what PostgreSQL had before.
  redis.call('DEL', LEASE)
  redis.call('HDEL', META, 'lineage')
  return 0
end
if version == ARGV[1] then
  unmark(tonumber(ARGV[3]))
  return 1
end
if is_dirty() then
  -- What it waits with now was committed after the flush had begun.
  redis.call('ZREM', DUE, USER)
  redis.call('ZADD', DUE, NOW + tonumber(ARGV[5]), USER)
  redis.call('ZADD', DIRTY, 'XX', ARGV[4], USER)
end
if not base or tonumber(base) < tonumber(ARGV[1]) then
  redis.call('HSET', META, 'base', ARGV[1])
end
return 0

--- mark_dirty
-- Marks a record dirty that is here, for PostgreSQL to get it once more.

local found = look()
local version = redis.call('HGET', META, 'version')
if found == 'warm' and version ~= '0' then
  mark(0)
  return 1
end
return 0

--- postpone
-- Lets a dirty user be taken by a flusher again, after some time.
-- ARGV: time in ms

if is_dirty() then
  redis.call('ZREM', DUE, USER)
  redis.call('ZADD', DUE, NOW + tonumber(ARGV[1]), USER)
end
return 1

--- raise_version
-- Raises the version of a record above the one that PostgreSQL holds of another origin.
-- ARGV: version, version in PostgreSQL
-- Returns 'raised', 'older' when this run of the server has not verified the record, or 'changed'.

local version, lineage = unpack(redis.call('HMGET', META, 'version', 'lineage'))
if version ~= ARGV[1] then
  return 'changed'
end
if not is_of_this_run(lineage) then
  return 'older'
end
local microseconds = time[1] * 1000000 + time[2]
redis.call('HSET', META, 'version', string.format('%.0f', math.max(tonumber(ARGV[2]) + 1, microseconds)))
return 'raised'
