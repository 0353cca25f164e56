-- Tell a set of one change of a run: add to its log, and put the run into it or take it out.
-- ARGV: server, set, now, epoch, run, version, whether it is the whole run, what the run is to the
--       set after it ('member', 'left' or 'gone' for good), record, how many records to keep
-- Gives 'ok', 'seen' (it was told already) or 'gap' (an earlier change is missing).
local set, run, version, is_whole, after = ARGV[2], ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1', ARGV[8]
local seen = tonumber(call('HGET', base .. set .. ':seen', run) or -1)
if version <= seen or (after == 'gone' and not call('ZSCORE', base .. set .. ':members', run)) then
  return 'seen'
end
if not is_whole and seen ~= version - 1 then
  return 'gap'
end
reach(base .. 'sets')
local log = writable(set, '$runs', load(set, '$runs'), ARGV[4])
add(set, '$runs', log, set, now_ms(ARGV[3]), { ARGV[9] }, 1, '')
local keep = tonumber(ARGV[10])
if log.next - log.earliest > 2 * keep then
  trim(set, '$runs', log, log.next - keep)
end
call('HSET', base .. set .. ':seen', run, whole(version))
if after == 'member' then
  call('ZADD', base .. set .. ':members', 0, run)
else
  call('ZREM', base .. set .. ':members', run)
end
if after == 'gone' then
  call('HDEL', base .. set .. ':seen', run)
end
call('ZADD', base .. 'sets', whole(log.time), set)
return 'ok'
