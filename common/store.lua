-- The task record and everything that may be done to it.
--
-- One script holds all operations, so that each is one round trip and one atomic step, and so that
-- this file is the whole truth about who may change what. Every operation asks Redis for the time:
-- workers' clocks are not trusted. All times are Unix milliseconds.
--
-- KEYS  1 prefix of task records   2 due set   3 prefix of owner indexes
--       4 prefix of outcome buckets (one per hour)   5 workers seen   6 prefix of broker queues
--       7 routes: what is known of them, and the beginning of the names of their calls and waits
-- ARGV  1 operation, then its own arguments
--
-- A record is a hash. `status` moves pending -> processing -> completed | failed and never back.
-- `generation` is the fencing token: it grows with each claim, and a writer that carries an older
-- one is refused. `lease` is the time until which the claim holds; `hinted` the time of the last
-- Celery message for the task, 0 once that message has done its work. `call:<first>` fields are the
-- journal of paid calls. `route` is the capped route on which the task has calls in flight, `waits`
-- the one whose turn it waits for.
--
-- A route is called <provider>/<upstream model>; its account is the <provider>. Either can be shut
-- for a while, with a reason: no_credit, bad_key (accounts), not_served, rate_limited, failing
-- (routes). A call in flight holds a place on its route for as long as its task's lease: a worker
-- that dies gives its places back by doing nothing.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local HOUR = 3600000
local PROBE = 60000 -- for so long one call at a time tries a route that was shut
local CHANNEL = 'darkroom:ended'

local function record_key(id) return KEYS[1] .. id end

local function is_final(status) return status == 'completed' or status == 'failed' end

-- A Celery message is a hint: it may be lost or doubled at no cost. The template is a whole kombu
-- envelope with @ID@, @TAG@ and @SUMMARY@ left open; the tag starts with the time, by which the
-- sweep can tell whether a message may still be waiting in its queue.
local function push_hint(template, id, queue, summary)
  local values = { ['@ID@'] = id, ['@SUMMARY@'] = summary, ['@QUEUE@'] = queue,
                   ['@TAG@'] = string.format('%.0f-%s', now, id) }
  redis.call('LPUSH', KEYS[6] .. queue, (template:gsub('@%u+@', values)))
  redis.call('HSET', record_key(id), 'hinted', now)
end

-- Time of the oldest message that waits in a queue, nil when it is empty or not ours to read.
local function oldest_hint(queue)
  local message = redis.call('LINDEX', KEYS[6] .. queue, -1)
  return message and tonumber(message:match('"delivery_tag": ?"(%d+)%-'))
end

-- What is known of the bill when a task ends without its pictures.
local function billed(key)
  local verdict = 'no'
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if fields[i]:sub(1, 5) == 'call:' then
      local call = cjson.decode(fields[i + 1])
      if call.state == 'accepted' or call.state == 'received' or call.state == 'missed' then
        return 'yes'
      end
      if call.state == 'submitting' or call.state == 'in_doubt' then verdict = 'unknown' end
      if type(call.failure) == 'table' then
        if call.failure.billed == 'yes' then return 'yes' end
        if call.failure.billed == 'unknown' then verdict = 'unknown' end
      end
    end
  end
  return verdict
end

local MOST_CALLS = 4 -- of one task: it has at most so many pictures

local function calls_key(route) return KEYS[7] .. ':calls:' .. route end
local function waits_key(route) return KEYS[7] .. ':waits:' .. route end
local function lines_key() return KEYS[7] .. ':lines' end -- routes that are waited for: their caps

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
      redis.call('ZADD', KEYS[2], 'XX', now, waiting)
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
  local until_, why, probe, failures = unpack(redis.call('HMGET', KEYS[7], name .. ':until',
    name .. ':why', name .. ':probe', name .. ':failures'))
  if not until_ then return nil, nil, failures ~= false end
  if tonumber(until_) > now then return why, tonumber(until_) end
  if why == 'rate_limited' then return nil, nil, false end
  if probe and tonumber(probe) > now then return why, tonumber(probe) end
  return nil, nil, true
