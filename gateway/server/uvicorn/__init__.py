"""Everything that depends on uvicorn's internals or on system calls.

These protocols parse and write without ASGI where that is the cost of a frame or an append. The
supported versions of uvicorn are bounded, and tests fail loudly when its internals change.

bulk_write              the same bytes to many sockets by one system call
fast_append             appends over HTTP without ASGI
frame_splitter          finds text frames that arrived whole
http_protocol           an HTTP protocol that can abort a connection
request_head            parses a plain request head
socket_batch            the same bytes to a group of WebSockets
sockets                 listening sockets
text_frames             encodes text frames
unauthenticated_memory  memory for unfinished messages of clients without a token
websocket_protocol      a WebSocket protocol that writes frames directly
"""
