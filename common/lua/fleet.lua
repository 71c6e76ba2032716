-- What workers and sweeps do for all tasks at once, and what is to be seen of them.

-- renew <worker> <lease ms> <id> <generation> …
--   -> the ids that are no longer the caller's, and those of tasks that are to be cancelled
function ops.renew(worker, ttl, ...)
  local held, lost, to_cancel = { ... }, {}, {}
  redis.call('ZADD', SEEN, now, worker)
  redis.call('ZREMRANGEBYSCORE', SEEN, '-inf', now - HOUR)
  for i = 1, #held, 2 do
    if ops.step(held[i], held[i + 1], ttl) == 0 then
      lost[#lost + 1] = held[i]
    elseif redis.call('HGET', record_key(held[i]), 'cancel') == 'requested' then
      to_cancel[#to_cancel + 1] = held[i]
    end
  end
  return { lost, to_cancel }
end

-- sweep <who> <limit> <check ms> <retention ms>   -> looked at, announced, timed out, lag ms
function ops.sweep(who, limit, check, retention)
  redis.call('ZADD', SEEN, now, who)
  -- A dead worker's places come back without anybody's doing, and so without a word to the line.
  for _, route in ipairs(redis.call('HKEYS', lines_key())) do call_up(route) end
  local due = redis.call('ZRANGE', DUE, '-inf', now, 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  local announced, timed_out, lag, oldest, later = 0, 0, 0, {}, {}
  if due[2] then lag = now - due[2] end
  -- When tasks are looked at again is written for many of them at once.
  local function put_off()
    if #later > 0 then redis.call('ZADD', DUE, unpack(later)) end
    later = {}
  end
  for i = 1, #due, 2 do
    local id = due[i]
    local key = record_key(id)
    local status, queue, owner, summary, created, deadline, hinted = unpack(redis.call('HMGET', key,
      'status', 'queue', 'owner', 'summary', 'created', 'deadline', 'hinted'))
    if not status or is_final(status) then
      redis.call('ZREM', DUE, id)
    elseif tonumber(deadline) <= now then
      put_off() -- or it would undo what is made due for those that move up
      fail(id, 'timeout', 'The task was not finished within its time.', retention, 'failed')
      timed_out = timed_out + 1
    else
      local again = deadline
      hinted = tonumber(hinted or 0)
      if hinted > 0 or not in_line(id, queue, owner) then
        if oldest[queue] == nil then oldest[queue] = oldest_hint(queue) or false end
        -- Queues are first in, first out: with only younger messages left, this one is gone.
        if hinted > 0 and oldest[queue] and oldest[queue] <= hinted then
          -- It is looked after ever more rarely, so that a long queue costs the sweep little.
          again = now + math.max(check, math.min(now - hinted, PATIENT))
        else
          hinted = announce(id, queue, owner, summary, created * 1000)
          redis.call('HSET', key, 'hinted', hinted)
          if hinted > 0 then
            announced = announced + 1
            again = now + check
          end
        end
      end
      later[#later + 1] = math.min(again, deadline)
      later[#later + 1] = id
      if #later >= 1000 then put_off() end
    end
  end
  put_off()
  if announced > 0 then add(announced, 'announced_again') end
  return { #due / 2, announced, timed_out, lag }
end

-- health   -> now, worker names and the times they were last seen, and how late the oldest due task is
function ops.health()
  local oldest = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
  return { now, redis.call('ZRANGE', SEEN, 0, -1, 'WITHSCORES'),
           oldest and math.max(0, now - oldest) or 0 }
end

-- outcomes   -> the buckets of the last 24 hours, one after the other as <model>:<what> <count> …
function ops.outcomes()
  local all = {}
  for back = 0, 23 do
    local bucket = ours('outcomes:') .. string.format('%.0f', math.floor(now / HOUR) - back)
    for _, part in ipairs(redis.call('HGETALL', bucket)) do all[#all + 1] = part end
  end
  return all
end

-- open <most>   -> the records of tasks that have not ended, those first that are to be looked at next
function ops.open(most) return records_of(redis.call('ZRANGE', DUE, 0, most - 1)) end
