-- Append to a stream: offset, idempotency, order, end and the announcement of a new stream as one.
-- ARGV: server, owner, stream, now, epoch, source, end, whether it belongs to a run, announcement
--       or '', index of new streams or '', how many records to keep at least or -1, '1' and an
--       order or '0' and '', writer or '', its epoch, its sequence, what it counts, records...
-- Gives {'ok', epoch, next, first}, {'repeat', epoch, next, first or '', writer's next sequence},
--       {'absent'}, {'ended', why}, {'order', last} or {'writer', epoch, sequence, offset} (of one
--       that is to be refused).
local owner, id, now = ARGV[2], ARGV[3], now_ms(ARGV[4])
local source, ended, in_run, announcement, list = ARGV[6], ARGV[7], ARGV[8] == '1', ARGV[9], ARGV[10]
local keep, has_order, order = tonumber(ARGV[11]), ARGV[12] == '1', ARGV[13]
local writer, epoch, sequence = ARGV[14], tonumber(ARGV[15]), tonumber(ARGV[16])
local counts_appends = ARGV[17] == 'appends'
local records = {}
for at = 18, #ARGV do
  records[at - 17] = ARGV[at]
end
local stream, count, skip = load(owner, id), #records, 0
if writer ~= '' then
  local state = writer_state(owner, id, writer)
  local is_known = stream and state and epoch == state.epoch
  local expected = state and epoch == state.epoch and state.next or 0
  if (state and epoch < state.epoch) or sequence > expected then
    return state and { 'writer', state.epoch, state.next, state.last } or { 'writer' }
  end
  local first = ''
  local is_repeat = is_known and sequence < expected
  if not counts_appends then
    skip = math.min(expected - sequence, count)
    is_repeat = is_known and count > 0 and skip == count
    if is_repeat and sequence + count == expected then
      first = state.last - count + 1
    end
    if is_known and count == 0 and sequence == expected and ended ~= '' then
      is_repeat = end_of(owner, stream, in_run) == ended
    end
  end
  if is_repeat then
    return { 'repeat', stream.epoch, stream.next, first, expected }
  end
end
local why = end_of(owner, stream, in_run)
if not why then
  return { 'absent' }
end
if why ~= '' then
  return { 'ended', why }
end
local last = has_order and call('HGET', key_of(owner, id, 'meta'), 'order')
if last and not is_after(order, last) then
  return { 'order', last }
end
if not stream then
  reach(key_of(owner, '$streams', 'meta'), key_of(owner, '$streams', 'log'),
    base .. owner .. ':streams', list ~= '' and base .. list or base .. 'incarnation')
  if announcement ~= '' then
    local other = ARGV[5]:sub(1, -2) .. (ARGV[5]:sub(-1) == '0' and '1' or '0')
    local names = writable(owner, '$streams', load(owner, '$streams'), other)
    add(owner, '$streams', names, owner, now, { announcement }, 1, '')
    enlist(owner, '$streams')
  end
  if in_run then
    enlist(owner, id)
  end
  if list ~= '' then
    call('ZADD', base .. list, 0, owner .. '\0' .. id)
  end
end
stream = writable(owner, id, stream, ARGV[5])
local first = stream.next
add(owner, id, stream, source, now, records, skip + 1, ended)
if has_order then
  call('HSET', key_of(owner, id, 'meta'), 'order', order)
end
if writer ~= '' then
  local next = sequence + (counts_appends and 1 or count)
  keep_writer(owner, id, writer, epoch, next, stream.next - 1)
end
if keep >= 0 and stream.next - stream.earliest > 2 * keep then
  trim(owner, id, stream, stream.next - keep)
end
return { 'ok', stream.epoch, stream.next, first }
