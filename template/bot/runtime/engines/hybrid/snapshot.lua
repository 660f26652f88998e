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
