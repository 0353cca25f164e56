-- Forget a log that belongs to no run, if it still ends where the caller has seen it end.
-- ARGV: server, owner, stream, epoch, offset
local owner, id = ARGV[2], ARGV[3]
local stream = load(owner, id)
if not stream or stream.epoch ~= ARGV[4] or stream.next ~= tonumber(ARGV[5]) then
  return 0
end
forget(owner, id)
call('ZREM', base .. 'paths', owner .. '\0' .. id)
ring(owner, id)
return 1
