-- Read about max_bytes of a stream from an offset on, and its head, as of one moment.
-- ARGV: server, owner, stream, whether it belongs to a run, epoch and offset of the reader's
--       position, max_bytes (-1: the head alone)
-- Gives {epoch, next, earliest, end, entries}; epoch is '' if nothing was appended yet; nothing at
-- all if there is no such run.
local owner, id, in_run = ARGV[2], ARGV[3], ARGV[4] == '1'
local offset, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local stream = load(owner, id)
local ended = end_of(owner, stream, in_run)
if not stream or not ended then
  return ended and { '', 0, 0, ended, {} }
end
local start = 0
if stream.epoch == ARGV[5] and offset <= stream.next then
  start = offset
end
start = math.max(start, stream.earliest)
local entries, size, lot = {}, 0, 8
local from = whole(start + 1) .. '-0'
while max_bytes >= 0 and start < stream.next and size < max_bytes do
  local found = call('XRANGE', key_of(owner, id, 'log'), from, '+', 'COUNT', lot)
  for _, entry in ipairs(found) do
    if #entries > 0 and size >= max_bytes then
      break
    end
    for at = 6, #entry[2], 2 do
      size = size + #entry[2][at]
    end
    entries[#entries + 1] = entry
  end
  if #found < lot then
    break
  end
  from = '(' .. found[#found][1]
  lot = math.min(1000, math.max(1, math.floor((max_bytes - size) * #entries / (size + 1))))
end
return { stream.epoch, stream.next, stream.earliest, ended, entries }
