"""The servers that are measured, each started as its own documentation says.

servers            how each server is started and spoken to, this gateway included
by_stream          the same for many streams on one server
redis_servers      Valkey processes for the stores on Redis
broadcast          a server of `websockets.broadcast`
starlette_queue    a server of Starlette with a queue for each connection
starlette_streams  the same with many streams
socket_io          a server of python-socketio

The peers that are not Python: `floor.c`, an epoll loop, and `durable_streams.mjs`.
"""
