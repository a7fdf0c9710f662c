-- Makes a project's set of slots equal to the ledger, as the ledger was at a moment by this server's clock.
-- KEYS: 1 the project's set, 2 index of projects
-- ARGV: 1 project; 2 the moment; 3.. the imports that held a slot then
-- Whoever took a slot after that moment keeps it: the ledger could not know of it yet. Later than now nobody did:
-- the clock was set back, or somebody wrote by hand.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local held = {}
for i = 3, #ARGV do held[ARGV[i]] = true end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  local score = tonumber(members[i + 1])
  local is_young = score >= tonumber(ARGV[2]) and score <= now
  if not held[members[i]] and not is_young then redis.call('ZREM', KEYS[1], members[i]) end
end
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[i]) end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SADD', KEYS[2], ARGV[1])
else
  redis.call('SREM', KEYS[2], ARGV[1])
end
