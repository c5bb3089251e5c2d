-- draw(n): rows for a learner. Atomic.
-- KEYS  payload, this client's answer
-- ARGV  nonce, epoch or '', settings, seed,
--       rows wanted, of these: fresh ones at most, ones of the newest version at most,
--       how the others are drawn (weighted, uniform, oldest, newest, highest_reward), 1 with replacement or 0,
--       rows that come from one prompt together (1: any),
--       largest number of draws of an item or 0, largest staleness or -1, rank by (none, reward, draws),
--       samples per insert or 0, most that draws may be ahead (in samples), arrivals needed before the first draw
-- returns msgpack {'ok', epoch, rows, number of fresh rows (they come first), number of those of the newest version
--       (they come next), versions of the fresh rows' arrivals, tags of these, digests and records}, or
--       {'wait'}, or why this client may not go on. A row is the item's entry in its level, 30 bytes.
--       Digests and records come along of items that have left the buffer with their last draw.
-- cost  O(1) per row, plus O(levels) per call
--
-- Why it is exact: a level is chosen in proportion to weight x number of its items, an item of it uniformly. An item
-- that may not be drawn (too stale, or drawn already and not to be put back) is out. One that went out since the levels
-- were tabulated is refused when it comes up, and the draw made anew, level and all; one that was out by then does not
-- count in its level, and another of the level is taken. Once half of the mass is out, levels are tabulated anew; once
-- half of a level is out, its others are listed.
local nonce, expected_epoch, expected_settings, seed = unpack(ARGV, 1, 4)
local wanted, fresh_wanted, newest_wanted = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local way, replace, together = ARGV[8], ARGV[9] == '1', tonumber(ARGV[10])
local max_draws, max_staleness, ranked_by = tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
local samples_per_insert, most_ahead, needed = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
fresh_wanted = math.min(fresh_wanted, wanted)
local MOST_STALE = 4096 -- items a call takes out for their age; those that remain go with the next
local TRIES = 16

local before = answered_before(nonce)
if before then
  return before
end
local refused = refusal(expected_epoch, expected_settings)
if refused then
  return refused
end
if
  state.size == 0
  or state.arrivals < needed
  or (samples_per_insert > 0 and state.drawn - samples_per_insert * state.arrivals > most_ahead)
then
  return cmsgpack.pack({ 'wait' })
end
write_at_maxmemory()
load_levels()
local levels_in_use, level_counts = count_levels()
math.randomseed(tonumber(seed))
local random, floor = math.random, math.floor

local out, out_level = {}, {} -- slot -> number of the table of levels in force when it went out; number of a level's
local stale, stale_found, spent, spent_found = {}, {}, {}, {} -- slots, and slot -> true
local picks = {} -- slot -> times in this call
local must_track = not replace or max_draws > 0 or ranked_by == 'draws' or max_staleness >= 0

-- The table of levels: cumulated mass of those that have items not out.
local tables, names, cumulated, weights, mass, out_mass, rest = 0, {}, {}, {}, 0, 0, {}
for i = 1, #levels_in_use do
  local level = levels_in_use[i]
  local length, weight = level_counts[level + 1], 2 ^ ((level - 256) / 8) -- as levels.py has it
  weight = way == 'uniform' and 1 or weight
  mass = mass + weight * length
  weights[level], names[i], cumulated[i] = weight, level, mass
end
local function tabulate()
  tables, names, cumulated, mass, out_mass = tables + 1, {}, {}, 0, 0
  for _, level in ipairs(levels_in_use) do
    local left = level_counts[level + 1] - (out_level[level] or 0)
    if left > 0 then
      names[#names + 1] = level
      mass = mass + weights[level] * left
      cumulated[#names] = mass
    end
  end
end

local function set_out(slot, level)
  out[slot], out_level[level] = tables, (out_level[level] or 0) + 1
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
    stale[#stale + 1], stale_found[slot] = slot, true
    set_out(slot, u16(entry, 12))
  end
  return too_old
end

local rows, n_rows = {}, 0
local fresh_versions, tags, records = {}, {}, {}

-- One row. Where draws are limited, count it; with its last draw an item leaves.
local function give(slot, entry)
  n_rows = n_rows + 1
  rows[n_rows] = entry
  if not must_track then
    return
  end
  local times = (picks[slot] or 0) + 1
  picks[slot] = times
  local last = max_draws > 0 and u32(item_at(slot), DRAWS) + times >= max_draws
  if last and not spent_found[slot] then
    spent[#spent + 1], spent_found[slot] = slot, true
    records[#records + 1] = sub(entry, 15, 30)
    records[#records + 1] = call('HGET', PAYLOAD, sub(entry, 15, 30)) or ''
  end
  if not out[slot] and (last or not replace) then
    set_out(slot, u16(entry, 12))
  end
end

local function entry_of(slot, item)
  return level_entry(slot, u32(item, GENERATION), u32(item, 24), u16(item, 34), sub(item, 1, 16))
end

-- The entry of the item that an arrival brought, if it is still there and may be drawn.
local function living(slot, generation)
  if spent_found[slot] or stale_found[slot] then
    return nil
  end
  local item = item_at(slot)
  if u16(item, 34) == 0 or u32(item, GENERATION) ~= generation then
    return nil
  end
  local entry = entry_of(slot, item)
  return not is_stale(slot, entry) and entry or nil
end

-- Fresh ones: the arrivals waiting longest, whatever their weight; not put back.
local ring_length = call('STRLEN', key('arrivals')) / 16
local function draw_fresh()
  while n_rows < fresh_wanted and state.fresh < state.arrivals do
    local place = state.fresh % ring_length
    local run = math.min(fresh_wanted - n_rows, state.arrivals - state.fresh, ring_length - place)
    local waiting = call('GETRANGE', key('arrivals'), place * 16, (place + run) * 16 - 1)
    state.fresh = state.fresh + run
    for start = 1, run * 16, 16 do
      local slot, generation, _, tag = decode('<I4I4I4I4', waiting, start)
      local entry = living(slot, generation)
      if entry then
        give(slot, entry)
        tags[n_rows], fresh_versions[n_rows] = tag, sub(waiting, start + 8, start + 11)
      end
    end
  end
end

-- Arrivals of the newest version that are still there, all alike.
local function draw_newest()
  local first, tries = math.max(state.latest, state.arrivals - ring_length), 0
  while first < state.arrivals and newest_wanted > 0 and tries < TRIES do
    local place = random(first, state.arrivals - 1) % ring_length
    local arrival = call('GETRANGE', key('arrivals'), place * 16, place * 16 + 15)
    local slot, generation, version = decode('<I4I4I4', arrival)
    local entry = version == state.latest_version and not out[slot] and living(slot, generation)
    tries = tries + 1
    if entry then
      give(slot, entry)
      newest_wanted, tries = newest_wanted - 1, 0
    end
  end
end

-- Where a level's array is and where in it the first entry.
local arrays, firsts = {}, {}
local function locate(level)
  local _, base, head = level_state(level)
  arrays[level], firsts[level] = key('level:' .. level), (head - base) % END * LEVEL_ENTRY
end

-- The entries of a level that were not out when the levels were tabulated.
local function list(level)
  local first = firsts[level]
  local all = call('GETRANGE', arrays[level], first, first + level_counts[level + 1] * LEVEL_ENTRY - 1)
  local entries = {}
  for start = 1, #all, LEVEL_ENTRY do
    local since = out[u32(all, start - 1)]
    if not since or since == tables then
      entries[#entries + 1] = sub(all, start, start + LEVEL_ENTRY - 1)
    end
  end
  return entries
end

-- One of a level's entries, all alike; one that was out when the levels were tabulated never.
local function entry_from(level)
  if not arrays[level] then
    locate(level)
  end
  local out_of_it, length = out_level[level] or 0, level_counts[level + 1]
  if 2 * out_of_it > length and not rest[level] then
    rest[level] = list(level)
  end
  local left = rest[level]
  while true do
    local entry, n
    if left then
      n = random(#left)
      entry = left[n]
    else
      local offset = firsts[level] + random(0, length - 1) * LEVEL_ENTRY
      entry = call('GETRANGE', arrays[level], offset, offset + LEVEL_ENTRY - 1)
    end
    local since = out_of_it > 0 and out[u32(entry, 0)]
    if not since or since == tables then
      return entry
    elseif left then
      left[n] = left[#left]
      left[#left] = nil
    end
  end
end

-- Slot and entry of an item by weight (or all alike) that is not out; nil when none is left.
local function pick()
  while #stale < MOST_STALE do
    if 2 * out_mass > mass then
      tabulate()
    end
    if #names == 0 then
      return nil
    end
    local point, low, high = random() * mass, 1, #names
    while low < high do
      local middle = floor((low + high) / 2)
      if cumulated[middle] > point then
        high = middle
      else
        low = middle + 1
      end
    end
    local entry = entry_from(names[low])
    local slot = u32(entry, 0)
    if not out[slot] and not is_stale(slot, entry) then
      return slot, entry
    end
  end
end

-- The same where nothing is ever out, which is most draws: no item needs to be told from another. A guide says where
-- in the table of levels to begin (Chen and Asau 1974), so that most draws look at one level or two.
local function draw_untracked()
  local GUIDES, guide, at = 64, {}, 1
  for k = 1, GUIDES do
    while cumulated[at] <= (k - 1) / GUIDES * mass and at < #names do
      at = at + 1
    end
    guide[k] = at
  end
  local array_of, first_of, length_of = {}, {}, {} -- of the levels that come up
  local last = #names
  for n = n_rows + 1, wanted do
    local share = random()
    local point, i = share * mass, guide[floor(share * GUIDES) + 1]
    while cumulated[i] <= point and i < last do
      i = i + 1
    end
    local array = array_of[i]
    if not array then
      local level = names[i]
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
  local slot = way == 'oldest' and state.oldest or state.newest
  while n_rows < wanted and slot ~= NONE and #stale < MOST_STALE do
    local item = item_at(slot)
    local entry = entry_of(slot, item)
    if not out[slot] and not is_stale(slot, entry) then
      give(slot, entry)
    end
    slot = u32(item, way == 'oldest' and NEWER or OLDER)
  end
end

-- Likewise from the top of the ranking.
local function draw_by_reward()
  local from, found = 0, nil
  while n_rows < wanted and #stale < MOST_STALE do
    found = call('ZREVRANGE', key('rank'), from, from + wanted - 1)
    if #found == 0 then
      return
    end
    for _, ranked in ipairs(found) do
      local slot = tonumber(ranked)
      local entry = n_rows < wanted and entry_of(slot, item_at(slot))
      if entry and not out[slot] and not is_stale(slot, entry) then
        give(slot, entry)
      end
    end
    from = from + #found
  end
end

-- Prompts by the weight of their items, and of each `together` different items, all alike within it.
local function draw_groups()
  local drawn, tries = {}, 0
  while n_rows + together <= wanted and tries < TRIES * wanted do
    tries = tries + 1
    local _, leader = pick()
    if not leader then
      return
    end
    local group = sub(item_at(u32(leader, 0)), 17, 24)
    local left, first = group_state(group)
    if left >= together and (replace or not drawn[group]) then
      drawn[group] = true
      local array, swapped, members = members_of(group, left, first), {}, {}
      while #members < together and left > 0 do
        -- Fisher and Yates's shuffle, as far as it is needed.
        local n = random(0, left - 1)
        local other = swapped[n] or n
        swapped[n] = swapped[left - 1] or (left - 1)
        left = left - 1
        local member = u32(array, other * 4)
        local entry = not out[member] and entry_of(member, item_at(member))
        if entry and not is_stale(member, entry) then
          members[#members + 1] = { member, entry }
        end
      end
      for i = 1, #members == together and together or 0 do
        give(members[i][1], members[i][2])
      end
    end
  end
end

draw_fresh()
local n_fresh = n_rows
newest_wanted = math.min(newest_wanted, wanted - n_rows)
draw_newest()
local n_newest = n_rows - n_fresh
if way == 'oldest' or way == 'newest' then
  draw_by_age()
elseif way == 'highest_reward' then
  draw_by_reward()
elseif together > 1 then
  draw_groups()
elseif not must_track then
  draw_untracked()
else
  draw_any()
end

-- What the draws change.
if max_draws > 0 or ranked_by == 'draws' then
  for slot, times in pairs(picks) do
    if not spent_found[slot] then
      set_field(slot, DRAWS, u32(item_at(slot), DRAWS) + times)
      if ranked_by == 'draws' then
        call('ZINCRBY', key('rank'), times, slot)
      end
    end
  end
end
for _, gone in ipairs({ stale, spent }) do
  for _, slot in ipairs(gone) do
    take_out(slot, item_at(slot), 0)
    unlink(slot)
  end
  finish_removal(ranked_by ~= 'none')
  release(gone)
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
for from = n_fresh, n_rows - 1, 64 do -- many a call: one string a row would be dearer
  local some = math.min(n_rows - from, 64)
  local found = { decode('<' .. string.rep('I8I4I8I8I2', some), packed_rows, from * LEVEL_ENTRY + 1) }
  for i = 2, 5 * some, 5 do
    count_version(found[i])
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
count('expired', #stale)
count('max_draws_reached', #spent)
save_counters()
event('draw', 'rows', n_rows, 'fresh', n_fresh, 'expired', #stale, 'max_draws_reached', #spent)

local names_of_tags = n_fresh > 0 and cmsgpack.unpack(call('HGET', COUNTERS, 'tags')) or {}
for i, tag in ipairs(tags) do
  tags[i] = names_of_tags[tag]
end
local answer = cmsgpack.pack({ 'ok', epoch, packed_rows, n_fresh, n_newest, concat(fresh_versions), tags, records })
if n_fresh > 0 or #spent > 0 then
  return remember(nonce, answer)
end
return answer
