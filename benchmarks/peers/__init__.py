"""The servers that are measured, each started as its own documentation describes.

servers            how to start each server, this gateway included, and its protocol
by_stream          the protocols of servers that have many streams
redis_servers      Valkey processes for the stores on Redis
broadcast          a server of `websockets.broadcast`
starlette_queue    a server of Starlette with a queue for each connection
starlette_streams  the same with many streams
socket_io          a server of python-socketio

The peers that are not Python: `floor.c`, an epoll loop, and `durable_streams.mjs`.
"""