end

-- The last transition. `outcome` is ok, failed, or '' when it says nothing about the model.
local function finish(id, status, fields, retention, outcome)
  local key = record_key(id)
  local model, created, route, waits =
    unpack(redis.call('HMGET', key, 'model', 'created', 'route', 'waits'))
  redis.call('HSET', key, 'status', status, 'ended', now, 'expires', now + retention, unpack(fields))
  redis.call('HDEL', key, 'lease', 'worker', 'hinted', 'retry_at', 'route')
  if route then let_go(route, places(id)) end
  stop_waiting(key, id, waits)
  redis.call('PEXPIREAT', key, now + retention)
  redis.call('ZREM', KEYS[2], id)
  if outcome ~= '' then
    local bucket = KEYS[4] .. string.format('%.0f', math.floor(now / HOUR))
    redis.call('HINCRBY', bucket, model .. ':' .. outcome, 1)
    if outcome == 'ok' then
      redis.call('HINCRBY', bucket, model .. ':ms', string.format('%.0f', now - created))
    end
    redis.call('PEXPIRE', bucket, 25 * HOUR)
  end
  redis.call('PUBLISH', CHANNEL, id)
end

local function fail(id, code, message, retention, outcome)
  local bill = billed(record_key(id))
  local failure = cjson.encode({ code = code, message = message, billed = bill,
                                 retryable = bill == 'no' })
  finish(id, 'failed', { 'failure', failure, 'progress', 0 }, retention, outcome)
end

-- Whether `generation` may still write: its lease may have run out, but nobody else has claimed the
-- task and it was not put down. '' stands for Celery reporting on a task that nobody holds.
local function may_write(key, generation)
  local status, current, lease = unpack(redis.call('HMGET', key, 'status', 'generation', 'lease'))
  if not status or is_final(status) then return false end
  if generation == '' then return not lease or tonumber(lease) < now end
  return lease and current == generation
end

local ops = {}

-- create <id> <owner> <queue> <summary> <deadline ms from now> <retention ms> <check ms> <template>
--        <field> <value> …            -> created (ms), or nothing when the id is taken
function ops.create(id, owner, queue, summary, deadline, retention, check, template, ...)
  local key = record_key(id)
  if redis.call('EXISTS', key) == 1 then return false end
  redis.call('HSET', key, 'id', id, 'owner', owner, 'queue', queue, 'summary', summary,
             'status', 'pending', 'generation', 0, 'attempts', 0, 'losses', 0, 'created', now,
             'deadline', now + deadline, ...)
  redis.call('PEXPIREAT', key, now + deadline + retention)
  redis.call('ZADD', KEYS[2], now + check, id)
  local index = KEYS[3] .. owner
  redis.call('ZADD', index, now, id)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now - deadline - retention)
  redis.call('PEXPIRE', index, deadline + retention)
  push_hint(template, id, queue, summary)
  return now
end

