-- The tasks that failed last, of everybody: what an operator looks at first.

local FAILED = ours('failed')
local FAILED_KEPT = 200

-- A task has ended with `failure`, or with nothing. One that was called off is no failure.
local function remember_failure(id, failure)
  if not failure or failure.code == 'cancelled' then return end
  redis.call('LPUSH', FAILED, id)
  redis.call('LTRIM', FAILED, 0, FAILED_KEPT - 1)
end

-- failures <most>   -> the records of those that are still kept, the last one first
function ops.failures(most) return records_of(redis.call('LRANGE', FAILED, 0, most - 1)) end
