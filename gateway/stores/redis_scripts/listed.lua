-- What lists show of a run, and the version of it (records in its log).
-- ARGV: server, run, how large a snapshot may be to be given whole
-- Gives the version and the JSON; '' for a larger snapshot that stands alone.
local run = ARGV[2]
local log = load(run, '$run')
local kept = call('HMGET', run_key(run), 'listed', 'listed_at')
local size = call('HSTRLEN', run_key(run), 'snapshot')
if size == 0 or not log then
  return false
end
if kept[1] and kept[2] == whole(log.next) then
  return { log.next, kept[1] }
end
return { log.next, size <= tonumber(ARGV[3]) and call('HGET', run_key(run), 'snapshot') or '' }
