-- What the fleet has done, in numbers that only grow: what /metrics shows, from any front end.
--
-- They are one hash. A field is the name of a number and its labels, with tabs between; labels are models
-- and routes of the catalog, and words of ours. They are counted in the steps that happen anyway, so that
-- no kill and no repetition of a step counts anything twice.

local COUNTS = ours('counts')
local SECONDS = { 1, 2, 4, 8, 15, 30, 60, 120, 300, 600 } -- the buckets of what takes time

local function add(by, ...)
  redis.call('HINCRBY', COUNTS, table.concat({ ... }, '\t'), string.format('%.0f', by))
end

-- Something took so long: the bucket it falls into, and the sum in milliseconds.
local function observe(name, label, ms)
  local bucket = '+Inf'
  for _, most in ipairs(SECONDS) do
    if ms <= most * 1000 then
      bucket = tostring(most)
      break
    end
  end
  add(1, name, label, bucket)
  add(ms, name, label, 'ms')
end

local function count_accepted(terms) add(1, 'accepted', terms.model, terms.images) end

-- A call of the journal comes to `entry`, from what is there now. The same state once more is the
-- repetition of a write.
local function count_call(key, field, entry)
  local known = redis.call('HGET', key, field)
  local call = cjson.decode(entry)
  if known and cjson.decode(known).state == call.state then return end
  add(1, 'calls', call.provider .. '/' .. call.model, call.state,
      type(call.error) == 'string' and call.error or '', call.count)
end

local function count_calls(key, ...)
  local fields = { ... }
  for i = 1, #fields, 2 do
    if fields[i]:sub(1, 5) == 'call:' then count_call(key, fields[i], fields[i + 1]) end
  end
end

-- A task has ended. `result` and `failure` are as the record has them; `spent` is in millionths of a dollar.
local function count_end(status, model, took, result, failure, spent)
  local route = result and result.provider .. '/' .. result.provider_model or ''
  add(1, 'ended', model, route, status, failure and failure.code or '', failure and failure.billed or '')
  if spent > 0 then add(spent, 'spent', model, route) end
  if not result then return end
  observe('task', model, took)
  local seconds = result.usage.seconds
  if type(seconds) == 'number' and seconds >= 0 then observe('provider', route, seconds * 1000) end
end
