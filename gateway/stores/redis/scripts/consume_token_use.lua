-- Take one use of a token. ARGV: server, token, uses, expires_at_ms
local key = base .. 'spent:' .. ARGV[2]
if tonumber(call('GET', key) or 0) >= tonumber(ARGV[3]) then
  return 0
end
call('INCR', key)
call('PEXPIREAT', key, ARGV[4])
return 1
