-- Shared by all scripts; scripts.py puts it in front of each. keys.py documents the content of every key.
--
-- An item lives in a slot: ITEM bytes of the string `items`. Its record is in the hash `payload` under its digest.
-- offset  type  field         offset  type  field
--  0      16 B  digest        36      u32   level_at    place in level:<level>
-- 16       8 B  group         40      u32   group_at    place in group:<group>
-- 24      u32   version       44      u32   older       slot of the next older item
-- 28      f32   log_reward    48      u32   newer       slot of the next newer item; of a free slot: the next free one
-- 32      i16   bin           52      u32   generation  number of items this slot has held
-- 34      u16   level         56      u32   draws
--               0: free slot  60      u32   arrived_at  Unix time of the last arrival, s
--                             64      u32   arrival     number of the last arrival, modulo 2^32
-- Order: a chain by age of the last arrival, from `oldest` to `newest`.
-- Index: the items of a level or a group, in a packed array that grows at its end and shrinks at its front, where most
-- items that leave first are. A group's entry is the slot (4 bytes); a level's entry is all that a draw needs:
-- u32 slot, u32 generation, u32 version, u16 level, digest (30 bytes). Places only ever grow (modulo 2^32); `base` is
-- the place of the array's first byte, `head` the place of its first entry. An item stores its place in each index; one
-- that leaves from the middle is replaced by a new one or by the first.
--
-- Only Redis 6.2's commands and Lua 5.1; no `unpack` of more than 2,000 values. Keys beyond KEYS[1] are named after it:
-- they share its hash tag, hence its Redis Cluster slot.
local PREFIX = string.sub(KEYS[1], 1, -8) -- without "payload"
local function key(name)
  return PREFIX .. name
end
local PAYLOAD, SLOTS, ITEMS = key('payload'), key('slots'), key('items')
local LEVELS, GROUPS, COUNTERS = key('levels'), key('groups'), key('counters')
local ITEM, NONE = 68, 4294967295
local LEVEL_AT, GROUP_AT, OLDER, NEWER, GENERATION, DRAWS, ARRIVED_AT, ARRIVAL = 36, 40, 44, 48, 52, 56, 60, 64
local call, sub, concat = redis.call, string.sub, table.concat
local pack, decode = struct.pack, struct.unpack

local function u32(bytes, offset)
  return (decode('<I4', bytes, offset + 1))
end

local function u16(bytes, offset)
  return (decode('<I2', bytes, offset + 1))
end

local function item_at(slot)
  return call('GETRANGE', ITEMS, slot * ITEM, slot * ITEM + ITEM - 1)
end

local function set_field(slot, offset, value)
  call('SETRANGE', ITEMS, slot * ITEM + offset, pack('<I4', value))
end

-- Counters: numbers read once; those that changed are written once.
local state, saved = {}, {}
local NUMBERS = {
  'size', 'oldest', 'newest', 'free', 'used', 'arrivals', 'drawn', 'version', 'latest_version', 'latest', 'fresh',
  'arrived_sum', 'waived', 'declined',
}
local epoch, settings
do
  local values = call('HMGET', COUNTERS, 'epoch', 'settings', unpack(NUMBERS))
  epoch, settings = values[1], values[2]
  for i, name in ipairs(NUMBERS) do
    state[name] = tonumber(values[i + 2] or nil)
    saved[name] = state[name]
  end
  for _, name in ipairs({ 'size', 'used', 'arrivals', 'drawn', 'latest', 'fresh', 'arrived_sum', 'waived', 'declined' }) do
    state[name] = state[name] or 0
  end
  for _, name in ipairs({ 'oldest', 'newest', 'free' }) do
    state[name] = state[name] or NONE
  end
  state.version, state.latest_version = state.version or -1, state.latest_version or -1
end
-- Draws by which the learner is behind `samples_per_insert`; negative where it is ahead. Trajectories that were refused
-- count as inserts: the learner need not wait for others in their place.
local function draws_owed(samples_per_insert)
  return samples_per_insert * (state.arrivals + state.declined) - state.drawn - state.waived
