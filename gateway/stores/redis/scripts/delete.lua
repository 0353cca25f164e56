-- Remove a stream's records and end it.
-- ARGV: server, owner, stream, epoch, whether it belongs to a run
local owner, id = ARGV[2], ARGV[3]
local stream = load(owner, id)
if not stream and ARGV[5] == '1' and call('EXISTS', run_key(owner)) == 0 then
  return { 'absent' }
end
if not stream and ARGV[5] == '1' then
  enlist(owner, id)
end
stream = writable(owner, id, stream, ARGV[4])
stream.earliest, stream.ended, stream.bytes = stream.next, 'deleted', 0
call('DEL', key_of(owner, id, 'log'))
save(owner, id, stream)
ring(owner, id)
return { 'ok' }
