-- Takes a slot of a project for an import, if one is free as far as this set knows.
-- KEYS: 1 the project's set, 2 index of projects
-- ARGV: 1 project; 2 import; 3 the project's limit
-- Gives 1 where the import holds a slot now, 0 where all are taken. The member is the import's id, so running it twice
-- takes one slot; a random token's would leak with a lost answer.
if redis.call('ZSCORE', KEYS[1], ARGV[2]) then return 1 end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1] + now[2] / 1000000, ARGV[2])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
