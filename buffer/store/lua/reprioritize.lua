-- reprioritize(batch): set the levels of items; those that have left are ignored and counted. Atomic and idempotent.
-- KEYS  payload
-- ARGV  epoch or '', settings, and 10 bytes for each: u32 slot, u32 generation, u16 level
-- returns msgpack {'ok', epoch, items updated}, or why this client may not go on
-- cost  O(1) per item
local refused = refusal(ARGV[1], ARGV[2])
if refused then
  return refused
end
write_at_maxmemory()
load_levels()
local batch, levels, items, missed = ARGV[3], {}, {}, 0

for start = 1, #batch, 10 do
  local slot, generation, level = decode('<I4I4I2', batch, start)
  local fields = items[slot] or (slot < state.used and { decode('<c16xxxxxxxxI4xxxxxxI2I4xxxxxxxxxxxxI4', item_at(slot)) })
  if fields and fields[5] == generation and fields[3] > 0 then
    items[slot], levels[slot] = fields, level -- the last update of an item counts
  else
    missed = missed + 1
  end
end

local moved = {}
for slot, level in pairs(levels) do
  local digest, version, old_level, place, generation = unpack(items[slot])
  if old_level ~= level then
    append(level_holes, old_level, place)
    moved[#moved + 1] = slot
    append(level_adds, level, #moved)
    new_level_entries[#moved] = level_entry(slot, generation, version, level, digest)
  end
end
local places = settle()
for number, slot in ipairs(moved) do
  call('SETRANGE', ITEMS, slot * ITEM + 34, pack('<I2I4', levels[slot], places[number]))
end

local updated = #batch / 10 - missed
count('updated', updated)
count('update_misses', missed)
save_counters()
event('reprioritize', 'updated', updated, 'missed', missed)
return cmsgpack.pack({ 'ok', epoch or '', updated })
