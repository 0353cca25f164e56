-- All leases. ARGV: server
-- Returns the owners with their expiry times, the oldest first; the owners with the lengths of their
-- leases in ms; and the server's time in ms.
return { call('ZRANGE', base .. 'leases', 0, -1, 'WITHSCORES'), call('HGETALL', base .. 'lease_ms'),
  whole(now_ms('0')) }
