-- Remove a run and all that it owns, unless it has changed since it was loaded.
-- ARGV: server, run, version, outbox
-- Gives {'ok', outbox id}, {'changed'} or {'absent'}.
local run = ARGV[2]
local was = call('HMGET', run_key(run), 'status', 'owner')
if not was[1] then
  return { 'absent' }
end
if load(run, '$run').next ~= tonumber(ARGV[3]) then
  return { 'changed' }
end
local keys = { base .. 'outbox', base .. 'runs', base .. 'finished', base .. 'streams' }
local ids = call('SMEMBERS', base .. run .. ':streams')
for _, id in ipairs(ids) do
  keys[#keys + 1] = key_of(run, id, 'meta')
  keys[#keys + 1] = key_of(run, id, 'log')
  keys[#keys + 1] = key_of(run, id, 'writers')
end
for at = 1, #keys, 500 do
  reach(unpack(keys, at, math.min(at + 499, #keys)))
end
reach(indexes(was[1], was[2]))
for _, id in ipairs(ids) do
  forget(run, id)
  call('ZREM', base .. 'streams', run .. '\0' .. id)
end
call('UNLINK', run_key(run), base .. run .. ':streams')
call('ZREM', base .. 'runs', run)
call('ZREM', base .. 'finished', run)
unindex(run, was[1], was[2])
ring(run, '')
return { 'ok', ARGV[4] ~= '' and call('XADD', base .. 'outbox', '*', 'd', ARGV[4]) or '' }
