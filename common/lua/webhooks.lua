-- Webhooks: who is owed word of a task's end, and who may bring it now.
--
-- What is owed is written into the record by the very step that ends the task. `delivery` says how
-- far it has come: pending, then delivered, failed or gone. A try is a claim of its own:
-- `deliveries` counts them and is the fencing token, `delivery_lease` is the time until which it
-- holds, `try:<number>` what came of it.
-- Pending deliveries wait in lanes, one for each API key and host, by the time at which they are to
-- be looked at: that of the next try, or the end of a lease. So a host that does not answer keeps
-- nobody waiting but those who wait for it.

local LANES = ours('webhooks') -- lanes by the time at which there is something to do in them
local PER_HOST = 8 -- tries under way at a time, of all workers together
local PER_KEY = 24
local LANES_AT_ONCE = 100 -- that one call looks at
local TRIES_KEPT = 20
-- The last try comes when so much of the time is over for which a finished task is kept: what a
-- webhook says of pictures has to be of use when it arrives.
local LAST_TRY = 0.9

local SECRETS = ours('webhook_secrets') -- id of an API key -> what signs its webhooks, newest first

local function lane_key(lane) return LANES .. ':lane:' .. lane end
local function tries_key(of) return LANES .. ':tries:' .. of end -- under way, by the end of their lease

local function under_way(of) return redis.call('ZCOUNT', tries_key(of), '(' .. now, '+inf') end

local function wait_in_lane(lane, id, at)
  redis.call('ZADD', lane_key(lane), at, id)
  redis.call('ZADD', LANES, 'LT', at, lane)
end

-- Say when there is something to do in a lane; in one that is due and cannot go on, after `pause`.
local function look_again(lane, pause)
  local at = redis.call('ZRANGE', lane_key(lane), 0, 0, 'WITHSCORES')[2]
  if not at then
    redis.call('ZREM', LANES, lane)
  else
    redis.call('ZADD', LANES, tonumber(at) > now and at or now + pause, lane)
  end
end

local function ask_for_delivery(key, id, lane)
  redis.call('HSET', key, 'delivery', 'pending', 'deliver_at', now)
  wait_in_lane(lane, id, now)
end

-- The task ends as `status`: whoever asked to hear of that is owed a delivery.
local function owe_webhook(key, id, status)
  local owner, webhook = unpack(redis.call('HMGET', key, 'owner', 'webhook'))
  if not webhook then return end
  webhook = cjson.decode(webhook)
  for _, event in ipairs(webhook.events) do
    if event == status then ask_for_delivery(key, id, owner .. ' ' .. webhook.host) end
  end
end

local function end_delivery(key, id, lane, state)
  redis.call('HSET', key, 'delivery', state)
  note(key, 'notified', { outcome = state })
  redis.call('HDEL', key, 'delivery_lease', 'delivery_begun', 'deliver_at')
  redis.call('ZREM', lane_key(lane), id)
end

-- Begin a try: its number, or nothing when there is none to be made.
local function take_delivery(id, lane, owner, host, until_, most)
  local key = record_key(id)
  local state, lease, begun, tries, before = unpack(redis.call('HMGET', key, 'delivery',
    'delivery_lease', 'delivery_begun', 'deliveries', 'delivery_round'))
  if state ~= 'pending' then -- also of a record that has expired
    redis.call('ZREM', lane_key(lane), id)
    return nil
  end
  if lease and tonumber(lease) > now then
    redis.call('ZADD', lane_key(lane), lease, id)
    return nil
  end
  if lease then -- whoever made the last try died, and nobody knows whether it was heard
    redis.call('HSET', key, 'try:' .. tries, cjson.encode({
      at = tonumber(begun), error = 'the worker was lost' }))
    if tries - (before or 0) >= tonumber(most) then
      end_delivery(key, id, lane, 'failed')
      return nil
    end
  end
  local number = redis.call('HINCRBY', key, 'deliveries', 1)
  redis.call('HSET', key, 'delivery_lease', until_, 'delivery_begun', now)
  redis.call('HDEL', key, 'deliver_at')
  redis.call('ZADD', lane_key(lane), until_, id)
  for _, of in ipairs({ host, owner }) do
    redis.call('ZREMRANGEBYSCORE', tries_key(of), '-inf', now)
    redis.call('ZADD', tries_key(of), until_, id)
    redis.call('PEXPIREAT', tries_key(of), until_ + HOUR)
  end
  return number
