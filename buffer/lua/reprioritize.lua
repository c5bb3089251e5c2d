-- reprioritize(ids, weights): set draw weights; ids that are gone are ignored. Atomic, harmless when repeated.
-- KEYS[1] weight    hash  id -> draw weight
-- KEYS[2] clock     zset  id -> virtual time of its next draw
-- KEYS[3] counters  hash
-- ARGV    for each id: id, weight > 0
-- returns number of ids found              cost O(log N) per id
--
-- What is left of an id's wait is Exp(1) / weight whatever went before (memorylessness), so scaling it by old / new
-- weight gives exactly the wait of the new weight, without a random number.
local weight, clock, counters = unpack(KEYS)
local now = tonumber(redis.call('HGET', counters, 'now') or 0)
local largest = tonumber(redis.call('HGET', counters, 'max_weight') or 1)
local updated = 0

for i = 1, #ARGV, 2 do
  local id, new = ARGV[i], tonumber(ARGV[i + 1])
  local old = redis.call('HGET', weight, id)
  if old then
    local left = tonumber(redis.call('ZSCORE', clock, id)) - now
    redis.call('ZADD', clock, now + left * tonumber(old) / new, id)
    redis.call('HSET', weight, id, new)
    largest = math.max(largest, new)
    updated = updated + 1
  end
end

redis.call('HSET', counters, 'max_weight', largest)
redis.call('HINCRBY', counters, 'updated', updated)
return updated
