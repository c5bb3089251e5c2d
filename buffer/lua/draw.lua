-- draw(n): fresh arrivals, oldest first, then ids in proportion to weight, with replacement. Atomic.
-- KEYS[1] payload   hash  id -> encoded Trajectory
-- KEYS[2] weight    hash  id -> draw weight
-- KEYS[3] clock     zset  id -> virtual time of its next draw
-- KEYS[4] fresh     list  arrivals ("id version behaviour"), repeats kept
-- KEYS[5] counters  hash
-- ARGV    fresh ids wanted, ids wanted in all, then as many draws of Exp(1)
-- returns {arrivals, other ids}             cost O(log N) per id
--
-- Why it is exact: every id is a Poisson process of rate `weight`. The next event of all of them together belongs to an
-- id with probability weight / sum of weights, independently of all before; so pop the lowest clock and wind it again.
local payload, weight, clock, fresh, counters = unpack(KEYS)
local fresh_wanted, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
-- Far from zero a double no longer tells close clocks apart, so time starts anew here. Weights are at least 1e-6 (see
-- replay.py), a draw thus advances time by at most 1e6 / N on average and one new start costs N: O(1) per draw.
local LATEST = 2 ^ 20

local arrivals, other_ids = {}, {}
while #arrivals < fresh_wanted do
  local arrival = redis.call('LPOP', fresh)
  if not arrival then
    break
  end
  local id = string.match(arrival, '^%S+')
  if redis.call('HEXISTS', payload, id) == 1 then -- else evicted while it waited
    arrivals[#arrivals + 1] = arrival
  end
end

local now = tonumber(redis.call('HGET', counters, 'now') or 0)
for i = #arrivals + 1, wanted do
  local first = redis.call('ZPOPMIN', clock)
  if #first == 0 then
    break
  end
  local id = first[1]
  now = tonumber(first[2])
  redis.call('ZADD', clock, now + tonumber(ARGV[2 + i]) / tonumber(redis.call('HGET', weight, id)), id)
  other_ids[#other_ids + 1] = id
end

if now > LATEST then
  -- Whole numbers subtract exactly, so no two clocks change places; and those already set back stay in front, so ranks
  -- don't move under the loop.
  local back = math.floor(now)
  for rank = 0, redis.call('ZCARD', clock) - 1 do
    local entry = redis.call('ZRANGE', clock, rank, rank, 'WITHSCORES')
    redis.call('ZADD', clock, tonumber(entry[2]) - back, entry[1])
  end
  now = now - back
end
-- A number in a redis.call keeps 17 digits; tostring(now) would keep 14.
redis.call('HSET', counters, 'now', now)
redis.call('HINCRBY', counters, 'drawn', #arrivals + #other_ids)
return { arrivals, other_ids }
