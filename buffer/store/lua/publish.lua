-- publish(): note the newest adapter version, unless another learner has taken over the run. Atomic.
-- KEYS  payload
-- ARGV  the caller's lease, version
-- returns 1, or 0 where the lease is another's and nothing was changed
-- cost  O(1)
if call('HGET', COUNTERS, 'lease') ~= ARGV[1] then
  return 0
end
call('HSET', COUNTERS, 'published', ARGV[2], 'version', ARGV[2])
return 1
