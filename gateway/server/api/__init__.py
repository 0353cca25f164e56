"""JSON over HTTP for pages and backends, descriptions of the protocols, the JavaScript client.

asyncapi        the AsyncAPI document of the WebSocket
authentication  the bearer of a request
client_assets   serves the JavaScript client and its types
client_bundle   several ES modules as one
json_body       JSON bodies, and the response to an error
openapi         the OpenAPI document of the HTTP endpoints
runs            triggers, runs, cancellation
tokens          mints and revokes tokens
"""
