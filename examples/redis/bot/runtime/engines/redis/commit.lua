-- Applies one commit to one user's record, whole or not at all.
--
-- Nothing undoes what a script has written when a later line fails, so everything that can fail stands before the
-- first write. Values pass through as they came: cjson would turn [] into {} and round large integers.
--
-- KEYS  state    hash: JSON per key of the owner's
--       history  list: JSON per message, oldest first
--       meta     hash: version, token, forgotten, parts, due (microseconds since 1970, where there is something to do),
--                in a Cluster hint (that of the last commit with one), `fsm:<flow>`, `outbox:<update id>`, `mark:<name>` and `talk:<conversation>`
--       applied  string: update ids, oldest first, each with a comma behind it
--       talks    hash: per further conversation JSON of its messages, oldest first, each with a newline behind it
--       files    hash: per `<update id>/<file>/<number>` a part of a file of that update's replies
--       waiting, claims  where the commit says when the record is due: see `waiting.lua`; with a hint instead
--       fence    string: the newest hint of which a commit was made or refused
-- ARGV  1  token of this commit
--       2  numbers: the version expected (-1 for any), lifetime of a record and of a marker in ms (0 for no limit), most
--          applied ids, whether to forget, whether to clear the history, messages to keep (-1 for all), and the
--          lengths of what follows
--       3… keys and values to set in state, keys to delete there, the same two for meta, messages, applied ids,
--          ids and entries for the outbox, names, notes, numbers of messages that stay and new messages of further
--          conversations (without a note one is dropped; of that without a name only the note changes), and if the
--          commit says so: when the record is due (0 for never), its id, and in a Cluster the hint and its lifetime
-- Returns {outcome, version, 1 if there was a record}; outcome is 'done', 'conflict' or 'corrupt'; or {'hint', fence}.

local STATE, HISTORY, META, APPLIED, TALKS, FILES = unpack(KEYS, 1, 6)
local RECORD = { STATE, HISTORY, META, APPLIED } -- and TALKS where there are any: few records have
local KINDS = { 'hash', 'list', 'hash', 'string' }
local UNPACKABLE = 4000 -- Lua unpacks fewer than 8000 values; even, because fields and values come in pairs

local LONG_ID = 11 -- characters: Telegram's ids have up to ten digits

local numbers = {}
for number in ARGV[2]:gmatch('%S+') do
  table.insert(numbers, tonumber(number))
end
local expected, lifetime, marker_lifetime, most_applied, forget, clear_history, keep = unpack(numbers, 1, 7)
local lengths, position = { unpack(numbers, 8) }, 2

local function list()
  local first = position + 1
  position = position + table.remove(lengths, 1)
  return { first = first, last = position }
end

local function call(command, key, items)
  for first = items.first, items.last, UNPACKABLE do
    redis.call(command, key, unpack(ARGV, first, math.min(first + UNPACKABLE - 1, items.last)))
  end
end

-- What the record consists of; `load` misses a part that was evicted or deleted.
local function parts(messages, ids, has_talks)
  local found = {}
  if redis.call('EXISTS', STATE) == 1 then table.insert(found, 'state') end
  if messages > 0 then table.insert(found, 'history') end
  if ids > 0 then table.insert(found, 'applied') end
  if has_talks and redis.call('EXISTS', TALKS) == 1 then table.insert(found, 'talks') end
  for _, field in ipairs(redis.call('HKEYS', META)) do
    if field:sub(1, 4) == 'fsm:' then
      table.insert(found, 'fsm')
      break
    end
  end
  return table.concat(found, ' ')
end

