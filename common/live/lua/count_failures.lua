-- Counts a failure under each of its names and gives the counts, all in one step: a count without its end would
-- refuse for ever.
-- KEYS: 1 the hash of this minute's counts
-- ARGV: 1 most names it may hold; 2 seconds it lives, from its first failure on; 3.. names
-- A name that finds no room is not counted and gives 0.
local counts = {}
for i = 3, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[1]) then
    counts[#counts + 1] = redis.call('HINCRBY', KEYS[1], ARGV[i], 1)
  else
    counts[#counts + 1] = 0
  end
end
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return counts
