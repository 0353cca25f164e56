-- Forget the log of a set that has been empty since a time. ARGV: server, set, time in ms
local set = ARGV[2]
local log = load(set, '$runs')
if log and (call('ZCARD', base .. set .. ':members') > 0 or log.time > tonumber(ARGV[3])) then
  call('ZADD', base .. 'sets', math.max(log.time, tonumber(ARGV[3]) + 1), set) -- looked at again later
  return 0
end
forget(set, '$runs')
call('UNLINK', base .. set .. ':members', base .. set .. ':seen')
call('ZREM', base .. 'sets', set)
ring(set, '')
return 1
