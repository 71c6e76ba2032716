-- Routes: who may send a call now, and who has to wait.
--
-- A route is called <provider>/<upstream model>; its account is the <provider>. Either can be shut
-- for a while, with a reason: no_credit, bad_key (accounts), not_served, rate_limited, failing
-- (routes). A call in flight holds a place on its route for as long as its task's lease: a worker
-- that dies gives its places back by doing nothing. An operator can pause a route, an account or a model
-- (`model:<its id>`): then nothing more is bought there until it is resumed, and calls in flight go on.

local PROBE = 60000 -- for so long one call at a time tries a route that was shut
local MOST_CALLS = 4 -- of one task: it has at most so many pictures
local PAUSE = 300000 -- so long a task waits before it looks again whether a pause is over
local MOST_WOKEN = 1000 -- tasks, in one step

local function calls_key(route) return ROUTES .. ':calls:' .. route end
local function waits_key(route) return ROUTES .. ':waits:' .. route end
local function lines_key() return ROUTES .. ':lines' end -- routes that are waited for: their caps
local function paused_key() return ROUTES .. ':paused' end -- tasks that met a pause, by when that was

local function account_of(route) return route:match('^[^/]+') end

local function is_paused(name) return redis.call('HEXISTS', ROUTES, name .. ':paused') == 1 end

-- The names of a task's places on a route.
local function places(id)
  local names = {}
  for first = 0, MOST_CALLS - 1 do names[#names + 1] = id .. '/' .. first end
  return names
end

-- Hold the places that a task has, until `until_`; with `xx` those that it still has.
local function hold(route, id, until_, names, xx)
  local pairs_ = {}
  for _, name in ipairs(names) do
    pairs_[#pairs_ + 1] = until_
    pairs_[#pairs_ + 1] = name
  end
  if #pairs_ == 0 then return end
  if xx then
    redis.call('ZADD', calls_key(route), 'XX', unpack(pairs_))
  else
    redis.call('ZADD', calls_key(route), unpack(pairs_))
    redis.call('PEXPIREAT', calls_key(route), until_ + HOUR)
  end
end

-- How many more calls a route takes.
local function free_places(route, cap)
  return cap - redis.call('ZCOUNT', calls_key(route), now, '+inf')
end

-- Have a task that was put back looked at now.
local function wake(id)
  if redis.call('HDEL', record_key(id), 'retry_at') == 1 then redis.call('ZADD', DUE, 'XX', now, id) end
end

-- Make as many tasks due as there is room for, of those that have waited longest.
local function call_up(route)
  local cap = redis.call('HGET', lines_key(), route)
  if not cap or is_paused(route) or is_paused(account_of(route)) then return end
  local free = free_places(route, cap)
  if free < 1 then return end
  for _, waiting in ipairs(redis.call('ZRANGE', waits_key(route), 0, free - 1)) do wake(waiting) end
end

local function let_go(route, names)
  if #names > 0 and redis.call('ZREM', calls_key(route), unpack(names)) > 0 then call_up(route) end
end

local function stop_waiting(key, id, waits)
  if not waits then return end
  redis.call('ZREM', waits_key(waits), id)
  redis.call('HDEL', key, 'waits')
  if redis.call('EXISTS', waits_key(waits)) == 0 then redis.call('HDEL', lines_key(), waits) end
end

-- Whether an account or route is shut: the reason and until when. Open, but to be tried by one call
-- before all others: nothing, nothing, true.
local function shut(name)
  local until_, why, probe, failures, paused = unpack(redis.call('HMGET', ROUTES, name .. ':until',
    name .. ':why', name .. ':probe', name .. ':failures', name .. ':paused'))
  if paused then return 'paused', now + PAUSE end
  if not until_ then return nil, nil, failures ~= false end
  if tonumber(until_) > now then return why, tonumber(until_) end
  if why == 'rate_limited' then return nil, nil, false end
  if probe and tonumber(probe) > now then return why, tonumber(probe) end
  return nil, nil, true
end

-- judge <route> <verdict> <ms> <failures>   what a call showed of its route and account
--   fine: all is forgotten.   failing: counted; after <failures> in a row, or when it was only being
--   tried, the route is shut for <ms>, and twice as long each further time.
--   Everything else is the reason for which it, or its account, is shut for <ms>.
function ops.judge(route, verdict, ms, most)
  local account = account_of(route)
  local function is_shut_until(name)
    return tonumber(redis.call('HGET', ROUTES, name .. ':until') or 0)
  end
  local function forget(name)
    redis.call('HDEL', ROUTES, name .. ':until', name .. ':why', name .. ':probe',
      name .. ':failures', name .. ':times')
  end
  local function close(name, why, wait)
    if is_shut_until(name) > now + wait then return end
    redis.call('HSET', ROUTES, name .. ':until', now + wait, name .. ':why', why)
    redis.call('HDEL', ROUTES, name .. ':probe')
  end
  if verdict == 'fine' then
    forget(route)
    forget(account)
  elseif verdict == 'failing' then
    if is_shut_until(route) > now then return end -- sent before it was shut
    local failures = redis.call('HINCRBY', ROUTES, route .. ':failures', 1)
    local why = redis.call('HGET', ROUTES, route .. ':why')
    if why == 'failing' or failures >= tonumber(most) then
      local times = redis.call('HINCRBY', ROUTES, route .. ':times', 1)
      close(route, 'failing', math.min(ms * 2 ^ (times - 1), 20 * ms))
    end
  elseif verdict == 'no_credit' or verdict == 'bad_key' then
    close(account, verdict, ms)
  else
    close(route, verdict, ms)
  end
end

-- The lines of a paused or resumed name: that of the route, or those of all routes of the account.
local function lines_of(name)
  local lines = {}
  for _, route in ipairs(redis.call('HKEYS', lines_key())) do
    if route == name or account_of(route) == name then lines[#lines + 1] = route end
  end
  return lines
end

-- pause <name>   -> since when it is paused
function ops.pause(name)
  redis.call('HSETNX', ROUTES, name .. ':paused', now)
  for _, route in ipairs(lines_of(name)) do -- who waits for a place there may find one elsewhere
    for _, id in ipairs(redis.call('ZRANGE', waits_key(route), 0, MOST_WOKEN - 1)) do wake(id) end
  end
  return tonumber(redis.call('HGET', ROUTES, name .. ':paused'))
end

-- resume <name>   -> how many tasks that had met a pause were made due, and how many have not been yet
--   Those whose pause is another one come back by themselves.
function ops.resume(name)
  redis.call('HDEL', ROUTES, name .. ':paused')
  for _, route in ipairs(lines_of(name)) do call_up(route) end
  local met = redis.call('ZPOPMIN', paused_key(), MOST_WOKEN)
  for i = 1, #met, 2 do wake(met[i]) end
  return { #met / 2, redis.call('ZCARD', paused_key()) }
end

-- A task met a pause: it is made due when that is over.
local function wait_for_resume(id)
  redis.call('ZADD', paused_key(), now, id)
  -- Whoever still waits has met it again since.
  redis.call('ZREMRANGEBYSCORE', paused_key(), '-inf', now - 2 * PAUSE)
  redis.call('PEXPIRE', paused_key(), HOUR)
end

-- routes   -> what is known of those that are not simply open, as field, value, …, and now
function ops.routes()
  return { now, redis.call('HGETALL', ROUTES) }
end
