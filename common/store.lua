-- The task record and everything that may be done to it.
--
-- One script holds all operations, so that each is one round trip and one atomic step, and so that
-- this file is the whole truth about who may change what. Every operation asks Redis for the time:
-- workers' clocks are not trusted. All times are Unix milliseconds.
--
-- KEYS  1 prefix of task records   2 due set   3 prefix of owner indexes
--       4 prefix of outcome buckets (one per hour)   5 workers seen   6 prefix of broker queues
-- ARGV  1 operation, then its own arguments
--
-- A record is a hash. `status` moves pending -> processing -> completed | failed and never back.
-- `generation` is the fencing token: it grows with each claim, and a writer that carries an older
-- one is refused. `lease` is the time until which the claim holds; `hinted` the time of the last
-- Celery message for the task, 0 once that message has done its work. `call:<first>` fields are the
-- journal of paid calls.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local HOUR = 3600000
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
      if call.state == 'accepted' or call.state == 'received' then return 'yes' end
      if call.state == 'submitting' then verdict = 'unknown' end
      if call.state == 'failed' and type(call.failure) == 'table' then
        if call.failure.billed == 'yes' then return 'yes' end
        if call.failure.billed == 'unknown' then verdict = 'unknown' end
      end
    end
  end
  return verdict
end

-- The last transition. `outcome` is ok, failed, or '' when it says nothing about the model.
local function finish(id, status, fields, retention, outcome)
  local key = record_key(id)
  local model, created = unpack(redis.call('HMGET', key, 'model', 'created'))
  redis.call('HSET', key, 'status', status, 'ended', now, 'expires', now + retention, unpack(fields))
  redis.call('HDEL', key, 'lease', 'worker', 'hinted', 'retry_at')
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
  return { now, redis.call('HGETALL', key) }
end

-- step <id> <generation> <lease ms> <field> <value> …   -> whether it was written
function ops.step(id, generation, ttl, ...)
  local key = record_key(id)
  if not may_write(key, generation) then return 0 end
  local until_ = math.min(now + ttl, redis.call('HGET', key, 'deadline') + 15000)
  redis.call('HSET', key, 'lease', until_, ...)
  redis.call('ZADD', KEYS[2], until_, id)
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
  local again = math.min(now + wait, redis.call('HGET', key, 'deadline'))
  redis.call('HDEL', key, 'lease', 'worker')
  redis.call('HSET', key, 'hinted', 0, 'retry_at', again)
  redis.call('ZADD', KEYS[2], again, id)
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
  local due = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  local announced, timed_out, lag, oldest = 0, 0, 0, {}
  if due[2] then lag = now - due[2] end
  for i = 1, #due, 2 do
    local id = due[i]
    local key = record_key(id)
    local status, queue, summary, created, deadline, hinted =
      unpack(redis.call('HMGET', key, 'status', 'queue', 'summary', 'created', 'deadline', 'hinted'))
    if not status or is_final(status) then
      redis.call('ZREM', KEYS[2], id)
    elseif tonumber(deadline) <= now then
      fail(id, 'timeout', 'The task was not finished within its time.', retention, 'failed')
      timed_out = timed_out + 1
    else
      if oldest[queue] == nil then oldest[queue] = oldest_hint(queue) or false end
      -- Queues are first in, first out: with only younger messages left, this one is gone.
      if hinted == '0' or not oldest[queue] or oldest[queue] > tonumber(hinted) then
        push_hint(template, id, queue, summary)
        announced = announced + 1
      end
      -- Looked at ever more rarely, so that a long queue costs the sweep little.
      local again = math.min(now + math.max(check, math.min(now - created, 300000)), deadline)
      redis.call('ZADD', KEYS[2], again, id)
    end
  end
  return { #due / 2, announced, timed_out, lag }
end

-- health   -> now, then worker name and the time it was last seen, …
function ops.health()
  return { now, redis.call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES') }
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

return ops[ARGV[1]](unpack(ARGV, 2))
