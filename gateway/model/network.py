"""Where a connection comes from: the page's origin, and the address behind proxies. No I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from gateway.errors import ConfigurationError

ANY_ORIGIN = "*"
LOOPBACK = ("127.0.0.0/8", "::1/128")
_PORTS = {"http": 80, "https": 443}

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_origins(text: str) -> tuple[str, ...]:
    """Read origins that are separated by spaces.

    Args:
        text: Each like `https://app.example` or `http://localhost:3000`; `*` is any.

    Raises:
        ConfigurationError: names what is none.
    """
    origins = tuple(text.split())
    for origin in origins:
        if origin != ANY_ORIGIN and _split(origin) is None:
            raise ConfigurationError(
                f"REALTIME_ORIGINS has {origin!r}; an origin is like https://app.example, without "
                "a path, and * is any"
            )
    return origins


def parse_proxies(text: str) -> tuple[str, ...]:
    """Read addresses or networks that are separated by spaces.

    Raises:
        ConfigurationError: names what is none.
    """
    proxies = tuple(text.split())
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            raise ConfigurationError(
                f"REALTIME_TRUSTED_PROXIES has {proxy!r}; it is an address or a network: 10.0.0.0/8"
            ) from None
    return proxies


def may_connect(origin: str | None, hosts: Iterable[str], allowed: Iterable[str]) -> bool:
    """Whether a page of an origin may open a connection.

    Args:
        origin: The header; None without a browser, which alone has cookies or pages to abuse.
        hosts: Under which names the gateway was asked for: a page from there is its own.
        allowed: Further origins; `*` is any.
    """
    if origin is None or ANY_ORIGIN in (allowed := tuple(allowed)):
        return True
    asked = _split(origin)
    if asked is None:  # `null`: a file, or a frame in a sandbox
        return False
    # The scheme is left to the page: a proxy may have taken the TLS off on the way here.
    own = {_host(host, asked[0]) for host in hosts}
    return asked[1:] in own or asked in {_split(each) for each in allowed}


def _split(origin: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(origin)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    beyond = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if not parts.hostname or port is None or beyond or "," in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port


def _host(host: str, scheme: str) -> tuple[str, int] | None:
    split = _split(f"{scheme}://{host}")
    return split[1:] if split else None


class Proxies:
    """The proxies that may say on whose behalf they come.

    Args:
        trusted: Their addresses or networks.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in trusted]

    def trusts(self, address: str) -> bool:
        """Whether what this one says of others is believed."""
        parsed = _address(address)
        return parsed is not None and any(_is_in(parsed, network) for network in self._trusted)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address that a connection comes from.

        Args:
            peer: At the socket's other end.
            forwarded_for: `X-Forwarded-For`, to which each proxy appends whom it heard from.

        Returns:
            The last address that is no trusted proxy; a client may have forged those before it.
        """
        address = peer
        for hop in reversed((forwarded_for or "").split(",")):
            if not self.trusts(address):
                break
            parsed = _address(_without_port(hop.strip()))
            if parsed is None:
                break
            address = str(parsed)
        return address


def is_loopback(address: str) -> bool:
    """Whether an address is one of this machine's own, which no other can reach."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


def is_local_host(host: str) -> bool:
    """Whether a `Host` header names this machine as only itself can: localhost, 127.0.0.1."""
    split = _host(host, "http")
    return split is not None and (split[0] == "localhost" or is_loopback(split[0]))


def counted_as(address: str) -> str:
    """Return what connections are counted by: of IPv6 the /64, which one customer has whole."""
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: _Network) -> bool:
    return address.version == network.version and address in network


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
