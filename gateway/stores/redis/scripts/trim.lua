-- Remove the oldest blocks of a stream that lie beyond what is kept.
-- ARGV: server, owner, stream, records to keep or -1, time in ms before which they may go, bytes to
--       keep or -1, how many blocks to look at
-- Gives {how many records went, whether there may be more}.
local owner, id, records, since = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local bytes, lot = tonumber(ARGV[6]), tonumber(ARGV[7])
local stream = load(owner, id)
if not stream then
  call('ZREM', base .. 'streams', owner .. '\0' .. id)
  return { 0, 0 }
end
local upto = records >= 0 and stream.next - records or 0
local excess = bytes >= 0 and stream.bytes - bytes or 0
local found, earliest, gone = call('XRANGE', key_of(owner, id, 'log'), '-', '+', 'COUNT', lot),
  stream.earliest, 0
for _, entry in ipairs(found) do
  local size, after = 0, tonumber(entry[1]:match('^(%d+)'))
  for at = 6, #entry[2], 2 do
    size = size + #entry[2][at]
  end
  if after > upto and tonumber(entry[2][2]) >= since and size > excess then
    break
  end
  earliest, excess, stream.bytes, gone = after, excess - size, stream.bytes - size, gone + 1
end
local removed = earliest - stream.earliest
if removed > 0 then
  trim(owner, id, stream, earliest)
end
return { removed, gone == lot and 1 or 0 }
