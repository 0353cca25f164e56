"""The gateway over HTTP and WebSocket; Starlette lives only here."""
