"""One module for each scenario. Each yields results of this gateway and of its peers.

fan_out           one stream to 1, 100, 1,000 and 5,000 subscribers
many_streams      1,000 streams with one subscriber each
high_rate         1,000 and 5,000 records a second, throttled
catch_up          1,000 clients resume 10,000 records behind
store_appends     every store, and a remote worker
http_appends      32 clients over HTTP, and the reference server of Durable Streams
idle_connections  memory per idle connection
cold_start        import time, time until ready, installed bytes
slow_readers      latency of other readers while a tenth is slow
scaling           cost against the number of subscribers and the length of a stream
browser           10,000 records a second into a page
two_gateways      append at one gateway, read at another, over one Valkey
"""
