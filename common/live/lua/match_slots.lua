-- Makes a project's set of slots equal to the ledger, as the ledger was at a moment by this server's clock.
-- KEYS: 1 the project's set, 2 index of projects
-- ARGV: 1 project; 2 the moment; 3.. the imports that held a slot then
-- Whoever took a slot after that moment keeps it: the ledger could not know of it yet.
local held = {}
for i = 3, #ARGV do held[ARGV[i]] = true end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2])) do
  if not held[member] then redis.call('ZREM', KEYS[1], member) end
end
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[i]) end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SADD', KEYS[2], ARGV[1])
else
  redis.call('SREM', KEYS[2], ARGV[1])
end
