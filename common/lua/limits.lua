-- What keys may do, and what they have used.
--
-- Of every key Redis keeps its open tasks by their deadline, and its use by month and by day (UTC): a
-- hash of <model>:images, :spent, :known (the part of it that is known for sure) and :unpriced (images
-- of which no price is known). Money is in millionths of a dollar.
--
-- A task is entered when it is accepted, with what it will probably cost, and put right when it ends;
-- both in the month and on the day of its acceptance. The member of the set of open tasks, which is
-- `charge` in the record as well, says what was entered: "<id> <day> <images> <millionths> <model>",
-- days since 1970, millionths -1 where no price is known.

local DAY = 24 * HOUR
local MONTH_KEPT = 430 * DAY -- from its first day: the month itself and the 13 after it
local DAY_KEPT = 8 * DAY

local function open_key(owner) return ours('open:' .. owner) end
local function requests_key(owner) return ours('requests:' .. owner) end
local function usage_key(owner, period) return ours('usage:' .. owner .. ':' .. period) end

local function whole(number) return string.format('%.0f', number) end

local function days_before(year)
  return 365 * (year - 1970) + math.floor((year - 1969) / 4) - math.floor((year - 1901) / 100)
         + math.floor((year - 1601) / 400)
end

-- The month and the date of a day, as people write them; the first day of the month and of the next.
local function calendar(day)
  local year = 1970 + math.floor(day / 366)
  while days_before(year + 1) <= day do year = year + 1 end
  local first, month = days_before(year), 1
  local february = days_before(year + 1) - first - 337
  local lengths = { 31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
  while first + lengths[month] <= day do
    first = first + lengths[month]
    month = month + 1
  end
  local name = string.format('%04d-%02d', year, month)
  return name, string.format('%s-%02d', name, day - first + 1), first, first + lengths[month]
end

-- Add to what a key has used in the month and on the day. Returns whether something was the first of its
-- kind on that day: then the sums may be new, and are told when to expire.
local function enter(owner, day, model, sums)
  local month, date, first = calendar(day)
  month, date = usage_key(owner, month), usage_key(owner, date)
  local new = false
  for name, change in pairs(sums) do
    if change ~= 0 then
      local field, by = model .. ':' .. name, whole(change)
      redis.call('HINCRBY', month, field, by)
      new = redis.call('HINCRBY', date, field, by) == change or new
    end
  end
  if new then
    redis.call('PEXPIREAT', month, whole(first * DAY + MONTH_KEPT))
    redis.call('PEXPIREAT', date, whole(day * DAY + DAY_KEPT))
  end
  return new
end

local function total(key, name)
  local sum, fields = 0, redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if fields[i]:match(':(%w+)$') == name then sum = sum + fields[i + 1] end
  end
  return sum
end

-- A bucket of `limit` requests that fills up evenly within a minute, kept as one number: when it will be
-- full again. Returns how many are in it, when it is full and how long each takes, in microseconds.
local function requests(owner, limit)
  local each = math.floor(60000000 / limit)
  local full = math.max(micros, tonumber(redis.call('GET', requests_key(owner)) or 0))
  return math.floor((limit * each - (full - micros)) / each), full, each
end

-- Take a new task in: check it against the limits of its key, and enter it. Decided before anything is
-- written: a refused task leaves no trace.
--   of terms: owner, model, images, estimate (millionths; absent when no price is known), limits,
--   deadline and retention (ms)
--   -> nil; with a limit on requests how many are left and the ms until all are; and what `charge` of the
--      record is to be
--   -> why it is refused, how much of it is used, the ms until that changes, -1 when nobody knows;
--      and with a limit on requests as above
local function admit(id, terms)
  local owner, limits, price = terms.owner, terms.limits, terms.estimate
  local day = math.floor(now / DAY)
  local month, date, _, next_month = calendar(day)
  local open = open_key(owner)
  local left, full, each
  if limits.requests_per_minute then
    left, full, each = requests(owner, limits.requests_per_minute)
  end
  local function refuse(why, used, wait)
    if not left then return { why, used, wait } end
    return { why, used, wait, math.max(0, left), math.ceil((full - micros) / 1000) }
  end
  if limits.usd_per_month and price ~= 0 then
    local spent = total(usage_key(owner, month), 'spent')
    if spent + (price or 1) > limits.usd_per_month then
      return refuse('usd_per_month', spent, next_month * DAY - now)
    end
  end
  if limits.images_per_day then
    local images = total(usage_key(owner, date), 'images')
    if images + terms.images > limits.images_per_day then
      return refuse('images_per_day', images, (day + 1) * DAY - now)
    end
  end
  if limits.tasks_in_flight then
    local tasks = redis.call('ZCOUNT', open, now, '+inf')
    if tasks >= limits.tasks_in_flight then return refuse('tasks_in_flight', tasks, -1) end
  end
  if left and left < 1 then
    local wait = full + each - limits.requests_per_minute * each - micros
    return refuse('requests_per_minute', limits.requests_per_minute, math.ceil(wait / 1000))
  end

  local charge = string.format('%s %d %d %s %s', id, day, terms.images, whole(price or -1), terms.model)
  redis.call('ZADD', open, now + terms.deadline, charge)
  redis.call('PEXPIRE', open, MONTH_KEPT)
  if enter(owner, day, terms.model, { images = terms.images, spent = price or 0,
                                      unpriced = price and 0 or terms.images }) then
    -- Records that were lost are long gone by then. What they have cost nobody knows: it stays entered.
    redis.call('ZREMRANGEBYSCORE', open, '-inf', '(' .. whole(now - terms.retention))
  end
  if not left then return nil, {}, charge end
  redis.call('SET', requests_key(owner), whole(full + each), 'PX',
             whole(math.ceil((full + each - micros) / 1000)))
  return nil, { left - 1, math.ceil((full + each - micros) / 1000) }, charge
end

-- Put right what was entered for a task, now that its record says how it ended; a task ends once. An
-- image counts, and its price, when it was bought or may have been.
--   -> the result, the failure, and what was spent
local function settle(id)
  local owner, charge, result, failure =
    unpack(redis.call('HMGET', record_key(id), 'owner', 'charge', 'result', 'failure'))
  result, failure = result and cjson.decode(result), failure and cjson.decode(failure)
  if not charge then return result, failure, 0 end
  redis.call('ZREM', open_key(owner), charge)
  local day, asked, estimate, model = charge:match('^%S+ (%d+) (%d+) (%-?%d+) (.+)$')
  day, asked, estimate = tonumber(day), tonumber(asked), tonumber(estimate)
  local unpriced = estimate < 0 and asked or 0
  estimate = math.max(0, estimate)
  local images, spent, known, priced = asked, estimate, 0, unpriced == 0
  if result then
    images = #result.images
    for _, missing in ipairs(result.missing) do
      if missing.billed ~= 'no' then images = images + 1 end
    end
    local cost, share = result.usage.cost_usd, estimate / asked
    if type(cost) == 'number' and cost >= 0 and cost < 1000000 then
      priced = true
      cost = math.floor(cost * 1000000 + 0.5)
      -- The cost may or may not have the missing ones in it: both together are no more than was expected.
      local doubtful = math.floor((images - #result.images) * share + 0.5)
      spent = math.max(cost, math.min(estimate, cost + doubtful))
      known = result.usage.cost_estimated == true and 0 or cost
    else
      spent = math.floor(images * share + 0.5)
    end
  elseif failure and failure.billed == 'no' then
    images, spent = 0, 0
  end
  enter(owner, day, model, { images = images - asked, spent = spent - estimate,
                             known = known,
                             unpriced = (priced and 0 or images) - unpriced })
  return result, failure, spent
end

-- usage <owner> <month, '' for this one> <limit on requests per minute, 0 for none>
--   -> now, open tasks, requests left (-1 without a limit), this month, today,
--      what was used this month, today, in the month that was asked for
function ops.usage(owner, asked, limit)
  local month, date = calendar(math.floor(now / DAY))
  local left = -1
  if limit ~= '0' then left = math.max(0, (requests(owner, tonumber(limit)))) end
  if asked == '' then asked = month end
  return { now, redis.call('ZCOUNT', open_key(owner), now, '+inf'), left, month, date,
           redis.call('HGETALL', usage_key(owner, month)), redis.call('HGETALL', usage_key(owner, date)),
           redis.call('HGETALL', usage_key(owner, asked)) }
end
