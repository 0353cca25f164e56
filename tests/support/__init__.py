"""Helpers of the tests. Nothing here stands in for the real thing.

cancellation    a coroutine that is canceled at a suspension point of one's choice
claims          the claims of a token that is valid
cli             the command line as a process
connections     a connection's state machine, driven without a socket, a clock or a store
gateways        real gateways, in this event loop or as a process, and a real client
lanes           the lane of each test: fast or slow
large_sqlite    a SQLite store with as many runs as wanted
log_model       what streams and their followers have to be
malformed_json  JSON that only some parsers read
mutations       frames of the shared cases, and damaged copies of them
nginx           a real nginx in front of gateways
protocol_cases  the cases of the protocol, which the browser's client passes too
records         the records of a stream, read to its tail
remote_stores   a remote store, and a relay that drops its connection
requirements    marks for tests that need something of the machine
stepped_loop    an event loop whose time a test controls
store_contract  helpers of the contract tests of stores
stores          every kind of store
subscriptions   subscriptions of a client
tcp_proxy       a TCP proxy that can fall silent, slow down or cut

browser    Chromium, Reflex apps as processes, and what pages show
clients    pages, packages of npm, and TypeScript's compiler
faults     the fault suite: load, scenarios, and the check of what was seen
hostile    attacks, and the gateway that they hit
http       streams and frames over plain HTTP
processes  programs that tests start
queues     Celery and Taskiq applications, and their workers
redis      Redis and Valkey servers, alone and in groups
sdk        what the tests of the SDK and its adapters read
"""
