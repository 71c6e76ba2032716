-- What all operations build on.
--
-- The files of this directory are one library of functions, put together in the order that
-- `common/script.py` names, so that each operation is one round trip and one atomic step. Together they
-- are the whole truth about who may change what. Every operation asks Redis for the time: workers' clocks
-- are not trusted. All times are Unix milliseconds. PREFIX begins every key that is ours; broker queues
-- are lists under their bare names.

local now, micros -- the time, in ms and in microseconds; read anew for each operation

local HOUR = 3600000
local PATIENT = 300000 -- how soon the sweep looks, at the latest, whether a message is still waiting

local function ours(name) return PREFIX .. name end

local DUE = ours('due') -- tasks by the time at which a sweep has to look at them
local SEEN = ours('seen') -- workers and sweeps by the time they were last seen
local ROUTES = ours('routes') -- what is known of routes; also begins the names of their calls and waits
local CHANNEL = ours('ended') -- of tasks that somebody may be waiting for
local CANCELS = ours('cancels') -- of tasks that their workers are to stop
local MOVES = ours('moved') -- of tasks that somebody may follow, beside their ends

local ops = {}

local function record_key(id) return ours('task:' .. id) end

-- The records of those tasks that there are.
local function records_of(ids)
  local found = {}
  for _, id in ipairs(ids) do
    local record = redis.call('HGETALL', record_key(id))
    if #record > 0 then found[#found + 1] = record end
  end
  return found
end

local function is_final(status) return status == 'completed' or status == 'failed' end

-- Time of the oldest message that waits in a queue, nil when it is empty or not ours to read.
local function oldest_hint(queue)
  local message = redis.call('LINDEX', queue, -1)
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
