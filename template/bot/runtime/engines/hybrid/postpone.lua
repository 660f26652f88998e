-- Lets a dirty user be taken by a flusher again, after some time.
-- ARGV: time in ms, user

if is_dirty() then
  redis.call('ZREM', DUE, USER)
  redis.call('ZADD', DUE, NOW + tonumber(ARGV[1]), USER)
end
return 1
