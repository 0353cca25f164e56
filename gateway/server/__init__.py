"""The gateway over HTTP and WebSocket; Starlette lives only here."""

from gateway._internal.extras import require

require("server", "h11", "jsonschema_rs", "prometheus_client", "starlette", "uvicorn")
