-- Counts a failure under each of its names and gives the counts, all in one step: a count without its end would
-- refuse for ever.
-- KEYS: 1 the hash of this minute's counts; 2 the mark of what was shown, which opens nothing any more
-- ARGV: 1 seconds the hash lives, from its first failure on; then of each name: the name, and how many names leave it
-- no room
-- A name that finds no room is not counted and gives 0.
redis.call('DEL', KEYS[2])
local counts = {}
for i = 2, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[i + 1]) then
    counts[#counts + 1] = redis.call('HINCRBY', KEYS[1], ARGV[i], 1)
  else
    counts[#counts + 1] = 0
  end
end
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return counts
