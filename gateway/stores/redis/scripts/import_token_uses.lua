-- Keep uses of a token, unless more are kept. ARGV: server, token, uses, expires_at_ms
local key = base .. 'spent:' .. ARGV[2]
if tonumber(call('GET', key) or 0) < tonumber(ARGV[3]) then
  call('SET', key, ARGV[3])
  call('PEXPIREAT', key, ARGV[4])
end
return 1
