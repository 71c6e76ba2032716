-- The timeline of a task: what happened to it, in order, for its owner to see.
--
-- It is the field `timeline` of the record, a line for each entry: milliseconds since the submit, the
-- event, and what else is to be said of it as JSON. Entries say nothing that the owner may not see:
-- no prompt, no name or address of a machine.

local FIRST_ENTRIES, MOST_ENTRIES = 16, 64

-- What stands in the place of those in the middle, which are dropped when there are too many.
local function without_middle(timeline)
  local lines = {}
  for line in timeline:gmatch('[^\n]+') do lines[#lines + 1] = line end
  if #lines < MOST_ENTRIES then return timeline end
  local at, gap = FIRST_ENTRIES + 1, 2
  local dropped = lines[at]:match('^%d+ omitted {"entries":(%d+)}$')
  if dropped then gap = dropped + 1 end
  local since = lines[at]:match('^%d+')
  table.remove(lines, at)
  lines[at] = string.format('%s omitted {"entries":%d}', since, gap)
  return table.concat(lines, '\n')
end

-- A timeline, which may be nothing yet, with what just happened to a task. `fields` may be nothing.
local function with_entry(timeline, created, event, fields)
  local line = string.format('%.0f %s', now - created, event)
  if fields and next(fields) then line = line .. ' ' .. cjson.encode(fields) end
  return timeline and without_middle(timeline) .. '\n' .. line or line
end

-- Enter it into the record. Returns the timeline as it is then.
local function note(key, event, fields)
  local created, timeline = unpack(redis.call('HMGET', key, 'created', 'timeline'))
  timeline = with_entry(timeline, created, event, fields)
  redis.call('HSET', key, 'timeline', timeline)
  return timeline
end

-- What people may know a worker by: the last part of its name, which is drawn by lot.
local function worker_id(name) return name:match('[^:]*$') end
