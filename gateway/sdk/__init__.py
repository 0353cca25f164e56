"""What a user of the library imports.

streams      typed streams: definitions (what they carry), registry, writer (the queue before
the store), schemas and typescript (told to clients); schema_checks (a value by a schema),
schema_cost (how long that takes at most)
values       a type's values as JSON and back, equal: value_types (what a type needs for that),
value_equality (whether a value is what was read back); names (lists what is known)
inputs, wait    what a page or backend tells a run; waiting in the middle of a task
tasks        functions whose executions are runs: options, signatures (arguments and result),
results, queues (who executes), triggering (a run is made and begun, or not at all)
metadata     of a run, and metadata_writer
parts        of an AI answer, and assembler; part_limits (what a record cannot carry)
runs         as a backend sees them: following, canceling

session      `connect()`, over runtime: what the SDK works with in one process, on its event loop
plain_code   twins for code without an event loop, over background: a runtime in a thread
bridge       carries what is awaited on another event loop there; forks (what a child may not)
runner       executes runs: execution (one run), ending (how it ends), slot, executing_time,
surroundings; blocking (warns of what stops the event loop)
keeper, adopting    who is alive, and what becomes of the runs of those who are not: cut_off (what
follows an attempt that ended with its process), redelivery (runs that a queue brings again)
revoking     keeps revocations
"""
