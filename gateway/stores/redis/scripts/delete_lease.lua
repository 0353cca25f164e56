-- Forget an owner, unless it was renewed since the judge looked. ARGV: server, owner, value seen
reach(base .. 'lease_ms')
if (call('ZSCORE', base .. 'leases', ARGV[2]) or ARGV[3]) == ARGV[3] then
  call('ZREM', base .. 'leases', ARGV[2])
  call('HDEL', base .. 'lease_ms', ARGV[2])
end
return 1
