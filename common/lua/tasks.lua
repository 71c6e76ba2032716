-- The task record and what may be done to it.
--
-- A record is a hash. `status` moves pending -> processing -> completed | failed and never back.
-- `generation` is the fencing token: it grows with each claim, and a writer that carries an older
-- one is refused. `lease` is the time until which the claim holds; `hinted` the time of the last
-- Celery message for the task, 0 once that message has done its work and while it waits in a line.
-- `call:<first>` fields are the journal of paid calls. `route` is the capped route on which the task has calls in flight, `waits`
-- the one whose turn it waits for.

-- Enter into the timeline how a task ended. `result` and `failure` are as the record has them.
local function note_end(key, status, result, failure)
  if status == 'completed' then
    note(key, 'stored', { images = result and #result.images })
    return note(key, status)
  end
  if failure.code == 'cancelled' then return note(key, 'cancelled', { billed = failure.billed }) end
  note(key, status, { error = failure.code, billed = failure.billed })
end

-- The last transition. `outcome` is ok, failed, or '' when it says nothing about the model.
local function finish(id, status, fields, retention, outcome)
  local key = record_key(id)
  local model, created, route, waits, queue, owner, started =
    unpack(redis.call('HMGET', key, 'model', 'created', 'route', 'waits', 'queue', 'owner', 'started'))
  redis.call('HSET', key, 'status', status, 'ended', now, 'expires', now + retention, unpack(fields))
  local result, failure, spent = settle(id)
  note_end(key, status, result, failure)
  redis.call('HDEL', key, 'lease', 'worker', 'hinted', 'retry_at', 'route', 'blocked')
  leave(id, queue, owner)
  local others_wait = redis.call('ZCARD', called_key(queue)) > 0
  if route then
    others_wait = others_wait or redis.call('EXISTS', waits_key(route)) == 1
    let_go(route, places(id))
  end
  if started then keep_pace(queue, others_wait) end
  stop_waiting(key, id, waits)
  redis.call('PEXPIREAT', key, now + retention)
  redis.call('ZREM', DUE, id)
  redis.call('SREM', taken_key(queue), id)
  count_end(status, model, now - created, result, failure, spent)
  remember_failure(id, failure)
  owe_webhook(key, id, status)
  if outcome ~= '' then
    local bucket = ours('outcomes:') .. string.format('%.0f', math.floor(now / HOUR))
    redis.call('HINCRBY', bucket, model .. ':' .. outcome, 1)
    if outcome == 'ok' then
      redis.call('HINCRBY', bucket, model .. ':ms', string.format('%.0f', now - created))
      redis.call('HINCRBY', bucket, model .. ':run', string.format('%.0f', now - (started or now)))
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

-- create <id> <terms as JSON> <field> <value> …
--   terms: owner, queue, route (the first to be taken), summary (of the request, for people), deadline
--   (ms from now), retention (ms), check (ms after which the message is looked for), most (tasks that may
--   wait, 0 for any number), once (where the caller named the submit: key, the name; of, a digest of what
--   was asked for; kept, for how many ms it is remembered), and what else `admit` reads
--   -> created, when (ms), and what is left of a limit on requests
--   -> replayed, and the record that the name stands for
--   -> reused: the name stands for something else
--   -> full, and for how many ms the queue takes nothing
--   -> exceeds, and what `admit` has against it
--   -> nothing when the id is taken
function ops.create(id, terms, ...)
  local key = record_key(id)
  terms = cjson.decode(terms)
  local deadline, owner, queue, once = now + terms.deadline, terms.owner, terms.queue, terms.once
  local once_key = once and ours('once:' .. owner .. ':' .. once.key)
  local known = once and redis.call('GET', once_key)
  if known then
    local of, first = known:match('^(.*) (%S+)$')
    local record = redis.call('HGETALL', record_key(first))
    if #record > 0 and of ~= once.of then return { 'reused' } end
    if #record > 0 then return { 'replayed', record } end
  end
  if redis.call('EXISTS', key) == 1 then return false end
  local others = redis.call('ZCARD', waits_key(terms.route))
  local full = too_long(queue, owner, terms.most, terms.deadline, others)
  if full then return { 'full', math.ceil(full) } end
  local refusal, left, charge = admit(id, terms)
  if refusal then return { 'exceeds', unpack(refusal) } end
  local hinted = announce(id, queue, owner, terms.summary, micros)
  redis.call('HSET', key, 'id', id, 'owner', owner, 'queue', queue, 'summary', terms.summary,
             'status', 'pending', 'generation', 0, 'attempts', 0, 'losses', 0, 'created', now,
             'deadline', deadline, 'charge', charge, 'hinted', hinted,
             'timeline', with_entry(nil, now, 'accepted'), ...)
  redis.call('ZADD', DUE, hinted == 0 and deadline or math.min(now + terms.check, deadline), id)
  local index = ours('owner:' .. owner)
  redis.call('ZADD', index, micros, id)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', micros - 1000 * (terms.deadline + terms.retention))
  redis.call('PEXPIRE', index, terms.deadline + terms.retention)
  count_accepted(terms)
  if once then redis.call('SET', once_key, once.of .. ' ' .. id, 'PX', once.kept) end
  return { 'created', now, unpack(left) }
end

-- claim <id> <worker> <lease ms> <retention ms> <most losses>   -> now and the record, or nothing
function ops.claim(id, worker, ttl, retention, most_losses)
  local key = record_key(id)
  local status, lease, deadline, losses, retry_at, queue, owner, generation, attempts, created, started,
    timeline, route, blocked = unpack(redis.call('HMGET', key, 'status', 'lease', 'deadline', 'losses',
    'retry_at', 'queue', 'owner', 'generation', 'attempts', 'created', 'started', 'timeline', 'route', 'blocked'))
  if not status or is_final(status) then return false end
  leave(id, queue, owner)
  if lease and tonumber(lease) >= now then return false end
  if retry_at and tonumber(retry_at) > now and tonumber(deadline) > now then return false end
  if tonumber(deadline) <= now then
    fail(id, 'timeout', 'The task was not finished within its time.', retention, 'failed')
    return false
  end
  if lease then -- an expired lease: whoever held it died
    timeline = note(key, 'worker_lost', { worker = worker_id(redis.call('HGET', key, 'worker')) })
    add(1, 'leases_lost')
    losses = losses + 1
    if losses >= tonumber(most_losses) then
      fail(id, 'attempts_exhausted', 'Several workers died while they worked on this task.',
           retention, 'failed')
      return false
    end
  end
  local until_ = math.min(now + ttl, deadline + 15000)
  redis.call('HSET', key, 'status', 'processing', 'worker', worker, 'lease', until_, 'hinted', 0,
             'generation', generation + 1, 'attempts', attempts + 1, 'losses', losses,
             'started', started or now,
             'timeline', with_entry(timeline, created, 'claimed', { worker = worker_id(worker) }))
  if retry_at or blocked then redis.call('HDEL', key, 'retry_at', 'blocked') end
  redis.call('ZADD', DUE, until_, id)
  redis.call('SADD', taken_key(queue), id)
  if status == 'pending' then redis.call('PUBLISH', MOVES, id) end
  local record = redis.call('HGETALL', key)
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
--   -> -1 when the task is to be cancelled: nothing more is bought
--   -> nothing when the lease is lost
function ops.begin(id, generation, ttl, standing, going, ...)
  local key = record_key(id)
  if not may_write(key, generation) then return false end
  if redis.call('HGET', key, 'cancel') == 'requested' then return { -1 } end
  local args, at, reasons = { ... }, standing + 1, { 0 }
  local deadline, on, waits, model = unpack(redis.call('HMGET', key, 'deadline', 'route', 'waits', 'model'))
  local model_paused, met_pause = is_paused('model:' .. model), false
  if model_paused then -- others must not wait behind it
    stop_waiting(key, id, waits)
    waits = nil
  end
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
    local account = account_of(route)
    local why, till, try_account = shut(account)
    local try_route
    if not why then why, till, try_route = shut(route) end
    if model_paused then why, till = 'paused', now + PAUSE end
    met_pause = met_pause or why == 'paused'
    local granted, mine = wanted, {}
    for i = 1, wanted do mine[i] = id .. '/' .. args[first + 2 * i - 2]:sub(6) end
    if not why and cap > 0 then
      local ahead = redis.call('ZRANK', waits_key(route), id) or redis.call('ZCARD', waits_key(route))
      granted = math.min(wanted, free_places(route, cap) - ahead)
      if granted < 1 then
        why, till = 'full', now + math.min(300000, 15000 + 2000 * ahead)
        if not waits then
          -- By microseconds: those who come within one millisecond keep their order as well.
          redis.call('ZADD', waits_key(route), micros, id)
          redis.call('PEXPIRE', waits_key(route), 24 * HOUR)
          redis.call('HSET', key, 'waits', route)
          redis.call('HSET', lines_key(), route, cap)
          waits = route
        end
      end
    end
    if not why then
      for i = first, first + 2 * granted - 1, 2 do stands[args[i]] = true end
      count_calls(key, unpack(args, first, first + 2 * granted - 1))
      redis.call('HSET', key, 'lease', until_, unpack(args, first, first + 2 * granted - 1))
      drop_others()
      redis.call('ZADD', DUE, until_, id)
      stop_waiting(key, id, waits)
      if cap > 0 then
        redis.call('HSET', key, 'route', route)
        redis.call('ZREMRANGEBYSCORE', calls_key(route), '-inf', '(' .. now)
        hold(route, id, until_, { unpack(mine, 1, granted) })
      elseif on then
        redis.call('HDEL', key, 'route')
      end
      if try_account then redis.call('HSET', ROUTES, account .. ':probe', now + PROBE) end
      if try_route then redis.call('HSET', ROUTES, route .. ':probe', now + PROBE) end
      local sent = redis.call('HINCRBY', key, 'sent', 1)
      note(key, 'submitted', { provider = account, model = route:sub(#account + 2), calls = granted })
      return { number, granted, (try_account or try_route) and 1 or 0, sent }
    end
    reasons[#reasons + 1] = why
    reasons[#reasons + 1] = till - now
  end
  drop_others()
  if met_pause then wait_for_resume(id) end
  return reasons
end

-- adopt <id> <field> <value>   -> whether a late answer to a call found its way into the journal
-- From a worker that was thought dead and has learned what became of a call that nobody else knows.
function ops.adopt(id, field, value)
  local key = record_key(id)
  local status, known, lease = unpack(redis.call('HMGET', key, 'status', field, 'lease'))
  if not status or is_final(status) or not known then return 0 end
  local state = cjson.decode(known).state
  if state ~= 'submitting' and state ~= 'in_doubt' then return 0 end
  count_call(key, field, value)
  redis.call('HSET', key, field, value)
  note(key, 'late_answer', { call = tonumber(field:sub(6)), state = cjson.decode(value).state })
  for first = 0, MOST_CALLS - 1 do -- other answers may be on their way still
    local other = redis.call('HGET', key, 'call:' .. first)
    if other and (cjson.decode(other).state == 'submitting' or
                  cjson.decode(other).state == 'in_doubt') then return 1 end
  end
  if not lease then -- it waits for just this
    redis.call('HDEL', key, 'retry_at')
    redis.call('ZADD', DUE, now, id)
  end
  return 1
end

-- step <id> <generation> <lease ms> <entries> <field> <value> …   -> whether it was written
--   entries: of the timeline, as JSON: a list of events, each with its fields
function ops.step(id, generation, ttl, entries, ...)
  local key = record_key(id)
  if not may_write(key, generation) then return 0 end
  local deadline, route = unpack(redis.call('HMGET', key, 'deadline', 'route'))
  local until_ = math.min(now + ttl, deadline + 15000)
  count_calls(key, ...)
  redis.call('HSET', key, 'lease', until_, ...)
  redis.call('ZADD', DUE, until_, id)
  if route then hold(route, id, until_, places(id), true) end
  for _, entry in ipairs(entries and cjson.decode(entries) or {}) do note(key, entry[1], entry[2]) end
  for _, field in ipairs({ ... }) do
    if field == 'progress' then redis.call('PUBLISH', MOVES, id) end
  end
  return 1
end

-- finish <id> <generation> <status> <retention ms> <outcome> <field> <value> …   -> whether written
function ops.finish(id, generation, status, retention, outcome, ...)
  if not may_write(record_key(id), generation) then return 0 end
  finish(id, status, { ... }, retention, outcome)
  return 1
end

-- defer <id> <generation> <wait ms> <blocked> <reason>
--   -> whether the lease was put down; due again after the wait
--   blocked: the reason, where it is that the provider takes nothing, else ''
function ops.defer(id, generation, wait, blocked, reason)
  local key = record_key(id)
  if not may_write(key, generation) then return 0 end
  local deadline, route, queue = unpack(redis.call('HMGET', key, 'deadline', 'route', 'queue'))
  local again = math.min(now + wait, deadline)
  -- The pause that it met was over before it was put back: nobody is going to make it due.
  if blocked == 'paused' and not redis.call('ZSCORE', paused_key(), id) then again = now end
  redis.call('HDEL', key, 'lease', 'worker')
  redis.call('SREM', taken_key(queue), id)
  redis.call('HSET', key, 'hinted', 0, 'retry_at', again)
  if blocked ~= '' then redis.call('HSET', key, 'blocked', blocked) end
  note(key, 'deferred', { reason = reason, wait_seconds = (again - now) / 1000 })
  redis.call('ZADD', DUE, again, id)
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

-- What keeps a task from being cancelled at once: nothing; `open`, because its worker has jobs to stop or
-- pictures in its hands; or why it cannot be cancelled: `sending`, `in_doubt`, `unstoppable`.
local function obstacle(key)
  local found
  for first = 0, MOST_CALLS - 1 do
    local call = redis.call('HGET', key, 'call:' .. first)
    call = call and cjson.decode(call) or {}
    local state = call.state
    if state == 'in_doubt' or state == 'missed' then return 'in_doubt' end
    if state == 'submitting' then return call.stoppable and 'sending' or 'unstoppable' end
    if state == 'accepted' and not call.stoppable then return 'unstoppable' end
    if state == 'accepted' or state == 'received' then found = 'open' end
  end
  return found
end

-- cancel <id> <owner> <retention ms>   -> what came of it, and the record
--   cancelled: it is over. requested: whoever works on it, or else will, stops its jobs or says that they
--   cannot be stopped. over: it has ended otherwise. Else what `obstacle` says.
--   -> nothing when the owner has no such task
function ops.cancel(id, owner, retention)
  local key = record_key(id)
  local status, its_owner, lease, cancel, cancelled =
    unpack(redis.call('HMGET', key, 'status', 'owner', 'lease', 'cancel', 'cancelled'))
  if not status or its_owner ~= owner then return false end
  local outcome
  if is_final(status) then
    outcome = cancelled == '1' and 'cancelled' or 'over'
  else
    outcome = obstacle(key) or 'cancelled'
  end
  if outcome == 'cancelled' and not is_final(status) then
    -- Nothing is in flight, and who holds a claim may not begin any more: this is the end.
    local failure = cjson.encode({ code = 'cancelled', message = 'The task was cancelled.',
                                   billed = billed(key), retryable = false })
    finish(id, 'failed', { 'failure', failure, 'progress', 0, 'cancelled', 1 }, retention, '')
  elseif outcome == 'open' then
    outcome = 'requested'
    if cancel ~= 'requested' then
      redis.call('HSET', key, 'cancel', 'requested')
      note(key, 'cancel_requested')
    end
    if not lease then
      redis.call('HDEL', key, 'retry_at')
      redis.call('ZADD', DUE, 'XX', now, id)
    elseif tonumber(lease) >= now then
      redis.call('PUBLISH', CANCELS, id)
    end
  end
  return { outcome, redis.call('HGETALL', key) }
end

-- decline <id> <generation>   -> whether it was the generation's to say that the task cannot be cancelled
function ops.decline(id, generation)
  local key = record_key(id)
  if not may_write(key, generation) then return 0 end
  if redis.call('HGET', key, 'cancel') == 'requested' then
    redis.call('HSET', key, 'cancel', 'declined')
    note(key, 'cancel_declined')
    redis.call('PUBLISH', CHANNEL, id)
  end
  return 1
end

-- look <id>   -> the record, at which place of its queue it waits, and for how many ms; 0: nobody knows
function ops.look(id)
  local key = record_key(id)
  local record = redis.call('HGETALL', key)
  if #record == 0 then return false end
  local status, queue, owner = unpack(redis.call('HMGET', key, 'status', 'queue', 'owner'))
  if status ~= 'pending' then return { record, 0, 0 } end
  local place = redis.call('ZRANK', called_key(queue), id)
  local mine = not place and redis.call('ZRANK', line_key(queue, owner), id)
  if mine then place = ahead(queue, owner, mine) end
  if not place then return { record, 0, 0 } end
  return { record, place + 1, math.ceil((place + 1) * (pace(queue, FEW) or 0)) }
end

-- read <id> …   -> the record of each, empty where there is none
function ops.read(...)
  local records = {}
  for i, id in ipairs({ ... }) do records[i] = redis.call('HGETALL', record_key(id)) end
  return records
end

-- list <owner> <after> <limit> <status> <model> <most>   -> whether there is more, where to go on, records …
--   An owner's tasks, the newest first, from behind the task `after`, '' for the first page; of one status
--   or model, '' for any. So many are looked at, at most: a page may be empty though there is more.
--   -> nothing when there is no task `after`
function ops.list(owner, after, limit, status, model, most)
  local index, start = ours('owner:' .. owner), 0
  if after ~= '' then
    start = redis.call('ZREVRANK', index, after)
    if not start then return false end
    start = start + 1
  end
  local ids = redis.call('ZREVRANGE', index, start, start + most) -- one more than is looked at
  local found = { 0, '' }
  for i, id in ipairs(ids) do
    if i > tonumber(most) or #found - 2 == tonumber(limit) then
      found[1] = 1
      break
    end
    found[2] = id
    local is, of = unpack(redis.call('HMGET', record_key(id), 'status', 'model'))
    if is and (status == '' or is == status) and (model == '' or of == model) then
      found[#found + 1] = redis.call('HGETALL', record_key(id))
    end
  end
  return found
end
