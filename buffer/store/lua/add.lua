-- add(batch): insert items; the newest record of a digest wins; make room when full. Atomic.
-- Their records were put into `payload` just before, in the same transaction: that copies each of them once less than
-- an argument of a script would. Records of items that are refused are taken out again.
-- KEYS  payload, this client's reply
-- ARGV  nonce, epoch or '', new epoch, settings,
--       capacity, items per prompt or 0, eviction rule (oldest, lowest_priority, most_sampled), max staleness or -1,
--       length of the ring of arrivals, rank by (none, reward, draws),
--       samples per insert or 0, how far inserts may be ahead (in samples), arrivals needed before the first draw,
--       heads, then tags
--       A head is 37 bytes: the first 36 of an item (level 0: the highest in use), and the number of its tag.
-- returns msgpack {'ok', epoch, added, duplicates, evicted, refused as stale, refused by the quota}, or {'wait'},
--       or why this client may not go on
-- cost  O(1) per item, and O(quota) where a prompt has reached its quota
local nonce, expected_epoch, new_epoch, expected_settings = unpack(ARGV, 1, 4)
local capacity, quota, evict_rule, max_staleness = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local ring_length, ranked_by = tonumber(ARGV[9]), ARGV[10]
local samples_per_insert, max_ahead = tonumber(ARGV[11]), tonumber(ARGV[12])
local needed, heads, HEAD, FIRST_TAG = tonumber(ARGV[13]), ARGV[14], 37, 15
local n_items = #heads / HEAD
local ranked = ranked_by ~= 'none'
local now_s = tonumber(call('TIME')[1])

local digests, groups, versions, rewards, new_bins, levels, tags = {}, {}, {}, {}, {}, {}, {}
for i = 1, n_items do
  digests[i], groups[i], versions[i], rewards[i], new_bins[i], levels[i], tags[i] =
    decode('<c16c8I4fi2I2B', heads, (i - 1) * HEAD + 1)
end
local stored_slots = n_items > 0 and call('HMGET', SLOTS, unpack(digests)) or {} -- no items: only make room

