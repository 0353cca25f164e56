-- What every script begins with.
--
-- Every key begins with the base of a bucket ("rt:{17}:"), so that all of a script lie in one slot.
-- KEYS are those that a script cannot do without: while a cluster moves a slot, it runs the script
-- only where all of them are. The names of the others are made here, from the ids in ARGV; `reach`
-- finds out before anything is written whether they are here too.
-- ARGV[1] is the id of the server process at the other end of the caller's connection.
--
-- A stream is three keys: `meta` (a hash: epoch, next, earliest, end, bytes, time, incarnation), `log` (a
-- Redis stream: one entry a block of records, its id the offset after the block, so that
-- "what is after offset n" is a range) and `writers` (a hash: id -> "epoch sequence offset").

local base, server, call = KEYS[1]:match('^.-{.-}:'), ARGV[1], redis.call
local BLOCK_RECORDS, BLOCK_BYTES = 500, 262144 -- of one entry: what a reader in its middle reads in vain

local function whole(number)
  return string.format('%.0f', number)
end

local function key_of(owner, stream, part)
  return base .. owner .. '/' .. stream .. ':' .. part
end

local function run_key(run)
  return base .. run .. ':run'
end

-- Fail now, and not when half is written, if a key is on its way to another server.
local function reach(...)
  call('EXISTS', base .. 'incarnation', ...)
end

local function now_ms(given)
  if given ~= '0' then
    return tonumber(given)
  end
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Wake those who follow streams of this owner. The hint is "stream epoch next", so that who has
-- read so far sleeps on; "stream" for what has to be looked at; '' for all streams of the owner.
local function ring(owner, hint)
  call('PUBLISH', base:match('^(.-){') .. 'bell:' .. owner, hint)
end

-- Which life of the storage this is. The server process (a restart, another server) and its
-- replication id (a promotion) name it; when either is new, the tail that was acknowledged before
-- may be gone, and every stream gets another epoch before anything is added to it.
local function incarnation()
  local id = server .. ':' .. call('INFO', 'replication'):match('master_replid:(%w+)')
  local kept = call('HMGET', base .. 'incarnation', 'id', 'number')
  if kept[1] == id then
    return kept[2]
  end
  call('HSET', base .. 'incarnation', 'id', id)
  return whole(call('HINCRBY', base .. 'incarnation', 'number', 1))
end

local function load(owner, stream)
  local meta = call('HMGET', key_of(owner, stream, 'meta'),
    'epoch', 'next', 'earliest', 'end', 'time', 'incarnation', 'bytes')
  if not meta[1] then
    return nil
  end
  return {
    epoch = meta[1], next = tonumber(meta[2]), earliest = tonumber(meta[3]), ended = meta[4],
    time = tonumber(meta[5]), incarnation = meta[6], bytes = tonumber(meta[7]),
  }
end

-- Why a stream has ended, '' if it goes on, or false if there is no such run. The end of a run is
-- that of all its streams: nothing is written to each of them.
local function end_of(owner, stream, in_run)
  if stream and stream.ended ~= '' then
    return stream.ended
  end
  if not in_run then
    return ''
  end
  return call('HGET', run_key(owner), 'end')
end

local function save(owner, id, stream)
  call('HSET', key_of(owner, id, 'meta'), 'epoch', stream.epoch, 'next', whole(stream.next),
    'earliest', whole(stream.earliest), 'end', stream.ended, 'time', whole(stream.time),
    'incarnation', stream.incarnation, 'bytes', whole(stream.bytes))
end

-- The stream to write to: a new one, or the one that is there, under the epoch that holds now.
local function writable(owner, id, stream, fresh_epoch)
  local number = incarnation()
  if not stream then
    return { epoch = fresh_epoch, next = 0, earliest = 0, ended = '', time = 0, bytes = 0,
      incarnation = number }
  end
  if stream.incarnation ~= number then
    stream.epoch, stream.incarnation = fresh_epoch, number
  end
  return stream
end

-- Note down that a run owns a stream.
local function enlist(run, id)
  call('SADD', base .. run .. ':streams', id)
end

-- Whether one text comes after another byte by byte; Lua's own comparison goes by the locale.
local function is_after(text, other)
  for at = 1, math.min(#text, #other) do
    local a, b = text:byte(at), other:byte(at)
    if a ~= b then
      return a > b
    end
  end
  return #text > #other
end

-- Add records[from..] to a stream, and its end.
local function add(owner, id, stream, source, now, records, from, ended)
  stream.time = math.max(now, stream.time)
  local at, count = from, #records
  while at <= count do
    local entry, size, start = { 'XADD', '', '', 't', whole(stream.time), 's', source }, 0, at
    repeat
      entry[#entry + 1] = 'd'
      entry[#entry + 1] = records[at]
      size, at = size + #records[at], at + 1
    until at > count or at - start >= BLOCK_RECORDS or size + #records[at] > BLOCK_BYTES
    stream.next = stream.next + at - start
    entry[2], entry[3] = key_of(owner, id, 'log'), whole(stream.next) .. '-0'
    call(unpack(entry))
    stream.bytes = stream.bytes + size
  end
  stream.ended = ended
  save(owner, id, stream)
  ring(owner, ended ~= '' and id or id .. ' ' .. stream.epoch .. ' ' .. whole(stream.next))
end

-- What a stream remembers of a writer, or nil.
local function writer_state(owner, stream, writer)
  local kept = call('HGET', key_of(owner, stream, 'writers'), writer)
  if not kept then
    return nil
  end
  local epoch, sequence, offset = kept:match('(%S+) (%S+) (%S+)')
  return { epoch = tonumber(epoch), next = tonumber(sequence), last = tonumber(offset) }
end

local function keep_writer(owner, stream, writer, epoch, sequence, last)
  call('HSET', key_of(owner, stream, 'writers'), writer,
    whole(epoch) .. ' ' .. whole(sequence) .. ' ' .. whole(last))
end

-- Forget the blocks of a stream that lie wholly before an offset.
local function trim(owner, id, stream, earliest)
  stream.earliest = earliest
  call('XTRIM', key_of(owner, id, 'log'), 'MINID', whole(earliest + 1) .. '-0')
  save(owner, id, stream)
end

-- Remove all that a stream is.
local function forget(owner, id)
  call('UNLINK', key_of(owner, id, 'meta'), key_of(owner, id, 'log'), key_of(owner, id, 'writers'))
end

-- Keep what lists show of a run that has large fields, and which version of it that is: a process
-- that does not know of this changes the run and leaves it as it was.
local function list_as(run, listed, version)
  if listed ~= '' then
    call('HSET', run_key(run), 'listed', listed, 'listed_at', whole(version))
  else
    call('HDEL', run_key(run), 'listed', 'listed_at')
  end
end

-- Where lists look for a run.
local function indexes(status, owner)
  return base .. 'status:' .. status, base .. 'owned:' .. status .. ':' .. owner
end

local function index(run, status, owner)
  for _, key in ipairs({ indexes(status, owner) }) do
    call('ZADD', key, 0, run)
  end
end

local function unindex(run, status, owner)
  for _, key in ipairs({ indexes(status, owner) }) do
    call('ZREM', key, run)
  end
end
