-- How the operations are called: by their name, with arguments of their own. What a Redis at its memory
-- limit, or without its replicas, lets through depends on the function that is called.

local function serve(_, args)
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  micros = clock[1] * 1000000 + clock[2]
  return ops[args[1]](unpack(args, 2))
end

redis.register_function(LIBRARY, serve)
redis.register_function { function_name = LIBRARY .. '_to_the_end', callback = serve, flags = { 'allow-oom' } }
redis.register_function { function_name = LIBRARY .. '_read', callback = serve, flags = { 'no-writes' } }
