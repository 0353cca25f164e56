-- Keep a change of a run that was worked out from a version of it, unless it has changed since.
-- ARGV: server, run, now, epoch, version, snapshot, patch, status, owner, end, outbox,
--       writer or '', its epoch, its sequence, when it finished in ms or '',
--       what lists show in place of the snapshot or ''
-- Gives {'ok', outbox id}, {'changed'}, {'ended', why} or {'absent'}.
local run, status, owner, ended = ARGV[2], ARGV[8], ARGV[9], ARGV[10]
local log = load(run, '$run')
local was = call('HMGET', run_key(run), 'status', 'owner')
if not log or not was[1] then
  return { 'absent' }
end
if log.next ~= tonumber(ARGV[5]) then
  return { 'changed' }
end
if log.ended ~= '' then
  return { 'ended', log.ended }
end
local old_status, old_owner = indexes(was[1], was[2])
reach(base .. 'outbox', base .. 'finished', key_of(run, '$run', 'writers'), old_status, old_owner,
  indexes(status, owner))
log = writable(run, '$run', log, ARGV[4])
add(run, '$run', log, run, now_ms(ARGV[3]), { ARGV[7] }, 1, ended)
call('HSET', run_key(run), 'snapshot', ARGV[6], 'end', ended, 'status', status, 'owner', owner)
list_as(run, ARGV[16], log.next)
if status ~= was[1] or owner ~= was[2] then
  unindex(run, was[1], was[2])
  index(run, status, owner)
end
if ARGV[12] ~= '' then
  keep_writer(run, '$run', ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14]) + 1, log.next - 1)
end
if ended ~= '' then
  call('ZADD', base .. 'finished', ARGV[15] ~= '' and ARGV[15] or whole(log.time), run)
  ring(run, '') -- all its streams have ended, also those that do not exist yet
end
return { 'ok', ARGV[11] ~= '' and call('XADD', base .. 'outbox', '*', 'd', ARGV[11]) or '' }
