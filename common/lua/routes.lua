-- Routes: who may send a call now, and who has to wait.
--
-- A route is called <provider>/<upstream model>; its account is the <provider>. Either can be shut
-- for a while, with a reason: no_credit, bad_key (accounts), not_served, rate_limited, failing
-- (routes). A call in flight holds a place on its route for as long as its task's lease: a worker
-- that dies gives its places back by doing nothing.

local PROBE = 60000 -- for so long one call at a time tries a route that was shut
local MOST_CALLS = 4 -- of one task: it has at most so many pictures

local function calls_key(route) return ROUTES .. ':calls:' .. route end
local function waits_key(route) return ROUTES .. ':waits:' .. route end
local function lines_key() return ROUTES .. ':lines' end -- routes that are waited for: their caps

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

-- Make as many tasks due as there is room for, of those that have waited longest.
local function call_up(route)
  local cap = redis.call('HGET', lines_key(), route)
  if not cap then return end
  local free = free_places(route, cap)
  if free < 1 then return end
  for _, waiting in ipairs(redis.call('ZRANGE', waits_key(route), 0, free - 1)) do
    if redis.call('HDEL', record_key(waiting), 'retry_at') == 1 then
      redis.call('ZADD', DUE, 'XX', now, waiting)
    end
  end
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
  local until_, why, probe, failures = unpack(redis.call('HMGET', ROUTES, name .. ':until',
    name .. ':why', name .. ':probe', name .. ':failures'))
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
  local account = route:match('^[^/]+')
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

-- routes   -> what is known of those that are not simply open, as field, value, …, and now
function ops.routes()
  return { now, redis.call('HGETALL', ROUTES) }
end
