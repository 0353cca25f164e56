-- A run, its version (records in its log), the log's epoch, and what the log remembers of a writer.
-- ARGV: server, run, writer or ''
local run = ARGV[2]
local snapshot = call('HGET', run_key(run), 'snapshot')
local log = load(run, '$run')
if not snapshot or not log then
  return false
end
local state = ARGV[3] ~= '' and writer_state(run, '$run', ARGV[3])
return { snapshot, log.next, log.epoch, state and { state.epoch, state.next, state.last } or false }