local function take_records_out()
  local unwanted = { PAYLOAD }
  for i = 1, n_items do
    if not stored_slots[i] then
      unwanted[#unwanted + 1] = digests[i]
    end
  end
  if #unwanted > 1 then
    call('HDEL', unpack(unwanted))
  end
end

local reply = earlier_reply(nonce)
if reply then
  take_records_out() -- items that have left since then must not come back
  return reply
end
if not epoch and expected_epoch == '' then
  epoch, settings = new_epoch, expected_settings
  call('HSET', COUNTERS, 'epoch', epoch, 'settings', settings) -- refused at maxmemory, before anything has changed
end
local refused = refusal(expected_epoch, expected_settings)
if refused then
  take_records_out()
  return refused
end
if samples_per_insert > 0 and state.arrivals >= needed and draws_owed(samples_per_insert) > max_ahead then
  take_records_out()
  return cmsgpack.pack({ 'wait' })
end
load_levels()
if state.size >= capacity then
  write_at_maxmemory() -- a full buffer goes on: new items replace old ones
end

-- 1. Which items are new, which repeat a stored one, which are too stale.
for i = 1, n_items do
  if versions[i] > state.version and versions[i] ~= NONE then -- NONE: a given string, which has no version
    state.version = versions[i]
  end
end
local duplicates, evicted, stale, over_quota = 0, 0, 0, 0
local new, repeats, repeats_of_new, unwanted, seen = {}, {}, {}, {}, {} -- repeats_of_new: of a string of this batch
for i = 1, n_items do
  local digest = digests[i]
  if max_staleness >= 0 and versions[i] + max_staleness < state.version then
    stale = stale + 1
    unwanted[#unwanted + 1] = i
  elseif stored_slots[i] then
    repeats[#repeats + 1] = i
  elseif seen[digest] then
    repeats_of_new[#repeats_of_new + 1] = i
  else
    seen[digest] = true
    new[#new + 1] = i
  end
end

local arrived_slots, arrived_generations = {}, {} -- by position in the batch
local arrived = 0
local function next_arrival() -- numbers go up along the chain
  arrived = arrived + 1
  return (state.arrivals + arrived) % END
end

local function append_to_chain(slot)
  if state.newest == NONE then
    state.oldest = slot
  else
    set_field(state.newest, NEWER, slot)
  end
  state.newest = slot
end

-- 2. A repeated item gets the newer record and becomes the youngest; it keeps its weight.
local function refresh(i, slot)
  local item = item_at(slot)
  call('SETRANGE', ITEMS, slot * ITEM + 24, sub(heads, (i - 1) * HEAD + 25, (i - 1) * HEAD + 34))
  local level = u16(item, 34)
  local _, base = level_state(level)
  local offset = (u32(item, LEVEL_AT) - base) % END * LEVEL_ENTRY
  call('SETRANGE', key('level:' .. level), offset + 8, pack('<I4', versions[i]))
  call('SETRANGE', ITEMS, slot * ITEM + ARRIVED_AT, pack('<I4I4', now_s, next_arrival()))
  state.arrived_sum = state.arrived_sum + now_s - u32(item, ARRIVED_AT)
  local old_bin, new_bin = decode('<i2', item, 33), new_bins[i]
  bins[old_bin] = (bins[old_bin] or 0) - 1
  bins[new_bin] = (bins[new_bin] or 0) + 1
  if ranked_by == 'reward' then
    call('ZADD', key('rank'), rewards[i], slot)
  end
  if state.newest ~= slot then
    unlink(slot)
    call('SETRANGE', ITEMS, slot * ITEM + OLDER, pack('<I4I4', state.newest, NONE))
    append_to_chain(slot)
  end
  arrived_slots[i], arrived_generations[i] = slot, u32(item, GENERATION)
  duplicates = duplicates + 1
end
for _, i in ipairs(repeats) do
  refresh(i, u32(stored_slots[i], 0))
end

-- 3. Make room: in prompts that exceed their quota, then in the whole buffer.
local free_slots, free_generations, evicted_slots = {}, {}, {}

local function evict(slot, bytes, offset)
  local newer, generation = take_out(slot, bytes, offset)
  evicted = evicted + 1
  free_slots[evicted], free_generations[evicted], evicted_slots[slot] = slot, generation, true
  return newer
end

-- Smaller leaves earlier. Ties go by slot, so that a repeated run does the same.
local function eviction_rank(item)
  if evict_rule == 'lowest_priority' then
    return u16(item, 34)
  elseif evict_rule == 'most_sampled' then
    return -u32(item, DRAWS)
  end
  return -((state.arrivals + arrived - u32(item, ARRIVAL)) % END)
end

local function make_room_in_group(array, length, excess)
  local members, items = {}, {}
  for place = 1, length do
    local slot = u32(array, place * 4 - 4)
    items[slot] = item_at(slot)
    members[place] = { eviction_rank(items[slot]), slot }
  end
  table.sort(members, function(a, b)
    return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
  end)
  for i = 1, excess do
    local slot = members[i][2]
    unlink(slot)
    evict(slot, items[slot], 0)
  end
end

if quota > 0 then
  local newcomers, within_quota = {}, {}
  for _, i in ipairs(new) do
    append(newcomers, groups[i], i)
  end
  for group, indexes in pairs(newcomers) do
    for j = math.max(#indexes - quota, 0) + 1, #indexes do
      within_quota[indexes[j]] = true
    end
    over_quota = over_quota + math.max(#indexes - quota, 0)
    local length, first = group_state(group)
    local excess = length + math.min(#indexes, quota) - quota
    if excess > 0 then
      make_room_in_group(members_of(group, length, first), length, excess)
    end
  end
  local admitted = {}
  for _, i in ipairs(new) do
    if within_quota[i] then
      admitted[#admitted + 1] = i
    else
      unwanted[#unwanted + 1] = i
    end
  end
  new = admitted
end

-- The oldest, in order of age. Slots filled by one call are adjacent, so items are read in blocks.
local function evict_oldest(wanted)
  local BLOCK, blocks, slot = 32, {}, state.oldest
  for _ = 1, wanted do
    local number_of_block = math.floor(slot / BLOCK)
    local block = blocks[number_of_block]
    if not block then
      block = call('GETRANGE', ITEMS, number_of_block * BLOCK * ITEM, (number_of_block + 1) * BLOCK * ITEM - 1)
      blocks[number_of_block] = block
    end
    slot = evict(slot, block, (slot - number_of_block * BLOCK) * ITEM)
  end
  state.oldest = slot
  if slot == NONE then
    state.newest = NONE
  else
    set_field(slot, OLDER, NONE)
  end
end

local function evict_lowest(wanted)
  local in_use = count_levels()
  for i = #in_use, 1, -1 do
    local level = in_use[i]
    local length, base, head = level_state(level)
    local first = (head - base) % END * LEVEL_ENTRY
    local read = math.min(length, #gone_slots + wanted) * LEVEL_ENTRY
    local array = call('GETRANGE', key('level:' .. level), first, first + read - 1)
    for start = 0, #array - LEVEL_ENTRY, LEVEL_ENTRY do
      local slot = u32(array, start)
      if wanted == 0 then
        return
      elseif not evicted_slots[slot] then -- else it has left for its prompt's quota
        unlink(slot)
        evict(slot, item_at(slot), 0)
        wanted = wanted - 1
      end
    end
  end
end

local function evict_most_sampled(wanted)
  for _, slot in ipairs(call('ZREVRANGE', key('rank'), 0, #gone_slots + wanted - 1)) do
    slot = tonumber(slot)
    if wanted > 0 and not evicted_slots[slot] then
      unlink(slot)
      evict(slot, item_at(slot), 0)
      wanted = wanted - 1
    end
  end
end

local too_many = state.size - evicted + #new - capacity
if too_many > 0 then
  local evict_by = { oldest = evict_oldest, lowest_priority = evict_lowest, most_sampled = evict_most_sampled }
  evict_by[evict_rule](too_many)
end
finish_removal(ranked)

-- 4. The new items. No learner has seen them yet, so they enter at the highest level in use.
local entry_level = 0
local function highest_level()
  return count_levels()[1] or 256
end
local slots, generations = {}, {}
for j = 1, #new do
  local i, slot, generation = new[j], free_slots[j], free_generations[j]
  if not slot and state.free ~= NONE then
    slot = state.free
    local item = item_at(slot)
    state.free, generation = u32(item, NEWER), u32(item, GENERATION)
  elseif not slot then
    slot, generation = state.used, 0
    state.used = slot + 1
  end
  if levels[i] == 0 then
    entry_level = entry_level > 0 and entry_level or highest_level()
    levels[i] = entry_level
  end
  generation = generation + 1
  slots[j], generations[j] = slot, generation
  append(level_adds, levels[i], j)
  append(group_adds, groups[i], j)
  new_level_entries[j] = level_entry(slot, generation, versions[i], levels[i], digests[i])
  new_group_entries[j] = pack('<I4', slot)
  arrived_slots[i], arrived_generations[i] = slot, generation
  local bin = new_bins[i]
  bins[bin] = (bins[bin] or 0) + 1
end
local unused = {}
for j = #new + 1, #free_slots do
  unused[#unused + 1] = free_slots[j]
end
release(unused)
local level_places, group_places = settle()

local function store_slots()
  local places, ranks = {}, {}
  for j = 1, #new do
    local i = new[j]
    places[2 * j - 1], places[2 * j] = digests[i], new_group_entries[j] -- the slot's four bytes
    if ranked then
      ranks[2 * j - 1], ranks[2 * j] = ranked_by == 'reward' and rewards[i] or 0, slots[j]
    end
  end
  call('HSET', SLOTS, unpack(places))
  if ranked then
    call('ZADD', key('rank'), unpack(ranks))
  end
end

local function store_items()
  local run, run_start, older = {}, slots[1], state.newest
  append_to_chain(slots[1])
  for j = 1, #new do
    local i, slot = new[j], slots[j]
    if slot ~= run_start + #run then
      call('SETRANGE', ITEMS, run_start * ITEM, concat(run))
      run, run_start = {}, slot
    end
    run[#run + 1] = pack(
      '<c16c8I4fi2I2I4I4I4I4I4I4I4I4', digests[i], groups[i], versions[i], rewards[i], new_bins[i], levels[i],
      level_places[j], group_places[j], older, slots[j + 1] or NONE, generations[j], 0, now_s, next_arrival()
    )
    older = slot
  end
  call('SETRANGE', ITEMS, run_start * ITEM, concat(run))
  state.newest = older
end

if #new > 0 then
  store_slots()
  store_items()
end
state.size = state.size + #new
state.arrived_sum = state.arrived_sum + #new * now_s
for _, i in ipairs(repeats_of_new) do
  local slot = call('HGET', SLOTS, digests[i])
  if slot then
    refresh(i, u32(slot, 0))
  else
    over_quota = over_quota + 1 -- the string it repeats was refused too
  end
end
for _, i in ipairs(unwanted) do
  if not stored_slots[i] and call('HEXISTS', SLOTS, digests[i]) == 0 then
    call('HDEL', PAYLOAD, digests[i])
  end
end

-- 5. Each arrival is fresh once, repeats included; those of the newest version can be drawn separately. Both are ranges
-- of one ring, at whose end arrivals are written.
local tag_numbers = {} -- tag of this call -> number of its name in this buffer
local function number_tags()
  local names = cmsgpack.unpack(call('HGET', COUNTERS, 'tags') or cmsgpack.pack({}))
  local n_stored = #names
  for tag = 0, #ARGV - FIRST_TAG do
    for place, name in ipairs(names) do
      if name == ARGV[FIRST_TAG + tag] then
        tag_numbers[tag] = place
      end
    end
    if not tag_numbers[tag] then
      names[#names + 1] = ARGV[FIRST_TAG + tag]
      tag_numbers[tag] = #names
    end
  end
  if #names > n_stored then
    call('HSET', COUNTERS, 'tags', cmsgpack.pack(names))
  end
end
number_tags()
local ring, written = {}, 0
for i = 1, n_items do
  local slot, version = arrived_slots[i], versions[i]
  if slot then
    if version > state.latest_version and version ~= NONE then
      state.latest_version, state.latest = version, state.arrivals + #ring
    end
    ring[#ring + 1] = pack('<I4I4I4I4', slot, arrived_generations[i], version, tag_numbers[tags[i]])
  end
end
while written < #ring do -- in runs that end at the ring's end
  local place = (state.arrivals + written) % ring_length
  local run = math.min(#ring - written, ring_length - place)
  call('SETRANGE', key('arrivals'), place * 16, concat(ring, '', written + 1, written + run))
  written = written + run
end
state.arrivals = state.arrivals + #ring
state.fresh = math.max(state.fresh, state.arrivals - ring_length)

count('inserted', #new)
count('duplicates', duplicates)
count('evicted', evicted)
count('refused:stale', stale)
count('refused:quota', over_quota)
state.declined = state.declined + stale + over_quota
save_bins()
save_counters()
call('HSET', COUNTERS, 'last_add_s', now_s)
event('add', 'added', #new, 'duplicates', duplicates, 'evicted', evicted, 'refused', stale + over_quota)
return remember_reply(nonce, cmsgpack.pack({ 'ok', epoch, #new, duplicates, evicted, stale, over_quota }))
