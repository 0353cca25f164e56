"""`redis:`: Redis 6.2 or later, Valkey, Redis Cluster, Sentinel; for several gateways.

leases         which processes are alive
migration      the store as source and destination of a copy
notifications  wakes followers of streams that other processes wrote
pipeline       one connection with many commands in flight, in order
retention      deletes what may be deleted, a few buckets at a time
run_sets       logs of run sets, and the outbox that feeds them
runs           runs and idempotency keys
scripts/       Lua scripts that run inside the server
store          the store
topology       which server holds a bucket
url            the parts of a Redis URL
"""
