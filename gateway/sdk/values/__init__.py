"""Types as JSON: encoding, comparison after decoding, and JSON Schemas.

May import the rooms below the SDK and nothing else of it.

core_schema    how a type's values are encoded and decoded
encoding       a type's values as JSON and back
equality       compares a value with its decoded JSON
input_schemas  JSON Schemas of inputs, checked at the gateway's edge
schema_checks  checks values against a JSON Schema in bounded time
schema_cost    bounds the work of a JSON Schema before it is used
signatures     a task's arguments and result
"""
