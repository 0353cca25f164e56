"""The gateway as a Starlette application, and the server that runs it.

May import every room but `integrations` and `cli`.

    app                 the Starlette application: routes, CORS, errors
    connection_limits   rate and number of connections for an address or a subject
    entity_tags         conditional requests
    fast_path           what the endpoint of appends and `uvicorn/` share
    gateway             one running gateway: store, hub, connections, routes
    mount               a gateway inside another application
    query_params        query parameters
    request_checks      origin, address and URL of a request
    serve               uvicorn with the settings that a gateway needs
    streaming_response  a response that lasts, sent piece by piece

    api/                JSON over HTTP: runs, tokens, descriptions, the JavaScript client
    durable_streams/    the Durable Streams protocol over HTTP
    ops/                health, metrics, logs, leases, retention, drain
    uvicorn/            protocols and system calls inside uvicorn
    websocket/          WebSocket sessions
"""

from gateway._internal.extras import require

require("server", "h11", "jsonschema_rs", "prometheus_client", "starlette", "uvicorn")
