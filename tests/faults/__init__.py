"""What the gateway has to stand, with real processes: kills, stops, silence, slowness, crowds.

`python -m tests.faults` (or `make faults`) runs all of it for minutes; `test_faults_short.py` runs
a short form of each scenario.

    history    what was acknowledged and what each reader saw; a pure check of the two
    clients    a reader and a writer over a raw WebSocket that do what PROTOCOL.md says
    sdk_writers, lone_reader, served    processes of their own
    proxy      a TCP proxy that can fall silent, slow down or cut
    load       writers and readers around one gateway, and the history of it all
    scenarios  what is done to them
    valkey     what is done to the server of the store, and to the way there
    cluster    two gateways on one Valkey behind a real nginx, and what is done to those
"""
