"""JSON over HTTP for pages and backends, descriptions of the protocols, the JavaScript client.

asyncapi       the AsyncAPI document of the WebSocket
client_assets  serves the JavaScript client and its types
client_bundle  several ES modules as one
openapi        the OpenAPI document of the HTTP endpoints
runs           triggers, runs, cancellation, tokens
"""
