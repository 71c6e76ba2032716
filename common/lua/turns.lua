-- Turns: whose task is announced to the workers next.
--
-- A broker queue is first in, first out, so of each caller it holds a few messages only. Whatever else
-- a caller has waits in a line of its own, oldest first, and moves up by one each time that one of
-- its messages has led to a claim. Somebody else's first task therefore waits behind a few messages of
-- each caller, and not behind all that they have.
--
-- Per broker queue: `called`, the tasks announced and not claimed since, in the order of their messages;
-- `taken`, those that a worker holds, or held when it died and nobody has taken up since;
-- `shares`, how many of these each caller has; `lines`, how many tasks each caller has in line. For all
-- queues: `waiting`, how many tasks are in line, and `pace`, in what time a task ends while others wait.

local SHARE = 4 -- messages of one caller in a broker queue
local MOVED = 10000 -- how soon a message is looked for whose task has come up from a line

local WAITING = ours('waiting')
local PACE = ours('pace')

local function called_key(queue) return ours('called:' .. queue) end
local function shares_key(queue) return ours('shares:' .. queue) end
local function taken_key(queue) return ours('taken:' .. queue) end
local function lengths_key(queue) return ours('lines:' .. queue) end
local function line_key(queue, owner) return ours('line:' .. queue .. ':' .. owner) end

-- One less or more of something that is counted by name; what has come to nothing is not kept.
local function count(counts, name, by)
  if redis.call('HINCRBY', counts, name, by) <= 0 then redis.call('HDEL', counts, name) end
end

local function count_in_line(queue, owner, by)
  count(lengths_key(queue), owner, by)
  count(WAITING, queue, by)
end

-- A Celery message is a hint: it may be lost or doubled at no cost. HINT is a whole kombu envelope with
-- @ID@, @TAG@, @SUMMARY@ and @QUEUE@ left open; the tag starts with the time, by which the sweep can
-- tell whether a message may still be waiting in its queue.
local PIECES = {} -- of HINT: text and what is left open, by turns
for text, open in (HINT .. '@@'):gmatch('([^@]*)(@%u*@)') do
  PIECES[#PIECES + 1] = text
  PIECES[#PIECES + 1] = open
end
PIECES[#PIECES] = nil -- the mark of the end

-- Push a task's message. Whoever does so has the record say when: `hinted` is now.
local function push_hint(id, queue, summary)
  local values = { ['@ID@'] = id, ['@SUMMARY@'] = summary, ['@QUEUE@'] = queue,
                   ['@TAG@'] = string.format('%.0f-%s', now, id) }
  local message = {}
  for i, piece in ipairs(PIECES) do message[i] = values[piece] or piece end
  redis.call('LPUSH', queue, table.concat(message))
end

-- Announce a task, or have it wait in its caller's line, which is in the order of `since`
-- (microseconds). Returns `hinted` as the record is to have it from now on: now, or 0 in the line.
local function announce(id, queue, owner, summary, since)
  local mine = tonumber(redis.call('HGET', shares_key(queue), owner) or 0)
  if mine < SHARE or redis.call('ZSCORE', called_key(queue), id) then
    if redis.call('ZADD', called_key(queue), micros, id) == 1 then count(shares_key(queue), owner, 1) end
    push_hint(id, queue, summary)
    return now
  end
  if redis.call('ZADD', line_key(queue, owner), 'NX', since, id) == 1 then
    count_in_line(queue, owner, 1)
  end
  return 0
end

local function in_line(id, queue, owner)
  return redis.call('ZSCORE', line_key(queue, owner), id) ~= false
end

-- Announce the oldest of a caller's line that is not over, in the place of its share that was just left.
-- Returns whether there was one.
local function move_up(queue, owner)
  while true do
    local id = redis.call('ZPOPMIN', line_key(queue, owner))[1]
    if not id then return false end
    count_in_line(queue, owner, -1)
    local key = record_key(id)
    local status, summary = unpack(redis.call('HMGET', key, 'status', 'summary'))
    if status and not is_final(status) then
      redis.call('ZADD', called_key(queue), micros, id)
      push_hint(id, queue, summary)
      redis.call('HSET', key, 'hinted', now)
      redis.call('ZADD', DUE, 'XX', now + MOVED, id)
      return true
    end
  end
end

-- A task waits for no turn any more: its message was seen, or it is over.
local function leave(id, queue, owner)
  if redis.call('ZREM', called_key(queue), id) == 1 then
    if not move_up(queue, owner) then count(shares_key(queue), owner, -1) end
  elseif redis.call('ZREM', line_key(queue, owner), id) == 1 then
    count_in_line(queue, owner, -1)
  end
end

-- How many tasks are going to be announced before one of `owner` with `before` of its own in line before
-- it, as things stand: callers take turns. Nothing when so many wait that counting would take long.
local MOST_COUNTED = 64
local function ahead(queue, owner, before)
  if redis.call('HLEN', lengths_key(queue)) > MOST_COUNTED then return nil end
  local sum = redis.call('ZCARD', called_key(queue)) + before
  local lengths = redis.call('HGETALL', lengths_key(queue))
  for i = 1, #lengths, 2 do
    if lengths[i] ~= owner then sum = sum + math.min(tonumber(lengths[i + 1]), before + 1) end
  end
  return sum
end

-- How many tasks of a queue no worker has taken up.
local function waiting_for(queue)
  return redis.call('ZCARD', called_key(queue)) + tonumber(redis.call('HGET', WAITING, queue) or 0)
end

-- The mean time from one end of a task to the next, while others wait: what a task ahead of one costs.
-- Nothing before `least` of them were measured.
local function pace(queue, least)
  local every, measured = unpack(redis.call('HMGET', PACE, queue .. ':every', queue .. ':measured'))
  return measured and tonumber(measured) >= least and tonumber(every) or nil
end

local FEW, MANY = 5, 10 -- ends, enough to say something, and to refuse a task by it

local function keep_pace(queue, others_wait)
  local last, every, measured =
    unpack(redis.call('HMGET', PACE, queue .. ':last', queue .. ':every', queue .. ':measured'))
  if not others_wait then
    if last then redis.call('HDEL', PACE, queue .. ':last') end
    return
  end
  if last then
    local took, number = (micros - last) / 1000, math.min(tonumber(measured or 0) + 1, MANY)
    every = tonumber(every or 0)
    -- A pause, in which there were no workers, says nothing of what they do when they are there.
    if number > FEW then took = math.min(took, 4 * every) end
    every = every + (took - every) / number
    redis.call('HSET', PACE, queue .. ':every', string.format('%.3f', every), queue .. ':measured', number)
    redis.call('PEXPIRE', PACE, 24 * HOUR)
  end
  redis.call('HSET', PACE, queue .. ':last', string.format('%.0f', micros))
end

-- For how many ms a queue takes no new task of `owner`: it is as long as it may be, or the task would
-- wait for more than half of its time. Nothing when it takes one. `others`: tasks that wait elsewhere
-- for the same provider.
local function too_long(queue, owner, most, time, others)
  local every, waiting = pace(queue, MANY), waiting_for(queue) + others
  if most > 0 and waiting >= most then return (waiting - most + 1) * (every or 1000) end
  if not every then return nil end
  local mine = tonumber(redis.call('HGET', lengths_key(queue), owner) or 0)
  local wait = ((ahead(queue, owner, mine) or waiting) + others) * every
  if wait > time / 2 then return wait - time / 2 end
end
