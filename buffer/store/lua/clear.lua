-- clear(): delete everything and begin a new epoch, so that a client of the old one notices. Atomic.
-- KEYS  payload
-- ARGV  new epoch, settings
-- returns the new epoch
-- cost  O(prompts + levels); Redis frees the records in the background
for _, group in ipairs(call('HKEYS', GROUPS)) do
  call('UNLINK', key('group:' .. group))
end
for level = 1, 511 do
  call('UNLINK', key('level:' .. level))
end
for _, name in ipairs({
  'payload', 'slots', 'items', 'levels', 'groups', 'counters', 'rewards', 'staleness', 'arrivals', 'rank', 'quarantine',
  'events',
}) do
  call('UNLINK', key(name))
end
call('HSET', COUNTERS, 'epoch', ARGV[1], 'settings', ARGV[2])
event('clear')
return ARGV[1]
