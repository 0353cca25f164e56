"""One WebSocket session: frames to the state machine, its commands to store and socket.

backpressure    limits requests in progress and results that wait to be sent
http_fallback   frames over plain HTTP, for networks that block WebSockets
outbound        the sending side
request_runner  runs requests, each append without a task
requests        executes one request at the store
session         the session: reader, writer, timer
subscriptions   opens, pumps and closes subscriptions
"""