-- claim <id> <worker> <lease ms> <retention ms> <most losses>   -> now and the record, or nothing
function ops.claim(id, worker, ttl, retention, most_losses)
  local key = record_key(id)
  local status, lease, deadline, losses, retry_at =
    unpack(redis.call('HMGET', key, 'status', 'lease', 'deadline', 'losses', 'retry_at'))
  if not status or is_final(status) then return false end
  if lease and tonumber(lease) >= now then return false end
  if retry_at and tonumber(retry_at) > now and tonumber(deadline) > now then return false end
  if tonumber(deadline) <= now then
    fail(id, 'timeout', 'The task was not finished within its time.', retention, 'failed')
    return false
  end
  if lease then -- an expired lease: whoever held it died
    losses = losses + 1
    if losses >= tonumber(most_losses) then
      fail(id, 'attempts_exhausted', 'Several workers died while they worked on this task.',
           retention, 'failed')
      return false
    end
    redis.call('HSET', key, 'losses', losses)
  end
  local until_ = math.min(now + ttl, deadline + 15000)
  redis.call('HINCRBY', key, 'generation', 1)
  redis.call('HINCRBY', key, 'attempts', 1)
  redis.call('HSETNX', key, 'started', now)
  redis.call('HDEL', key, 'retry_at')
  redis.call('HSET', key, 'status', 'processing', 'worker', worker, 'lease', until_, 'hinted', 0)
  redis.call('ZADD', KEYS[2], until_, id)
  local record = redis.call('HGETALL', key)
  local route = redis.call('HGET', key, 'route')
  if route then -- calls that go on at the provider, whoever asks about them
    local going = {}
    for i = 1, #record, 2 do
      if record[i]:sub(1, 5) == 'call:' and cjson.decode(record[i + 1]).state == 'accepted' then
        going[#going + 1] = id .. '/' .. record[i]:sub(6)
      end
    end
    hold(route, id, until_, going)
  end
  return { now, record }
end

-- begin <id> <generation> <lease ms> <fields that stand> <of them, of calls that go on> <field> …
--       then for each route that may be taken, best first:
--       <route> <cap> <calls> <field> <value> …
--   -> the number of the route taken, how many of its calls may be sent, whether the route is being
--      tried, how often the task was sent so far
--   The journal has what stands and the calls that may be sent, and nothing else: not what was
--   turned away, nor what an attempt announced whose answer was lost on its way.
--   -> 0, and for each route why it is shut and for how many ms
--   -> nothing when the lease is lost
function ops.begin(id, generation, ttl, standing, going, ...)
  local key = record_key(id)
  if not may_write(key, generation) then return false end
  local args, at, reasons = { ... }, standing + 1, { 0 }
  local deadline, on, waits = unpack(redis.call('HMGET', key, 'deadline', 'route', 'waits'))
  local until_ = math.min(now + ttl, deadline + 15000)
  if on then -- calls that have ended since need no place any more
    local goes_on, ended = {}, {}
    for i = 1, going do goes_on[id .. '/' .. args[i]:sub(6)] = true end
    for _, name in ipairs(places(id)) do
      if not goes_on[name] then ended[#ended + 1] = name end
    end
    let_go(on, ended)
  end
  local stands = {}
  for i = 1, standing do stands[args[i]] = true end
  local function drop_others()
    for first = 0, MOST_CALLS - 1 do
      if not stands['call:' .. first] then redis.call('HDEL', key, 'call:' .. first) end
    end
  end
  local number = 0
  while args[at] do
    number = number + 1
    local route, cap, wanted = args[at], tonumber(args[at + 1]), tonumber(args[at + 2])
    local first = at + 3
    at = first + 2 * wanted
    local account = route:match('^[^/]+')
    local why, till, try_account = shut(account)
    local try_route
    if not why then why, till, try_route = shut(route) end
    local granted, mine = wanted, {}
    for i = 1, wanted do mine[i] = id .. '/' .. args[first + 2 * i - 2]:sub(6) end
    if not why and cap > 0 then
      local ahead = redis.call('ZRANK', waits_key(route), id) or redis.call('ZCARD', waits_key(route))
      granted = math.min(wanted, free_places(route, cap) - ahead)
      if granted < 1 then
        why, till = 'full', now + math.min(300000, 15000 + 2000 * ahead)
        if not waits then
          -- By microseconds: those who come within one millisecond keep their order as well.
          redis.call('ZADD', waits_key(route), clock[1] * 1000000 + clock[2], id)
          redis.call('PEXPIRE', waits_key(route), 24 * HOUR)
          redis.call('HSET', key, 'waits', route)
          redis.call('HSET', lines_key(), route, cap)
          waits = route
        end
      end
    end
    if not why then
      for i = first, first + 2 * granted - 1, 2 do stands[args[i]] = true end
      redis.call('HSET', key, 'lease', until_, unpack(args, first, first + 2 * granted - 1))
      drop_others()
      redis.call('ZADD', KEYS[2], until_, id)
      stop_waiting(key, id, waits)
      if cap > 0 then
        redis.call('HSET', key, 'route', route)
        redis.call('ZREMRANGEBYSCORE', calls_key(route), '-inf', '(' .. now)
        hold(route, id, until_, { unpack(mine, 1, granted) })
      elseif on then
        redis.call('HDEL', key, 'route')
      end
      if try_account then redis.call('HSET', KEYS[7], account .. ':probe', now + PROBE) end
      if try_route then redis.call('HSET', KEYS[7], route .. ':probe', now + PROBE) end
      local sent = redis.call('HINCRBY', key, 'sent', 1)
      return { number, granted, (try_account or try_route) and 1 or 0, sent }
    end
    reasons[#reasons + 1] = why
    reasons[#reasons + 1] = till - now
  end
  drop_others()
  return reasons
end

-- judge <route> <verdict> <ms> <failures>   what a call showed of its route and account
--   fine: all is forgotten.   failing: counted; after <failures> in a row, or when it was only being
--   tried, the route is shut for <ms>, and twice as long each further time.
--   Everything else is the reason for which it, or its account, is shut for <ms>.
function ops.judge(route, verdict, ms, most)
  local account = route:match('^[^/]+')
  local function is_shut_until(name)
    return tonumber(redis.call('HGET', KEYS[7], name .. ':until') or 0)
  end
  local function forget(name)
    redis.call('HDEL', KEYS[7], name .. ':until', name .. ':why', name .. ':probe',
      name .. ':failures', name .. ':times')
  end
  local function close(name, why, wait)
    if is_shut_until(name) > now + wait then return end
    redis.call('HSET', KEYS[7], name .. ':until', now + wait, name .. ':why', why)
    redis.call('HDEL', KEYS[7], name .. ':probe')
  end
  if verdict == 'fine' then
    forget(route)
    forget(account)
  elseif verdict == 'failing' then
    if is_shut_until(route) > now then return end -- sent before it was shut
    local failures = redis.call('HINCRBY', KEYS[7], route .. ':failures', 1)
    local why = redis.call('HGET', KEYS[7], route .. ':why')
    if why == 'failing' or failures >= tonumber(most) then
      local times = redis.call('HINCRBY', KEYS[7], route .. ':times', 1)
      close(route, 'failing', math.min(ms * 2 ^ (times - 1), 20 * ms))
    end
  elseif verdict == 'no_credit' or verdict == 'bad_key' then
    close(account, verdict, ms)
  else
    close(route, verdict, ms)
  end
end

-- adopt <id> <field> <value>   -> whether a late answer to a call found its way into the journal
-- From a worker that was thought dead and has learned what became of a call that nobody else knows.
function ops.adopt(id, field, value)
  local key = record_key(id)
  local status, known, lease = unpack(redis.call('HMGET', key, 'status', field, 'lease'))
  if not status or is_final(status) or not known then return 0 end
  local state = cjson.decode(known).state
  if state ~= 'submitting' and state ~= 'in_doubt' then return 0 end
  redis.call('HSET', key, field, value)
  for first = 0, MOST_CALLS - 1 do -- other answers may be on their way still
    local other = redis.call('HGET', key, 'call:' .. first)
    if other and (cjson.decode(other).state == 'submitting' or
                  cjson.decode(other).state == 'in_doubt') then return 1 end
  end
  if not lease then -- it waits for just this
    redis.call('HDEL', key, 'retry_at')
    redis.call('ZADD', KEYS[2], now, id)
  end
  return 1
end

-- step <id> <generation> <lease ms> <field> <value> …   -> whether it was written
function ops.step(id, generation, ttl, ...)
  local key = record_key(id)
  if not may_write(key, generation) then return 0 end
  local deadline, route = unpack(redis.call('HMGET', key, 'deadline', 'route'))
  local until_ = math.min(now + ttl, deadline + 15000)
  redis.call('HSET', key, 'lease', until_, ...)
  redis.call('ZADD', KEYS[2], until_, id)
  if route then hold(route, id, until_, places(id), true) end
  return 1
end

-- finish <id> <generation> <status> <retention ms> <outcome> <field> <value> …   -> whether written
function ops.finish(id, generation, status, retention, outcome, ...)
  if not may_write(record_key(id), generation) then return 0 end
  finish(id, status, { ... }, retention, outcome)
  return 1
end

-- defer <id> <generation> <wait ms>   -> whether the lease was put down; due again after the wait
function ops.defer(id, generation, wait)
  local key = record_key(id)
  if not may_write(key, generation) then return 0 end
  local deadline, route = unpack(redis.call('HMGET', key, 'deadline', 'route'))
  local again = math.min(now + wait, deadline)
  redis.call('HDEL', key, 'lease', 'worker')
  redis.call('HSET', key, 'hinted', 0, 'retry_at', again)
  redis.call('ZADD', KEYS[2], again, id)
  if route then -- a job that goes on keeps its place until somebody takes it up
    local going = false
    for first = 0, MOST_CALLS - 1 do
      local call = redis.call('HGET', key, 'call:' .. first)
      going = going or (call and cjson.decode(call).state == 'accepted')
    end
    if not going then
      redis.call('HDEL', key, 'route')
      let_go(route, places(id))
    end
  end
  return 1
end

-- renew <worker> <lease ms> <id> <generation> …   -> the ids that are no longer the caller's
function ops.renew(worker, ttl, ...)
  local held, lost = { ... }, {}
  redis.call('ZADD', KEYS[5], now, worker)
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - HOUR)
  for i = 1, #held, 2 do
    if ops.step(held[i], held[i + 1], ttl) == 0 then lost[#lost + 1] = held[i] end
  end
  return lost
end

-- sweep <who> <limit> <check ms> <retention ms> <template>   -> looked at, announced, timed out, lag ms
function ops.sweep(who, limit, check, retention, template)
  redis.call('ZADD', KEYS[5], now, who)
  -- A dead worker's places come back without anybody's doing, and so without a word to the line.
  for _, route in ipairs(redis.call('HKEYS', lines_key())) do call_up(route) end
  local due = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  local announced, timed_out, lag, oldest = 0, 0, 0, {}
  if due[2] then lag = now - due[2] end
  for i = 1, #due, 2 do
    local id = due[i]
    local key = record_key(id)
    local status, queue, summary, deadline, hinted =
      unpack(redis.call('HMGET', key, 'status', 'queue', 'summary', 'deadline', 'hinted'))
    if not status or is_final(status) then
      redis.call('ZREM', KEYS[2], id)
    elseif tonumber(deadline) <= now then
      fail(id, 'timeout', 'The task was not finished within its time.', retention, 'failed')
      timed_out = timed_out + 1
    else
      if oldest[queue] == nil then oldest[queue] = oldest_hint(queue) or false end
      -- Queues are first in, first out: with only younger messages left, this one is gone.
      local waited = 0
      if hinted == '0' or not oldest[queue] or oldest[queue] > tonumber(hinted) then
        push_hint(template, id, queue, summary)
        announced = announced + 1
      else
        waited = now - hinted
      end
      -- A message that waits is looked after ever more rarely, so that a long queue costs the sweep
      -- little.
      local again = math.min(now + math.max(check, math.min(waited, 300000)), deadline)
      redis.call('ZADD', KEYS[2], again, id)
    end
  end
  return { #due / 2, announced, timed_out, lag }
end

-- health   -> now, worker names and the times they were last seen, and how late the oldest due task is
function ops.health()
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
  return { now, redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES'),
           oldest and math.max(0, now - oldest) or 0 }
end

-- outcomes   -> the buckets of the last 24 hours, one after the other as <model>:<what> <count> …
function ops.outcomes()
  local all = {}
  for back = 0, 23 do
    local bucket = KEYS[4] .. string.format('%.0f', math.floor(now / HOUR) - back)
    for _, part in ipairs(redis.call('HGETALL', bucket)) do all[#all + 1] = part end
  end
  return all
end

-- routes   -> what is known of those that are not simply open, as field, value, …, and now
function ops.routes()
  return { now, redis.call('HGETALL', KEYS[7]) }
end

return ops[ARGV[1]](unpack(ARGV, 2))
