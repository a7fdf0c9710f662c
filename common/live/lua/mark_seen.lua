-- Marks ids as seen, all in one step, and tells which were marked before.
-- KEYS: 1 the collection's set, 2 total of marks (a bound), 3 index of sets by last use
-- ARGV: 1 ids, packed, 16 bytes each; 2 most marks in all; 3 seconds a set lives unused
-- Gives one character an id: '1' was marked before, '0' was not.
-- Above the bound ids are looked up and no longer marked: wrong routes cost time, and a full Redis would stop the
-- queue that lives in it too. The sweep counts anew and forgets the sets that were used longest ago.
local packed, most = ARGV[1], tonumber(ARGV[2])
local count = #packed / 16
local room = tonumber(redis.call('GET', KEYS[2]) or '0') + count <= most
local answer, added = {}, 0
-- Slices, since unpack() puts its values on Lua's stack of 8,000.
for first = 0, count - 1, 4000 do
  local ids = {}
  for i = first, math.min(first + 3999, count - 1) do
    ids[#ids + 1] = string.sub(packed, i * 16 + 1, i * 16 + 16)
  end
  local known = redis.call('SMISMEMBER', KEYS[1], unpack(ids))
  answer[#answer + 1] = table.concat(known)
  if room then added = added + redis.call('SADD', KEYS[1], unpack(ids)) end
end
if added > 0 then redis.call('INCRBY', KEYS[2], added) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[3], redis.call('TIME')[1], KEYS[1])
return table.concat(answer)