-- Keeps the newest ids, and drops the outbox entries of the others. Seldom: `load` reads no more than it wants.
local function trim_applied(most)
  local ids, newest = {}, {}
  for update_id in redis.call('GET', APPLIED):gmatch('%d+') do
    table.insert(ids, update_id)
  end
  for index = math.max(1, #ids - most + 1), #ids do
    newest[ids[index]] = true
  end
  for _, field in ipairs(redis.call('HKEYS', META)) do
    local id = field:match('^outbox:(.*)')
    if id and not newest[id] and redis.call('HEXISTS', META, 'mark:' .. id) == 0 then
      redis.call('HDEL', META, field)
    end
  end
  redis.call('SET', APPLIED, table.concat(ids, ',', math.max(1, #ids - most + 1)) .. ',')
end

-- Keeps the files of those replies that wait. Such of a commit that was never made go, too.
local function drop_files()
  if redis.call('TYPE', FILES).ok ~= 'hash' then
    redis.call('UNLINK', FILES)
    return
  end
  for _, part in ipairs(redis.call('HKEYS', FILES)) do
    if redis.call('HEXISTS', META, 'outbox:' .. part:match('^%d*')) == 0 then
      redis.call('HDEL', FILES, part)
    end
  end
end

-- Drops conversations of which nothing is noted: version 1.0.0, which knows of none, forgets a user without them.
local function drop_orphans()
  for _, name in ipairs(redis.call('HKEYS', TALKS)) do
    if redis.call('HEXISTS', META, 'talk:' .. name) == 0 then
      redis.call('HDEL', TALKS, name)
    end
  end
end

local function continue_talk(name, note, keep, added)
  if note == '' then
    redis.call('HDEL', META, 'talk:' .. name)
    redis.call('HDEL', TALKS, name)
    return
  end
  redis.call('HSET', META, 'talk:' .. name, note)
  if name == '' then return end
  local said = (redis.call('HGET', TALKS, name) or '') .. added
  local _, count = said:gsub('\n', '')
  local begin = 1
  for _ = keep + 1, count do
    begin = said:find('\n', begin, true) + 1
  end
  redis.call('HSET', TALKS, name, said:sub(begin))
end

local function is_marker(forgotten, found)
  return (tonumber(forgotten) or 0) > 0 and (found == '' or found == 'applied')
end

local token = ARGV[1]
local state_set, state_delete = list(), list()
local meta_set, meta_delete = list(), list()
local messages, applied, outbox, talks = list(), list(), list(), list()
local agenda = list()
local due, record, hint, hint_lifetime = unpack(ARGV, agenda.first, agenda.last)

-- What is there.

local kinds, exists, is_record = {}, false, true
for index, key in ipairs(RECORD) do
  kinds[index] = redis.call('TYPE', key).ok
  if kinds[index] ~= 'none' then
    exists = true
    is_record = is_record and kinds[index] == KINDS[index]
  end
end
local meta = {}
if kinds[3] == 'hash' then
  meta = redis.call('HMGET', META, 'version', 'token', 'forgotten', 'parts', 'due')
end
local version, forgotten = tonumber(meta[1]), meta[3] or '0'
local has_talks = talks.first <= talks.last or redis.call('EXISTS', TALKS) == 1
if has_talks then
  local kind = redis.call('TYPE', TALKS).ok
  is_record = is_record and (kind == 'hash' or kind == 'none')
  table.insert(RECORD, TALKS)
end

if exists and forget == 0 and not (version and is_record) then
  return { 'corrupt' }
end
if meta[2] == token then
  return { 'done', meta[1], 1 }
end
if expected >= 0 and expected ~= (version or 0) then
  return { 'conflict' }
end

local WAITING, CLAIMS, FENCE
if hint then
  FENCE = KEYS[7]
  local fence = redis.call('GET', FENCE)
  if fence and tonumber(fence) >= tonumber(hint) then
    return { 'hint', fence }
  end
elseif due and KEYS[8] then
  WAITING, CLAIMS = KEYS[7], KEYS[8]
  redis.call('ZSCORE', WAITING, record) -- which fails if somebody put something else there
  redis.call('HEXISTS', CLAIMS, record)
end

local existed = exists and not is_marker(forgotten, meta[4])
local now = redis.call('TIME')
local microseconds = now[1] * 1000000 + now[2]
local new_version = string.format('%.0f', math.max((version or 0) + 1, microseconds))

-- From here on, nothing fails.

if forget == 1 then
  local marks = {}
  if kinds[3] == 'hash' then
    for _, field in ipairs(redis.call('HKEYS', META)) do
      if field:sub(1, 5) == 'mark:' then
        marks[field] = redis.call('HGET', META, field)
      end
    end
  end
  redis.call('UNLINK', STATE, HISTORY, META, TALKS)
  for field, value in pairs(marks) do
    redis.call('HSET', META, field, value)
  end
  local ids = ''
  if kinds[4] == 'string' then
    for update_id in redis.call('GET', APPLIED):gmatch('[^,]+') do
      if update_id:match('^%d+$') then
        ids = ids .. update_id .. ','
      end
    end
  end
  redis.call('UNLINK', APPLIED)
  if ids ~= '' then
    redis.call('SET', APPLIED, ids)
  end
  forgotten = new_version
end

call('HSET', STATE, state_set)
call('HDEL', STATE, state_delete)
call('HSET', META, meta_set)
call('HDEL', META, meta_delete)

local due_at = tonumber(due) or forget == 0 and tonumber(meta[5]) or 0
if due then
  redis.call('HDEL', META, 'due')
  if due_at > 0 then redis.call('HSET', META, 'due', due) end
end
if WAITING then
  redis.call('ZREM', WAITING, record)
  redis.call('HDEL', CLAIMS, record)
  if due_at > 0 then redis.call('ZADD', WAITING, due, record) end
end
if FENCE then
  redis.call('SET', FENCE, hint, 'PX', hint_lifetime)
  redis.call('HSET', META, 'hint', hint)
end

if clear_history == 1 then
  redis.call('UNLINK', HISTORY)
end
call('RPUSH', HISTORY, messages)
local kept = redis.call('LLEN', HISTORY)
if keep >= 0 and kept > keep then
  redis.call('LTRIM', HISTORY, kept - keep, -1)
  kept = keep
end

if has_talks then
  drop_orphans()
end
for index = talks.first, talks.last, 4 do
  continue_talk(ARGV[index], ARGV[index + 1], tonumber(ARGV[index + 2]), ARGV[index + 3])
end

for index = applied.first, applied.last do
  redis.call('APPEND', APPLIED, ARGV[index] .. ',')
end
local ids_length = redis.call('STRLEN', APPLIED)
for index = outbox.first, outbox.last, 2 do
  redis.call('HSET', META, 'outbox:' .. ARGV[index], ARGV[index + 1])
end
if ids_length > most_applied * LONG_ID * 2 then
  trim_applied(most_applied)
end

local found = parts(kept, ids_length, has_talks)
redis.call('HSET', META, 'version', new_version, 'token', token, 'forgotten', forgotten, 'parts', found)

local milliseconds, from = lifetime, math.max(microseconds, due_at)
if is_marker(forgotten, found) then
  milliseconds, from = marker_lifetime, microseconds
end
local deadline = string.format('%.0f', math.floor(from / 1000) + milliseconds)
for _, key in ipairs(RECORD) do
  if milliseconds > 0 then
    redis.call('PEXPIREAT', key, deadline)
  else
    redis.call('PERSIST', key)
  end
end
if FILES then
  drop_files()
  local file_lifetime = milliseconds > 0 and math.min(milliseconds, marker_lifetime) or marker_lifetime
  redis.call('PEXPIRE', FILES, string.format('%.0f', file_lifetime))
end

return { 'done', new_version, existed and 1 or 0 }
