-- How the fleet stands, for /metrics: read in one step, and changing nothing.

local HEADS, LINES, MOST_LANES = 64, 256, 1000 -- that are looked at

-- When the task that has waited longest for a worker was accepted, as far as the heads of the queue and of
-- its callers' lines tell; nothing when none waits.
local function oldest_waiting(queue)
  local oldest
  local function is_waiting_since(ms)
    if ms and (not oldest or ms < oldest) then oldest = ms end
  end
  for _, id in ipairs(redis.call('ZRANGE', called_key(queue), 0, HEADS - 1)) do
    is_waiting_since(tonumber(redis.call('HGET', record_key(id), 'created')))
  end
  local owners = redis.call('HKEYS', lengths_key(queue))
  for i = 1, math.min(#owners, LINES) do
    local since = redis.call('ZRANGE', line_key(queue, owners[i]), 0, 0, 'WITHSCORES')[2]
    is_waiting_since(since and since / 1000)
  end
  return oldest
end

local function age(since) return since and math.max(0, math.floor(now - since)) or 0 end

local function first_score(key) return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or nil) end

-- A line of what Redis says of itself; '' where it keeps this to itself.
local function about_redis(section)
  local said = redis.pcall('INFO', section)
  return type(said) == 'string' and said or ''
end

-- metrics <queues> <queue> … <capped route> …
--   -> now; the counts; the buckets of what takes time;
--      of each queue: waiting, taken, ms that the oldest has waited;
--      of each capped route: calls in flight, tasks that wait for it;
--      open tasks, due ones, ms for which the oldest has been due;
--      who was seen and when; what is known of routes;
--      lanes of webhooks that are looked at, webhooks in them, ms for which the oldest lane has been due;
--      what Redis says of its memory and of its disk
function ops.metrics(number, ...)
  local names, queues, routes = { ... }, {}, {}
  for i, name in ipairs(names) do
    if i <= tonumber(number) then
      queues[i] = { waiting_for(name), redis.call('SCARD', taken_key(name)), age(oldest_waiting(name)) }
    else
      routes[#routes + 1] = { redis.call('ZCOUNT', calls_key(name), now, '+inf'),
                              redis.call('ZCARD', waits_key(name)) }
    end
  end
  local lanes, owed = redis.call('ZRANGE', LANES, 0, MOST_LANES - 1), 0
  for _, lane in ipairs(lanes) do owed = owed + redis.call('ZCARD', lane_key(lane)) end
  return { now, redis.call('HGETALL', COUNTS), SECONDS, queues, routes,
           { redis.call('ZCARD', DUE), redis.call('ZCOUNT', DUE, '-inf', now), age(first_score(DUE)) },
           redis.call('ZRANGE', SEEN, 0, -1, 'WITHSCORES'), redis.call('HGETALL', ROUTES),
           { #lanes, owed, age(first_score(LANES)) },
           { about_redis('memory'), about_redis('persistence') } }
end
