"""One WebSocket session: frames to the state machine, its commands to store and socket.

backpressure   requests in flight and results that wait to be sent
http_fallback  frames over plain HTTP, for networks that block WebSockets
outbound       the sending side
requests       carries out a client's request
session        the session
subscriptions  opens, pumps and closes subscriptions
"""
