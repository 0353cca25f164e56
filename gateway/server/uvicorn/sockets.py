"""Listening sockets with the options that a gateway wants; connections inherit them.

What a system does not have is left out: there the deadlines of the gateway itself have to do.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import ExitStack

from gateway.errors import ConfigurationError

SEND_BUFFER_BYTES = 64 << 10  # of the kernel; by default a client that never reads hides 4 MB there
UNACKNOWLEDGED_MS = 300_000  # a peer that takes no byte for so long is gone, says the kernel

_OPTIONS = (
    (socket.SOL_SOCKET, "SO_SNDBUF", SEND_BUFFER_BYTES),
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
)

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the sockets on which a gateway listens: one for each address of the host.

    Args:
        host: Name or address.
        port: 0 for any that is free, on the first address.

    Raises:
        ConfigurationError: the port is taken, or the host is none of this machine's.
    """
    with ExitStack() as opened:
        sockets, failure = [], None
        try:
            for family, address in _addresses(host, port):
                try:
                    sockets.append(opened.enter_context(_bound(family, address)))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    failure = error  # a system without IPv6 has a localhost all the same
            if not sockets and failure is not None:
                raise failure
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host} port {port}: {error.strerror or error}"
            ) from error
        opened.pop_all()
        return sockets


def _addresses(host: str, port: int) -> list[tuple[int, _Address]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses: list[tuple[int, _Address]] = list(dict.fromkeys((it[0], it[4]) for it in found))
    return addresses[:1] if port == 0 else addresses  # the others would get other ports


def _bound(family: int, address: _Address) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows it would let two servers have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for level, name, value in _OPTIONS:
            if hasattr(socket, name):
                listening.setsockopt(level, getattr(socket, name), value)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
