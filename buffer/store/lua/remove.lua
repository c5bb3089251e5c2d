-- remove(items): take items out, and keep a note of each. Atomic and idempotent.
-- KEYS  payload
-- ARGV  epoch or '', settings, 1 if there is a ranking or 0, name of the counter, notes kept or 0,
--       then for each: u32 slot and u32 generation in 8 bytes, note
-- returns msgpack {'ok', epoch, items removed}, or why this client may not go on
-- cost  O(1) per item
local refused = refusal(ARGV[1], ARGV[2])
if refused then
  return refused
end
write_at_maxmemory()
load_levels()
local ranked, counter, notes_kept = ARGV[3] == '1', ARGV[4], tonumber(ARGV[5])
local slots, seen = {}, {}
for i = 6, #ARGV, 2 do
  local slot, generation = u32(ARGV[i], 0), u32(ARGV[i], 4)
  local item = not seen[slot] and slot < state.used and item_at(slot)
  if item and u32(item, GENERATION) == generation and u16(item, 34) > 0 then
    slots[#slots + 1], seen[slot] = slot, true
    unlink(slot)
    take_out(slot, item, 0)
    if notes_kept > 0 then
      call('LPUSH', key('quarantine'), ARGV[i + 1])
    end
  end
end
if notes_kept > 0 then
  call('LTRIM', key('quarantine'), 0, notes_kept - 1)
end
finish_removal(ranked)
release(slots)
settle()
save_bins()
count(counter, #slots)
save_counters()
event('remove', 'reason', counter, 'items', #slots)
return cmsgpack.pack({ 'ok', epoch or '', #slots })