end

local totals = {} -- additions of this call to counters that no script reads

local function count(name, number)
  if number ~= 0 then
    totals[name] = (totals[name] or 0) + number
  end
end

local function save_counters()
  local values = { COUNTERS }
  for _, name in ipairs(NUMBERS) do
    if state[name] ~= saved[name] then
      values[#values + 1] = name
      values[#values + 1] = state[name]
    end
  end
  if #values > 1 then
    call('HSET', unpack(values))
  end
  for name, number in pairs(totals) do
    call('HINCRBY', COUNTERS, name, number)
  end
end

-- At `maxmemory` Redis refuses the first write of a script if it may grow the store, and lets a script that has written
-- run to its end. A removal that removes nothing therefore unblocks the scripts that must go on: draws, priorities,
-- evictions.
local function write_at_maxmemory()
  call('HDEL', COUNTERS, '')
end

-- nil if this client may go on; else the reply that says why not: the buffer was replaced, or has other settings.
local function refusal(expected_epoch, expected_settings)
  if expected_epoch ~= '' and expected_epoch ~= epoch then
    return cmsgpack.pack({ 'lost', epoch or '' })
  end
  if settings and settings ~= expected_settings then
    return cmsgpack.pack({ 'settings', settings })
  end
end

local END = 4294967296

-- The 512 levels: the number of items of each, u32; then the base and the head of each, both u32.
local LEVELS_BYTES, COUNTS_BYTES = 512 * 12, 512 * 4
local level_bytes
local function load_levels()
  level_bytes = call('GETRANGE', LEVELS, 0, LEVELS_BYTES - 1)
  level_bytes = level_bytes .. string.rep('\0', LEVELS_BYTES - #level_bytes)
end

local function level_state(level) -- number of items, base, head
  local base, head = decode('<I4I4', level_bytes, COUNTS_BYTES + level * 8 + 1)
  return u32(level_bytes, level * 4), base, head
end

-- The levels that have items, the highest first, and the number of items of each level, from level 0 at 1.
local function count_levels()
  local counts, in_use = { decode('<' .. string.rep('I4', 512), level_bytes) }, {}
  for i = 512, 1, -1 do
    if counts[i] > 0 then
      in_use[#in_use + 1] = i - 1
    end
  end
  return in_use, counts
end

local LEVEL_ENTRY, GROUP_ENTRY = 30, 4
local function level_entry(slot, generation, version, level, digest)
  return pack('<I4I4I4I2c16', slot, generation, version, level, digest)
end

-- Pending changes of the indexes: name of a level or group -> empty places, numbers of the entries to insert.
local level_holes, level_adds, group_holes, group_adds = {}, {}, {}, {}
local new_level_entries, new_group_entries = {}, {}

local function append(lists, name, value)
  local list = lists[name]
  if list then
    list[#list + 1] = value
  else
    lists[name] = { value }
  end
end

-- Fill holes, in any order, that are not at the front of an index's array: new entries go into the last ones, then the
-- entries from the front. Returns the head and the number of new entries used.
local function fill_holes(array, width, field, base, head, holes, adds, entries, added)
  local n_adds, used, first, last = adds and #adds or 0, 0, 1, #holes
  table.sort(holes, function(a, b)
    return (a - head) % END < (b - head) % END
  end)
  while true do
    while first <= last and holes[first] == head do
      first, head = first + 1, (head + 1) % END
    end
    if first > last then
      return head, used
    end
    local place, entry = holes[last], nil
    last = last - 1
    if used < n_adds then
      used = used + 1
      entry = entries[adds[used]]
      added[adds[used]] = place
    else
      local offset = (head - base) % END * width
      entry = call('GETRANGE', array, offset, offset + width - 1)
      head = (head + 1) % END
      call('SETRANGE', ITEMS, decode('<I4', entry) * ITEM + field, pack('<I4', place))
    end
    call('SETRANGE', array, (place - base) % END * width, entry)
  end
end

-- Apply its pending changes to one index. `width`: bytes of an entry; `field`: offset of the place in an item.
-- `added` receives number of a new entry -> its place; the caller writes these into the items. Returns number of items,
-- base, head.
local function rearrange(array, width, field, length, base, head, holes, adds, entries, added)
  local n_adds, used = adds and #adds or 0, 0
  if holes then
    local lost, first = #holes, 1
    length = length - lost
    while holes[first] == head do -- holes at the very front, in order, are skipped: usually all of them
      first, head = first + 1, (head + 1) % END
    end
    if first <= lost then
      local others = {}
      for i = first, lost do
        others[#others + 1] = holes[i]
      end
      head, used = fill_holes(array, width, field, base, head, others, adds, entries, added)
    end
  end
  if used < n_adds then
    local appended, place = {}, (head + length + used) % END
    local offset = (place - base) % END * width
    for i = used + 1, n_adds do
      local number = adds[i]
      added[number], appended[i - used] = place, entries[number]
      place = (place + 1) % END
    end
    call('SETRANGE', array, offset, concat(appended))
  end
  length = length + n_adds
  local skipped = (head - base) % END
  if length == 0 then
    call('DEL', array)
    return 0, 0, 0
  elseif skipped > length + 64 then -- more skipped places than entries
    call('SET', array, call('GETRANGE', array, skipped * width, (skipped + length) * width - 1))
    base = head
  end
  return length, base, head
end

-- Apply all pending changes. Returns the places of the new entries in their levels and in their groups.
local function settle()
  local level_places, group_places, touched = {}, {}, {}
  for level in pairs(level_holes) do
    touched[#touched + 1] = level
  end
  for level in pairs(level_adds) do
    if not level_holes[level] then
      touched[#touched + 1] = level
    end
  end
  table.sort(touched)
  if #touched > 0 then
    local counts, places, after = {}, {}, 0 -- pieces of the new `level_bytes`
    for _, level in ipairs(touched) do
      local length, base, head = level_state(level)
      length, base, head = rearrange(
        key('level:' .. level), LEVEL_ENTRY, LEVEL_AT, length, base, head,
        level_holes[level], level_adds[level], new_level_entries, level_places
      )
      counts[#counts + 1] = sub(level_bytes, after * 4 + 1, level * 4)
      counts[#counts + 1] = pack('<I4', length)
      places[#places + 1] = sub(level_bytes, COUNTS_BYTES + after * 8 + 1, COUNTS_BYTES + level * 8)
      places[#places + 1] = pack('<I4I4', base, head)
      after = level + 1
    end
    counts[#counts + 1] = sub(level_bytes, after * 4 + 1, COUNTS_BYTES)
    places[#places + 1] = sub(level_bytes, COUNTS_BYTES + after * 8 + 1)
    level_bytes = concat(counts) .. concat(places)
    call('SET', LEVELS, level_bytes)
  end
  local names, values, empty = {}, { GROUPS }, { GROUPS }
  for group in pairs(group_holes) do
    names[#names + 1] = group
  end
  for group in pairs(group_adds) do
    if not group_holes[group] then
      names[#names + 1] = group
    end
  end
  for from = 1, #names, 500 do
    local states = call('HMGET', GROUPS, unpack(names, from, math.min(from + 499, #names)))
    for i, packed in ipairs(states) do
      local group, length, base, head = names[from + i - 1], 0, 0, 0
      if packed then
        length, base, head = decode('<I4I4I4', packed)
      end
      length, base, head = rearrange(
        key('group:' .. group), GROUP_ENTRY, GROUP_AT, length, base, head,
        group_holes[group], group_adds[group], new_group_entries, group_places
      )
      if length > 0 then
        values[#values + 1] = group
        values[#values + 1] = pack('<I4I4I4', length, base, head)
      else
        empty[#empty + 1] = group
      end
    end
    if #values > 1 then
      call('HSET', unpack(values))
    end
    if #empty > 1 then
      call('HDEL', unpack(empty))
    end
    values, empty = { GROUPS }, { GROUPS }
  end
  level_holes, level_adds, group_holes, group_adds = {}, {}, {}, {}
  return level_places, group_places
end

-- The number of items of a group, and the offset in its array of the first one's slot.
local function group_state(group)
  local packed = call('HGET', GROUPS, group)
  if not packed then
    return 0, 0
  end
  local length, base, head = decode('<I4I4I4', packed)
  return length, (head - base) % END * GROUP_ENTRY
end

-- The slots of `length` items of a group, four bytes each.
local function members_of(group, length, first)
  return call('GETRANGE', key('group:' .. group), first, first + length * GROUP_ENTRY - 1)
end

local bins = {} -- histogram bin -> change
local function save_bins()
  for bin, change in pairs(bins) do
    if change ~= 0 and call('HINCRBY', key('rewards'), bin, change) == 0 then
      call('HDEL', key('rewards'), bin)
    end
  end
end

local function unlink(slot)
  local links = call('GETRANGE', ITEMS, slot * ITEM + OLDER, slot * ITEM + OLDER + 7)
  local older, newer = u32(links, 0), u32(links, 4)
  if older == NONE then
    state.oldest = newer
  else
    set_field(older, NEWER, newer)
  end
  if newer == NONE then
    state.newest = older
  else
    set_field(newer, OLDER, older)
  end
end

-- Items to remove. `take_out` notes the one at `offset` in `bytes`, and returns the next newer one's slot and its
-- generation; the caller repairs the chain. `finish_removal` removes the noted items from everything but the indexes,
-- which `settle` changes. `ranked`: slots are also ranked in a zset.
local gone_slots, gone_digests, gone_arrived_sum = {}, {}, 0
local ITEM_FORMAT = '<c16c8xxxxxxxxi2I2I4I4I4I4I4I4I4'

local function take_out(slot, bytes, offset)
  local digest, group, bin, level, level_at, group_at, _, newer, generation, _, arrived_at =
    decode(ITEM_FORMAT, bytes, offset + 1)
  local n = #gone_slots + 1
  gone_slots[n], gone_digests[n] = slot, digest
  gone_arrived_sum = gone_arrived_sum + arrived_at
  bins[bin] = (bins[bin] or 0) - 1
  append(group_holes, group, group_at)
  append(level_holes, level, level_at)
  return newer, generation
end

local function finish_removal(ranked)
  for i = 1, #gone_slots, 1000 do
    local last = math.min(i + 999, #gone_slots)
    call('HDEL', PAYLOAD, unpack(gone_digests, i, last))
    call('HDEL', SLOTS, unpack(gone_digests, i, last))
    if ranked then
      call('ZREM', key('rank'), unpack(gone_slots, i, last))
    end
  end
  state.arrived_sum = state.arrived_sum - gone_arrived_sum
  state.size = state.size - #gone_slots
  gone_slots, gone_digests, gone_arrived_sum = {}, {}, 0
end

-- Free the slots of removed items for later ones.
local function release(slots)
  for _, slot in ipairs(slots) do
    call('SETRANGE', ITEMS, slot * ITEM + 34, '\0\0')
    set_field(slot, NEWER, state.free)
    state.free = slot
  end
end

local function event(kind, ...)
  call('XADD', key('events'), 'MAXLEN', '~', 10000, '*', 'kind', kind, ...)
end

-- A client that lost a reply sends the call again; it gets the same reply and nothing happens twice.
local function earlier_reply(nonce)
  local stored = call('GET', KEYS[2])
  if stored and sub(stored, 1, #nonce) == nonce then
    return sub(stored, #nonce + 1)
  end
end

local function remember_reply(nonce, reply)
  call('SET', KEYS[2], nonce .. reply, 'EX', 600)
  return reply
end
