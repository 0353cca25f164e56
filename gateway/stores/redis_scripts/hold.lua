-- Have the leases of owners end some time from now.
-- ARGV: server, in how many ms, 'NX' for those alone that have none, owners...
local ends = whole(now_ms('0') + tonumber(ARGV[2]))
for at = 4, #ARGV do
  if ARGV[3] == 'NX' then
    call('ZADD', base .. 'leases', 'NX', ends, ARGV[at])
  else
    call('ZADD', base .. 'leases', ends, ARGV[at])
  end
end
return 1
