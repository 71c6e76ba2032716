-- What the operator's page shows and does, beside the numbers of /metrics.
--
-- Nothing here goes through all tasks: queues and lines are looked at by their heads, and of what workers
-- hold so many are looked at, at most.

local MOST_HELD = 500 -- of one queue
local MOST_DUE = 500
local HISTORY = ours('history') -- samples, the newest first

-- The tasks of a queue that workers hold: all, or so many of them by lot.
local function held(queue) return redis.call('SRANDMEMBER', taken_key(queue), MOST_HELD) end

-- oldest <most> <queue> …   -> the records of tasks that have not ended, the oldest first
--   They are looked for among those that wait at the heads of queues and lines, those that workers hold, and
--   those that are to be looked at next.
function ops.oldest(most, ...)
  local seen, found = {}, {}
  local function look(ids)
    for _, id in ipairs(ids) do
      if not seen[id] then
        seen[id] = true
        local status, created = unpack(redis.call('HMGET', record_key(id), 'status', 'created'))
        if status and not is_final(status) then
          found[#found + 1] = { id = id, created = tonumber(created) }
        end
      end
    end
  end
  for _, queue in ipairs({ ... }) do
    look(redis.call('ZRANGE', called_key(queue), 0, HEADS - 1))
    look(held(queue))
    local owners = redis.call('HKEYS', lengths_key(queue))
    for i = 1, math.min(#owners, LINES) do look(redis.call('ZRANGE', line_key(queue, owners[i]), 0, 9)) end
  end
  look(redis.call('ZRANGE', DUE, 0, MOST_DUE - 1))
  table.sort(found, function(a, b)
    if a.created ~= b.created then return a.created < b.created end
    return a.id < b.id
  end)
  local ids = {}
  for i = 1, math.min(#found, tonumber(most)) do ids[i] = found[i].id end
  return records_of(ids)
end

-- working <queue> …   -> of each worker and model: worker, model, how many tasks, ms since the oldest was begun
function ops.working(...)
  local held_by = {}
  for _, queue in ipairs({ ... }) do
    for _, id in ipairs(held(queue)) do
      local worker, model, started =
        unpack(redis.call('HMGET', record_key(id), 'worker', 'model', 'started'))
      if worker then
        local name = worker .. '\t' .. model
        local sum = held_by[name] or { 0, 0 }
        held_by[name] = { sum[1] + 1, math.max(sum[2], age(tonumber(started))) }
      end
    end
  end
  local told = {}
  for name, sum in pairs(held_by) do
    local worker, model = name:match('^(.*)\t(.*)$')
    told[#told + 1] = { worker, model, sum[1], sum[2] }
  end
  return told
end

-- usages <owner> …   -> of each what `usage` says of this month
function ops.usages(...)
  local all = {}
  for i, owner in ipairs({ ... }) do all[i] = ops.usage(owner, '', '0') end
  return all
end

-- sample <every ms> <most> <queue> …   -> whether one was taken: the last is older than that
--   open, waiting and taken are what there is; completed, failed and the buckets of the time that tasks took
--   are counts that only grow.
function ops.sample(every, most, ...)
  local newest = redis.call('LINDEX', HISTORY, 0)
  if newest and now - cjson.decode(newest).at < tonumber(every) then return 0 end
  local sample = { at = now, open = redis.call('ZCARD', DUE), waiting = 0, taken = 0,
                   completed = 0, failed = 0, took = {} }
  for _, queue in ipairs({ ... }) do
    sample.waiting = sample.waiting + waiting_for(queue)
    sample.taken = sample.taken + redis.call('SCARD', taken_key(queue))
  end
  local counts = redis.call('HGETALL', COUNTS)
  for i = 1, #counts, 2 do
    local status = counts[i]:match('^ended\t[^\t]*\t[^\t]*\t(%a+)\t')
    local bucket = counts[i]:match('^task\t[^\t]*\t(.+)$')
    if status then sample[status] = sample[status] + counts[i + 1] end
    if bucket and bucket ~= 'ms' then sample.took[bucket] = (sample.took[bucket] or 0) + counts[i + 1] end
  end
  redis.call('LPUSH', HISTORY, cjson.encode(sample))
  redis.call('LTRIM', HISTORY, 0, most - 1)
  return 1
end

-- history   -> the samples, the newest first, and the buckets of what takes time
function ops.history() return { redis.call('LRANGE', HISTORY, 0, -1), SECONDS } end

-- retry <id of the failed task> <bills> <new id> <terms> <field> <value> …   -> as `create`
--   -> absent, open, completed, cancelled; retried, and as which task; billed, and what is known of it
--   bills: with which bills of the failed task it may be asked for again, with blanks between.
--   A task is retried once: whoever wants it again retries the one that came of that.
function ops.retry(failed, bills, id, ...)
  local key = record_key(failed)
  local status, failure, cancelled, retried =
    unpack(redis.call('HMGET', key, 'status', 'failure', 'cancelled', 'retried'))
  if not status then return { 'absent' } end
  if not is_final(status) then return { 'open' } end
  if status == 'completed' then return { 'completed' } end
  if cancelled == '1' then return { 'cancelled' } end
  if retried then return { 'retried', retried } end
  local bill = cjson.decode(failure).billed
  if not (' ' .. bills .. ' '):find(' ' .. bill .. ' ', 1, true) then return { 'billed', bill } end
  local reply = ops.create(id, ...)
  if reply and reply[1] == 'created' then
    redis.call('HSET', key, 'retried', id)
    note(record_key(id), 'retry', { of = failed })
  end
  return reply
end
