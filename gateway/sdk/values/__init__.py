"""Types as JSON: what is accepted is read back equal; JSON Schemas of it.

core_schema    what a type needs to be written and read
encoding       a type's values as JSON and back
equality       whether a value equals what was read back
input_schemas  JSON Schemas of inputs, checked at the gateway's edge
schema_checks  checks values against a JSON Schema in bounded time
schema_cost    bounds the work of a JSON Schema before it is used
signatures     a task's arguments and result
"""
