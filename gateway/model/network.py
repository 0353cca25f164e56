"""Check the origin of a page, and find a client's address behind proxies. No I/O."""

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
    """Parse origins that are separated by spaces.

    Args:
        text: Origins such as `https://app.example` or `http://localhost:3000`; `*` allows any.

    Raises:
        ConfigurationError: names the part that is not an origin.
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
    """Parse addresses or networks that are separated by spaces.

    Raises:
        ConfigurationError: names the part that is neither an address nor a network.
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
        origin: The `Origin` header. None means that the client is not a browser; only browsers have
            cookies or pages that an attacker can abuse.
        hosts: Host names under which the gateway was requested; pages of these hosts are allowed.
        allowed: Further origins; `*` allows any.
    """
    if origin is None or ANY_ORIGIN in (allowed := tuple(allowed)):
        return True
    asked = _split(origin)
    if asked is None:  # `null`: a local file or a sandboxed frame
        return False
    # The scheme is not compared: a proxy may have terminated TLS.
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
    """The proxies that are trusted to name the client's address.

    Args:
        trusted: Addresses or networks of the proxies.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in trusted]

    def trusts(self, address: str) -> bool:
        """Whether an address belongs to a trusted proxy."""
        parsed = _address(address)
        return parsed is not None and any(_is_in(parsed, network) for network in self._trusted)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return the client's address of a connection.

        Args:
            peer: Address of the socket's peer.
            forwarded_for: The header `X-Forwarded-For`, to which each proxy appends its peer.

        Returns:
            The last address that is not a trusted proxy; a client may have forged earlier ones.
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
    """Whether an address is a loopback address, which only this machine can reach."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


def is_local_host(host: str) -> bool:
    """Whether a `Host` header is `localhost` or a loopback address."""
    split = _host(host, "http")
    return split is not None and (split[0] == "localhost" or is_loopback(split[0]))


def counted_as(address: str) -> str:
    """Return the key for connection limits: an IPv6 client's /64, which one customer holds."""
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
