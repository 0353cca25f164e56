-- A run as lists show it, and its version (the number of records in its log).
-- ARGV: server, run, the largest snapshot in bytes that is returned whole
-- Returns the version and the JSON; '' for a larger snapshot without a shortened copy.
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
