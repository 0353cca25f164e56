-- Forget an owner, unless it has a lease again. ARGV: server, owner
local ends = tonumber(call('ZSCORE', base .. 'leases', ARGV[2]) or 0)
if ends <= now_ms('0') then
  call('ZREM', base .. 'leases', ARGV[2])
end
return 1
