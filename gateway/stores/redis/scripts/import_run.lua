-- Keep a run of another store, whose log is there already, its place in lists and what its sets
-- are to be told.
-- ARGV: server, run, snapshot, status, owner, end, outbox, when it finished in ms or '',
--       what lists show in place of the snapshot or ''
-- Gives the outbox id, or '' if there is nothing to tell.
local run, status, owner, ended = ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local was = call('HMGET', run_key(run), 'status', 'owner')
reach(base .. 'runs', base .. 'finished', base .. 'outbox', indexes(status, owner))
if was[1] then
  reach(indexes(was[1], was[2]))
  unindex(run, was[1], was[2])
end
call('HSET', run_key(run), 'snapshot', ARGV[3], 'end', ended, 'status', status, 'owner', owner)
list_as(run, ARGV[9], load(run, '$run').next)
call('ZADD', base .. 'runs', 0, run)
index(run, status, owner)
if ended ~= '' then
  call('ZADD', base .. 'finished', ARGV[8] ~= '' and ARGV[8] or whole(load(run, '$run').time), run)
end
return ARGV[7] ~= '' and call('XADD', base .. 'outbox', '*', 'd', ARGV[7]) or ''
