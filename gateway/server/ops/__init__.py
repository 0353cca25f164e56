"""Operations: health, metrics, logs; and the background jobs of a running gateway.

cluster_leases       leases where several gateways share a store
drain                closes connections in batches at shutdown
endpoints            health, readiness, metrics
local_leases         leases of workers at the only gateway of a store
log_format           log lines as text or JSON
loop_lag             how late the event loop runs
metrics              names and help of the metrics
retention_job        runs the store's retention
revocation_follower  follows revoked tokens
snapshot             what the gateway does now
"""