end

-- take_webhooks <room> <lease ms> <most tries>
--   -> now, and for each try that begins its number and the record; as many as there is room for
function ops.take_webhooks(room, ttl, most)
  local taken, until_ = { now }, now + ttl
  room = tonumber(room)
  local lanes = redis.call('ZRANGE', LANES, '-inf', now, 'BYSCORE', 'LIMIT', 0, LANES_AT_ONCE)
  for _, lane in ipairs(lanes) do
    if room < 1 then break end
    local owner, host = lane:match('^(%S+) (%S+)$')
    local free = math.min(room, PER_HOST - under_way(host), PER_KEY - under_way(owner))
    local due = {}
    if free > 0 then
      due = redis.call('ZRANGE', lane_key(lane), '-inf', now, 'BYSCORE', 'LIMIT', 0, free)
    end
    for _, id in ipairs(due) do
      local number = take_delivery(id, lane, owner, host, until_, most)
      if number then
        taken[#taken + 1] = number
        taken[#taken + 1] = redis.call('HGETALL', record_key(id))
        room = room - 1
      end
    end
    -- Who finds no place looks again soon; a try that ends makes it sooner.
    look_again(lane, room > 0 and 1000 or 0)
  end
  return taken
end

-- told <id> <number of the try> <delivered, gone or again> <wait ms> <most tries> <the try as JSON>
--   -> whether it was written
function ops.told(id, number, outcome, wait, most, try)
  local key = record_key(id)
  local owner, webhook, state, current, lease, before, ended, expires = unpack(redis.call('HMGET',
    key, 'owner', 'webhook', 'delivery', 'deliveries', 'delivery_lease', 'delivery_round', 'ended',
    'expires'))
  if state ~= 'pending' or current ~= number or not lease then return 0 end
  local host = cjson.decode(webhook).host
  local lane = owner .. ' ' .. host
  redis.call('ZREM', tries_key(host), id)
  redis.call('ZREM', tries_key(owner), id)
  add(1, 'webhook_tries', outcome)
  redis.call('HSET', key, 'try:' .. number, try)
  redis.call('HDEL', key, 'try:' .. number - TRIES_KEPT)
  local last = math.floor(ended + LAST_TRY * (expires - ended))
  if outcome ~= 'again' then
    end_delivery(key, id, lane, outcome)
  elseif number - (before or 0) >= tonumber(most) or now >= last then
    end_delivery(key, id, lane, 'failed')
  else
    local at = math.min(now + wait, last)
    redis.call('HDEL', key, 'delivery_lease', 'delivery_begun')
    redis.call('HSET', key, 'deliver_at', at)
    wait_in_lane(lane, id, at)
  end
  look_again(lane, 0)
  return 1
end

-- redeliver <id>   -> asked; or open, unasked (its end was not to be told), nowhere
function ops.redeliver(id)
  local key = record_key(id)
  local owner, webhook, status, state, lease, tries = unpack(redis.call('HMGET', key, 'owner',
    'webhook', 'status', 'delivery', 'delivery_lease', 'deliveries'))
  if not webhook then return 'nowhere' end
  if not is_final(status) then return 'open' end
  if not state then return 'unasked' end
  redis.call('HSET', key, 'delivery_round', tries or 0)
  if not lease or tonumber(lease) <= now then -- else one is under way just now
    ask_for_delivery(key, id, owner .. ' ' .. cjson.decode(webhook).host)
  end
  return 'asked'
end

-- webhook_secrets <API key> <a fresh one> <keep ms>   -> those that sign, newest first
--   keep ms: '' to ask for them, and have the first one made; else for how long the others go on to
--   sign beside the fresh one
function ops.webhook_secrets(owner, fresh, keep)
  local known = redis.call('HGET', SECRETS, owner)
  local kept = {}
  if keep ~= '' or not known then kept[1] = { secret = fresh } end
  for _, one in ipairs(known and cjson.decode(known) or {}) do
    if keep ~= '' then one['until'] = math.min(one['until'] or math.huge, now + keep) end
    if not one['until'] or one['until'] > now then kept[#kept + 1] = one end
  end
  if kept[1].secret == fresh then redis.call('HSET', SECRETS, owner, cjson.encode(kept)) end
  local signing = {}
  for _, one in ipairs(kept) do signing[#signing + 1] = one.secret end
  return signing
end
