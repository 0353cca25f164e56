-- Renew the leases of owners. Each renewal changes the value, which is what judges look at. It is
-- the time at which the lease ends by the server's clock, because the release before judges by that.
-- ARGV: server, length in ms, 'NX' for those alone that have none, owners...
local values, lengths = base .. 'leases', base .. 'lease_ms'
reach(lengths)
local ends = whole(now_ms('0') + tonumber(ARGV[2]))
for at = 4, #ARGV do
  local owner = ARGV[at]
  if ARGV[3] ~= 'NX' or not call('ZSCORE', values, owner) then
    if call('ZADD', values, 'CH', ends, owner) == 0 then
      call('ZINCRBY', values, 1, owner) -- the clock was set back by what had passed
    end
    call('HSET', lengths, owner, ARGV[2])
  end
end
return 1
