"""Fault tests with real processes: kills, stops, pauses, lost packets, slow and vanished clients.

`python -m tests.tools.faults` (or `make faults`) runs every scenario for minutes;
`tests/e2e/faults` runs a short form of each.

    history    acknowledged records, the records that each reader received, and their comparison
    clients    a reader and a writer over a raw WebSocket, written from PROTOCOL.md
    sdk_writers, lone_reader, served    programs that run as child processes
    process    a gateway as a process, and child processes
    network    a network namespace whose packets can be dropped
    load       writers and readers of one gateway, and their history
    scenarios  faults of one gateway and of its clients
    valkey     faults of the store's server and of the network path to it
    cluster    faults of two gateways on one Valkey behind a real nginx
    large      a SQLite file of a million runs
"""
