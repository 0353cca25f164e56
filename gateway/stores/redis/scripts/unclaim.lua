-- Let go of an idempotency key that a run holds. ARGV: server, key, run
local key = base .. 'key:' .. ARGV[2]
if call('HGET', key, 'run') == ARGV[3] then
  call('DEL', key)
end
return 1
