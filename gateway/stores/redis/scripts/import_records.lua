-- Add records of another store's stream, as they are; a stream that is not there begins so.
-- ARGV: server, owner, stream, epoch, offset where it ends now, whether it belongs to a run,
--       index of streams or '', end, '1' and an order or '0' and '', how many writers,
--       (writer, epoch, sequence, offset)..., (time, source, how many, records...)...
-- Gives {'ok'}, or {'elsewhere', epoch, next} if it does not end there.
local owner, id, at, list = ARGV[2], ARGV[3], tonumber(ARGV[5]), ARGV[7]
local stream = load(owner, id)
if stream and (stream.epoch ~= ARGV[4] or stream.next ~= at) then
  return { 'elsewhere', stream.epoch, stream.next }
end
reach(key_of(owner, id, 'writers'), base .. owner .. ':streams',
  list ~= '' and base .. list or base .. 'incarnation')
stream = stream or { epoch = ARGV[4], next = at, earliest = at, time = 0, bytes = 0 }
stream.incarnation = incarnation()
if ARGV[6] == '1' then
  enlist(owner, id)
end
if list ~= '' then
  call('ZADD', base .. list, 0, owner .. '\0' .. id)
end
local place = 12
for _ = 1, tonumber(ARGV[11]) do
  keep_writer(owner, id, ARGV[place], tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2]),
    tonumber(ARGV[place + 3]))
  place = place + 4
end
while place <= #ARGV do
  local count, records = tonumber(ARGV[place + 2]), {}
  for n = 1, count do
    records[n] = ARGV[place + 2 + n]
  end
  add(owner, id, stream, ARGV[place + 1], tonumber(ARGV[place]), records, 1, '')
  place = place + 3 + count
end
stream.ended = ARGV[8]
save(owner, id, stream)
if ARGV[9] == '1' then
  call('HSET', key_of(owner, id, 'meta'), 'order', ARGV[10])
end
return { 'ok' }
