-- Keep a new run, the first record of its log, its place in lists and what its sets are to be told.
-- ARGV: server, run, now, epoch, snapshot, status, owner, end, outbox, when it finished in ms or '',
--       what lists show in place of the snapshot or ''
-- Gives {'ok', outbox id}, {'exists'}, or {'void'} if the id was given up meanwhile.
local run = ARGV[2]
reach(base .. run .. ':streams', base .. 'void:' .. run, base .. 'runs', base .. 'finished',
  base .. 'outbox', indexes(ARGV[6], ARGV[7]))
if call('EXISTS', run_key(run)) == 1 then
  return { 'exists' }
end
if call('EXISTS', base .. 'void:' .. run) == 1 then
  return { 'void' }
end
call('HSET', run_key(run), 'snapshot', ARGV[5], 'end', ARGV[8], 'status', ARGV[6], 'owner', ARGV[7])
local log = writable(run, '$run', nil, ARGV[4])
enlist(run, '$run')
add(run, '$run', log, run, now_ms(ARGV[3]), { ARGV[5] }, 1, ARGV[8])
list_as(run, ARGV[11], log.next)
call('ZADD', base .. 'runs', 0, run)
index(run, ARGV[6], ARGV[7])
if ARGV[8] ~= '' then
  call('ZADD', base .. 'finished', ARGV[10] ~= '' and ARGV[10] or whole(log.time), run)
end
return { 'ok', ARGV[9] ~= '' and call('XADD', base .. 'outbox', '*', 'd', ARGV[9]) or '' }
