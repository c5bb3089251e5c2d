-- quarantine(record): take a record that can't be read out of the buffer and keep a note of it. Atomic.
-- KEYS[1] payload     hash  id -> encoded Trajectory
-- KEYS[2] weight      hash  id -> draw weight
-- KEYS[3] clock       zset  id -> virtual time of its next draw
-- KEYS[4] order       zset  id -> number of its last add
-- KEYS[5] quarantine  list  notes, newest first
-- KEYS[6] counters    hash
-- ARGV    id, the record as it was read, note, notes kept
-- returns 1, or 0 when the record has been replaced or removed meanwhile         cost O(log N)
local payload, weight, clock, order, quarantine, counters = unpack(KEYS)
local id, record, note, kept = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('HGET', payload, id) ~= record then
  return 0
end
redis.call('HDEL', payload, id)
redis.call('HDEL', weight, id)
redis.call('ZREM', clock, id)
redis.call('ZREM', order, id)
redis.call('LPUSH', quarantine, note)
redis.call('LTRIM', quarantine, 0, kept - 1)
redis.call('HINCRBY', counters, 'quarantined', 1)
return 1
