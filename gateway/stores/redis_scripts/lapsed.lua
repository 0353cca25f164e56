-- The owners whose lease has ended, with the times. ARGV: server, how many at most
return call('ZRANGEBYSCORE', base .. 'leases', '-inf', whole(now_ms('0')), 'WITHSCORES', 'LIMIT', 0,
  ARGV[2])
