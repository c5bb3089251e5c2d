-- add(batch): store trajectories, the newest record of an id wins; evict the oldest when full. Atomic.
-- KEYS[1] payload   hash    id -> encoded Trajectory
-- KEYS[2] weight    hash    id -> draw weight
-- KEYS[3] clock     zset    id -> virtual time of its next draw
-- KEYS[4] order     zset    id -> number of its last add
-- KEYS[5] fresh     list    arrivals ("id version behaviour"), repeats kept, the newest `fresh capacity`
-- KEYS[6] counters  hash
-- KEYS[7] answer    string  what this very call answered before, if it is a repetition
-- ARGV    capacity (trajectories), fresh capacity (arrivals), answer's lifetime (s), then for each trajectory: id, record,
--         a draw of Exp(1), arrival
-- returns "added duplicates evicted"       cost O(log N) per trajectory
local payload, weight, clock, order, fresh, counters, answer = unpack(KEYS)
local capacity, fresh_capacity, lifetime = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

-- A client that lost the reply sends the call again: it must not count, nor feed `fresh`, twice.
local before = redis.call('GET', answer)
if before then
  return before
end

local now = tonumber(redis.call('HGET', counters, 'now') or 0)
-- Nobody has looked at a new item yet, so it enters as urgent as the most urgent ever seen.
local entry_weight = tonumber(redis.call('HGET', counters, 'max_weight') or 1)
local number = tonumber(redis.call('HGET', counters, 'adds') or 0)
local added, duplicates, evicted = 0, 0, 0

for i = 4, #ARGV, 4 do
  local id, record, delay, arrival = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  if redis.call('HEXISTS', payload, id) == 1 then
    duplicates = duplicates + 1
  else
    -- Evict before inserting: a server at its memory limit then keeps running.
    while redis.call('ZCARD', order) >= capacity do
      local oldest = redis.call('ZPOPMIN', order)[1]
      redis.call('HDEL', payload, oldest)
      redis.call('HDEL', weight, oldest)
      redis.call('ZREM', clock, oldest)
      evicted = evicted + 1
    end
    redis.call('HSET', weight, id, entry_weight)
    redis.call('ZADD', clock, now + delay / entry_weight, id)
    added = added + 1
  end
  number = number + 1
  redis.call('HSET', payload, id, record)
  redis.call('ZADD', order, number, id)
  redis.call('RPUSH', fresh, arrival)
end
redis.call('LTRIM', fresh, -fresh_capacity, -1)

local time = redis.call('TIME')
redis.call('HSET', counters, 'adds', number, 'last_add_s', time[1])
redis.call('HINCRBY', counters, 'inserted', added)
redis.call('HINCRBY', counters, 'duplicates', duplicates)
redis.call('HINCRBY', counters, 'evicted', evicted)
local reply = added .. ' ' .. duplicates .. ' ' .. evicted
redis.call('SET', answer, reply, 'EX', lifetime)
return reply
