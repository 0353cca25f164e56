-- Take an idempotency key for a run, unless another holds it.
-- ARGV: server, key, run, expires_at or '', expires_at_ms or '', now, a run whose claim is void or ''
-- Gives the run that holds it.
local key, run = base .. 'key:' .. ARGV[2], ARGV[3]
local held = call('HMGET', key, 'run', 'expires_at')
if held[1] and held[1] ~= ARGV[7] and (held[2] == '' or held[2] > ARGV[6]) then
  return held[1]
end
call('HSET', key, 'run', run, 'expires_at', ARGV[4])
call('PERSIST', key)
if ARGV[5] ~= '' then
  call('PEXPIREAT', key, ARGV[5])
end
return run
