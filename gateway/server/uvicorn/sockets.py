"""Listening sockets with the options of a gateway; connections inherit them.

An option that the system does not have is left out; the gateway's own deadlines still apply.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import ExitStack

from gateway.errors import ConfigurationError

# per connection, in the kernel; the default buffers up to 4 MB for a stalled client
SEND_BUFFER_BYTES = 64 << 10
UNACKNOWLEDGED_MS = 300_000  # the kernel drops a peer that acknowledges nothing for so long

_OPTIONS = (
    (socket.SOL_SOCKET, "SO_SNDBUF", SEND_BUFFER_BYTES),
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
)

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def listen(host: str, port: int) -> list[socket.socket]:
    """Open listening sockets: one for each address of the host.

    Args:
        host: Name or address.
        port: Port; 0 for a free one, on the first address only.

    Raises:
        ConfigurationError: the port is in use, or the host is not an address of this machine.
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
                    # without IPv6, `localhost` still has an IPv6 address in /etc/hosts
                    failure = error
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
    return addresses[:1] if port == 0 else addresses  # each address would get another port


def _bound(family: int, address: _Address) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows, two servers could listen on one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for level, name, value in _OPTIONS:
            if hasattr(socket, name):
                listening.setsockopt(level, getattr(socket, name), value)
        if family == socket.AF_INET6:  # IPv4 has its own socket
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
