"""Benchmarks of this gateway and of other servers; `python -m benchmarks` prints one table.

scenarios/        one module for each scenario
peers/            the servers that are measured: how to start each, and its protocol
results/          the results of the last complete run
load_generator    WebSocket clients on raw sockets and epoll
machine           CPU affinity, limits, and a description of the machine
report            a result, interleaved runs, and the table
plot              the plot of the results
targets           the targets and whether they are reached: `make bench-quick`
profile_delivery  where the CPU time of one delivery goes
"""
