-- draw(n): rows for a learner. Atomic.
-- KEYS  payload, this client's reply
-- ARGV  nonce, epoch or '', settings, seed,
--       rows wanted, max fresh rows among them, max rows of the newest version among them,
--       sampler of the others (weighted, uniform, oldest, newest, highest_reward), 1 with replacement or 0,
--       rows per group (1: rows are independent),
--       max draws of an item or 0, max staleness or -1, rank by (none, reward, draws),
--       samples per insert or 0, how far draws may be ahead (in samples), arrivals needed before the first draw,
--       length of the ring of arrivals, newest arrivals that may be fresh (at most that length), of these needed
-- returns msgpack {'ok', epoch, rows, number of fresh rows (they come first), number of rows of the newest version
--       (they come next), versions of the fresh rows' arrivals, their tags, evicted records}, or
--       {'wait'}, or why this client may not go on. A row is the item's entry in its level, 30 bytes.
--       The evicted records are digest and record, in turn, of each item that leaves the buffer with this draw.
-- cost  O(1) per row, plus O(levels) per call
--
-- Why it is exact: a level is chosen in proportion to weight x number of its items, then an item of it uniformly. An
-- item that may not be drawn (too stale, or drawn already without replacement) is out. One that went out after the
-- levels were tabulated is rejected when it comes up, and the draw starts again with a level; one that was out before
-- does not count in its level, and another of the level is taken. Once half of the mass is out, levels are tabulated
-- again; once half of a level is out, its remaining items are listed.
local nonce, expected_epoch, expected_settings, seed = unpack(ARGV, 1, 4)
local wanted, fresh_wanted, newest_wanted = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local sampler, replace, rows_per_group = ARGV[8], ARGV[9] == '1', tonumber(ARGV[10])
local max_draws, max_staleness, ranked_by = tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
local samples_per_insert, max_ahead, needed = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local ring_length = tonumber(ARGV[17]) -- of the settings, as in `add`: a resumed buffer's ring may still be shorter
local fresh_window, fresh_needed = tonumber(ARGV[18]), tonumber(ARGV[19])
fresh_wanted = math.min(fresh_wanted, wanted)
local MAX_STALE = 4096 -- stale items that one call removes; the others leave with the next call
local TRIES = 16

local reply = earlier_reply(nonce)
if reply then
  return reply
end
local refused = refusal(expected_epoch, expected_settings)
if refused then
  return refused
end
if math.min(state.arrivals - state.fresh, fresh_window) < fresh_needed then
  return cmsgpack.pack({ 'wait' })
end
if state.arrivals < needed or (samples_per_insert > 0 and -draws_owed(samples_per_insert) > max_ahead) then
  return cmsgpack.pack({ 'wait' })
end
write_at_maxmemory()

-- Nothing can be drawn: the draws that inserts wait for were of items that have left, or may not be drawn. Both sides
-- would wait for ever, so these draws are waived, down to the middle of the band.
local function waive_draws()
  local excess = math.ceil(draws_owed(samples_per_insert) - samples_per_insert * needed)
  if samples_per_insert > 0 and excess > 0 then
    state.waived = state.waived + excess
  end
end
if state.size == 0 then
  waive_draws()
  save_counters()
  return cmsgpack.pack({ 'wait' })
end
load_levels()
local levels_in_use, level_counts = count_levels()
math.randomseed(tonumber(seed))
local random, floor = math.random, math.floor

local out, out_level = {}, {} -- slot -> number of the table in force when it went out; level -> number of items out
local stale, is_known_stale, exhausted, is_exhausted = {}, {}, {}, {} -- slots, and slot -> true
local picks = {} -- slot -> times in this call
local must_track = not replace or max_draws > 0 or ranked_by == 'draws' or max_staleness >= 0

-- The table of levels: cumulated mass of those that have items that are not out.
local table_number, table_levels, cumulated, weights, mass, out_mass, listed_entries = 0, {}, {}, {}, 0, 0, {}
for i = 1, #levels_in_use do
  local level = levels_in_use[i]
  local length = level_counts[level + 1]
  local weight = sampler == 'uniform' and 1 or 2 ^ ((level - 256) / 8) -- as in priority_levels.py
  mass = mass + weight * length
  weights[level], table_levels[i], cumulated[i] = weight, level, mass
end
local function tabulate()
  table_number, table_levels, cumulated, mass, out_mass = table_number + 1, {}, {}, 0, 0
  for _, level in ipairs(levels_in_use) do
    local n_items = level_counts[level + 1] - (out_level[level] or 0)
    if n_items > 0 then
      table_levels[#table_levels + 1] = level
      mass = mass + weights[level] * n_items
      cumulated[#table_levels] = mass
    end
  end
end

local function set_out(slot, level)
  out[slot], out_level[level] = table_number, (out_level[level] or 0) + 1
  out_mass = out_mass + weights[level]
end

local stale_versions = {} -- version as bytes -> whether it is too old
local function is_stale(slot, entry)
  local bytes = sub(entry, 9, 12)
  local too_old = stale_versions[bytes]
  if too_old == nil then
    too_old = max_staleness >= 0 and u32(bytes, 0) + max_staleness < state.version
    stale_versions[bytes] = too_old
  end
  if too_old then
    stale[#stale + 1], is_known_stale[slot] = slot, true
    set_out(slot, u16(entry, 12))
  end
  return too_old
end

local rows, n_rows = {}, 0
local fresh_versions, tags, evicted_records = {}, {}, {}

-- Add one row. Where draws are limited, count it; with its last draw an item leaves.
local function give(slot, entry)
  n_rows = n_rows + 1
  rows[n_rows] = entry
  if not must_track then
    return
  end
  local times = (picks[slot] or 0) + 1
  picks[slot] = times
  local last = max_draws > 0 and u32(item_at(slot), DRAWS) + times >= max_draws
  if last and not is_exhausted[slot] then
    exhausted[#exhausted + 1], is_exhausted[slot] = slot, true
    evicted_records[#evicted_records + 1] = sub(entry, 15, 30)
    evicted_records[#evicted_records + 1] = call('HGET', PAYLOAD, sub(entry, 15, 30)) or ''
  end
  if not out[slot] and (last or not replace) then
    set_out(slot, u16(entry, 12))
  end
end

local function entry_of(slot, item)
  return level_entry(slot, u32(item, GENERATION), u32(item, 24), u16(item, 34), sub(item, 1, 16))
end

-- The entry of the item that an arrival brought, if it is still in the buffer and may be drawn.
local function live_entry(slot, generation)
  if is_exhausted[slot] or is_known_stale[slot] then
    return nil
  end
  local item = item_at(slot)
  if u16(item, 34) == 0 or u32(item, GENERATION) ~= generation then
    return nil
  end
  local entry = entry_of(slot, item)
  return not is_stale(slot, entry) and entry or nil
end

-- Fresh rows: of the newest arrivals those waiting longest, whatever their weight; without replacement. Arrivals before
-- them are passed over: they are only replayed.
local function draw_fresh()
  if fresh_wanted > 0 then
    state.fresh = math.max(state.fresh, state.arrivals - fresh_window)
  end
  while n_rows < fresh_wanted and state.fresh < state.arrivals do
    local place = state.fresh % ring_length
    local run = math.min(fresh_wanted - n_rows, state.arrivals - state.fresh, ring_length - place)
    local arrivals = call('GETRANGE', key('arrivals'), place * 16, (place + run) * 16 - 1)
    state.fresh = state.fresh + run
    for start = 1, run * 16, 16 do
      local slot, generation, _, tag = decode('<I4I4I4I4', arrivals, start)
      local entry = live_entry(slot, generation)
      if entry then
        give(slot, entry)
        tags[n_rows], fresh_versions[n_rows] = tag, sub(arrivals, start + 8, start + 11)
      end
    end
  end
end

-- Arrivals of the newest version that are still in the buffer, uniformly.
local function draw_newest()
  local first, tries = math.max(state.latest, state.arrivals - ring_length), 0
  while first < state.arrivals and newest_wanted > 0 and tries < TRIES do
    local place = random(first, state.arrivals - 1) % ring_length
    local arrival = call('GETRANGE', key('arrivals'), place * 16, place * 16 + 15)
    local slot, generation, version = decode('<I4I4I4', arrival)
    local entry = version == state.latest_version and not out[slot] and live_entry(slot, generation)
    tries = tries + 1
    if entry then
      give(slot, entry)
      newest_wanted, tries = newest_wanted - 1, 0
    end
  end
end

-- The key of a level's array and the offset of its first entry.
local arrays, firsts = {}, {}
local function locate(level)
  local _, base, head = level_state(level)
  arrays[level], firsts[level] = key('level:' .. level), (head - base) % END * LEVEL_ENTRY
end

-- The entries of a level that were not out when the levels were tabulated.
local function list_entries(level)
  local first = firsts[level]
  local all = call('GETRANGE', arrays[level], first, first + level_counts[level + 1] * LEVEL_ENTRY - 1)
  local entries = {}
  for start = 1, #all, LEVEL_ENTRY do
    local since = out[u32(all, start - 1)]
    if not since or since == table_number then
      entries[#entries + 1] = sub(all, start, start + LEVEL_ENTRY - 1)
    end
  end
  return entries
end

-- One of a level's entries, uniformly; never one that was out when the levels were tabulated.
local function entry_from(level)
  if not arrays[level] then
    locate(level)
  end
  local n_out, length = out_level[level] or 0, level_counts[level + 1]
  if 2 * n_out > length and not listed_entries[level] then
    listed_entries[level] = list_entries(level)
  end
  local listed = listed_entries[level]
  while true do
    local entry, n
    if listed then
      n = random(#listed)
      entry = listed[n]
    else
      local offset = firsts[level] + random(0, length - 1) * LEVEL_ENTRY
      entry = call('GETRANGE', arrays[level], offset, offset + LEVEL_ENTRY - 1)
    end
    local since = n_out > 0 and out[u32(entry, 0)]
    if not since or since == table_number then
      return entry
    elseif listed then
      listed[n] = listed[#listed]
      listed[#listed] = nil
    end
  end
end

-- Slot and entry of an item that is not out, by weight or uniformly; nil when there is none.
local function pick()
  while #stale < MAX_STALE do
    if 2 * out_mass > mass then
      tabulate()
    end
    if #table_levels == 0 then
      return nil
    end
    local point, low, high = random() * mass, 1, #table_levels
    while low < high do
      local middle = floor((low + high) / 2)
      if cumulated[middle] > point then
        high = middle
      else
        low = middle + 1
      end
    end
    local entry = entry_from(table_levels[low])
    local slot = u32(entry, 0)
    if not out[slot] and not is_stale(slot, entry) then
      return slot, entry
    end
  end
end

-- The same where nothing is ever out, as in most draws: items need not be distinguished. A guide table gives the level
-- at which to start searching (Chen and Asau 1974), so that most draws look at one or two levels.
local function draw_untracked()
  local GUIDES, guide, at = 64, {}, 1
  for k = 1, GUIDES do
    while cumulated[at] <= (k - 1) / GUIDES * mass and at < #table_levels do
      at = at + 1
    end
    guide[k] = at
  end
  local array_of, first_of, length_of = {}, {}, {} -- of the levels drawn so far
  local last = #table_levels
  for n = n_rows + 1, wanted do
    local share = random()
    local point, i = share * mass, guide[floor(share * GUIDES) + 1]
    while cumulated[i] <= point and i < last do
      i = i + 1
    end
    local array = array_of[i]
    if not array then
      local level = table_levels[i]
      locate(level)
      array = arrays[level]
      array_of[i], first_of[i], length_of[i] = array, firsts[level], level_counts[level + 1]
    end
    local offset = first_of[i] + random(0, length_of[i] - 1) * LEVEL_ENTRY
    rows[n] = call('GETRANGE', array, offset, offset + LEVEL_ENTRY - 1)
  end
  n_rows = math.max(n_rows, wanted)
end

local function draw_any()
  while n_rows < wanted do
    local slot, entry = pick()
    if not entry then
      return
    end
    give(slot, entry)
  end
end

-- From an end of the chain: the first ones that may be drawn.
local function draw_by_age()
  local slot = sampler == 'oldest' and state.oldest or state.newest
  while n_rows < wanted and slot ~= NONE and #stale < MAX_STALE do
    local item = item_at(slot)
    local entry = entry_of(slot, item)
    if not out[slot] and not is_stale(slot, entry) then
      give(slot, entry)
    end
    slot = u32(item, sampler == 'oldest' and NEWER or OLDER)
  end
end

-- From the top of the ranking: the first ones that may be drawn.
local function draw_by_reward()
  local from = 0
  while n_rows < wanted and #stale < MAX_STALE do
    local ranked_slots = call('ZREVRANGE', key('rank'), from, from + wanted - 1)
    if #ranked_slots == 0 then
      return
    end
    for _, ranked_slot in ipairs(ranked_slots) do
      local slot = tonumber(ranked_slot)
      local entry = n_rows < wanted and entry_of(slot, item_at(slot))
      if entry and not out[slot] and not is_stale(slot, entry) then
        give(slot, entry)
      end
    end
    from = from + #ranked_slots
  end
end

-- Groups by the weight of their items, and of each `rows_per_group` different items, uniformly.
local function draw_groups()
  local drawn, tries = {}, 0
  while n_rows + rows_per_group <= wanted and tries < TRIES * wanted do
    tries = tries + 1
    local _, leader = pick()
    if not leader then
      return
    end
    local group = sub(item_at(u32(leader, 0)), 17, 24)
    local n_left, first = group_state(group)
    if n_left >= rows_per_group and (replace or not drawn[group]) then
      drawn[group] = true
      local array, swapped, members = members_of(group, n_left, first), {}, {}
      while #members < rows_per_group and n_left > 0 do
        -- A Fisher-Yates shuffle, as far as it is needed.
        local n = random(0, n_left - 1)
        local other = swapped[n] or n
        swapped[n] = swapped[n_left - 1] or (n_left - 1)
        n_left = n_left - 1
        local member = u32(array, other * 4)
        local entry = not out[member] and entry_of(member, item_at(member))
        if entry and not is_stale(member, entry) then
          members[#members + 1] = { member, entry }
        end
      end
      for i = 1, #members == rows_per_group and rows_per_group or 0 do
        give(members[i][1], members[i][2])
      end
    end
  end
end

draw_fresh()
local n_fresh = n_rows
if fresh_needed > 0 then
  wanted = n_rows -- no other row stands in for an arrival that can't be drawn
end
newest_wanted = math.min(newest_wanted, wanted - n_rows)
draw_newest()
local n_newest = n_rows - n_fresh
if sampler == 'oldest' or sampler == 'newest' then
  draw_by_age()
elseif sampler == 'highest_reward' then
  draw_by_reward()
elseif rows_per_group > 1 then
  draw_groups()
elseif not must_track then
  draw_untracked()
else
  draw_any()
end

-- Store what the draws change.
if max_draws > 0 or ranked_by == 'draws' then
  for slot, times in pairs(picks) do
    if not is_exhausted[slot] then
      set_field(slot, DRAWS, u32(item_at(slot), DRAWS) + times)
      if ranked_by == 'draws' then
        call('ZINCRBY', key('rank'), times, slot)
      end
    end
  end
end
for _, slots in ipairs({ stale, exhausted }) do
  for _, slot in ipairs(slots) do
    take_out(slot, item_at(slot), 0)
    unlink(slot)
  end
  finish_removal(ranked_by ~= 'none')
  release(slots)
end
settle()
save_bins()

local packed_rows = concat(rows)
local versions_drawn, buckets = {}, {} -- version -> number of rows
local function count_version(version)
  versions_drawn[version] = (versions_drawn[version] or 0) + 1
end
for i = 1, n_fresh do
  count_version(u32(fresh_versions[i], 0))
end
for from = n_fresh, n_rows - 1, 64 do -- 64 rows per call: one string per row would cost more
  local n_block = math.min(n_rows - from, 64)
  local fields = { decode('<' .. string.rep('I8I4I8I8I2', n_block), packed_rows, from * LEVEL_ENTRY + 1) }
  for i = 2, 5 * n_block, 5 do
    count_version(fields[i])
  end
end
for version, number in pairs(versions_drawn) do
  local age, bucket = math.max(state.version - version, 0), 0
  while age > 0 do
    age, bucket = floor(age / 2), bucket + 1
  end
  buckets[bucket] = (buckets[bucket] or 0) + number
end
for bucket, number in pairs(buckets) do
  call('HINCRBY', key('staleness'), bucket, number)
end
state.drawn = state.drawn + n_rows
if n_rows == 0 and #stale < MAX_STALE then -- else fresher items may stand behind the stale ones
  waive_draws()
end
count('expired', #stale)
count('max_draws_reached', #exhausted)
save_counters()
event('draw', 'rows', n_rows, 'fresh', n_fresh, 'expired', #stale, 'max_draws_reached', #exhausted)

local names_of_tags = n_fresh > 0 and cmsgpack.unpack(call('HGET', COUNTERS, 'tags')) or {}
for i, tag in ipairs(tags) do
  tags[i] = names_of_tags[tag]
end
local rows_reply = cmsgpack.pack({
  'ok', epoch, packed_rows, n_fresh, n_newest, concat(fresh_versions), tags, evicted_records,
})
if n_fresh > 0 or #exhausted > 0 then
  return remember_reply(nonce, rows_reply)
end
return rows_reply
