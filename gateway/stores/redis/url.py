"""Parse the URL of a Redis or Valkey store.

    redis://user:password@host:6379/0            one server
    redis+sentinel://user:password@a:26379,b:26379/mymaster?sentinel_password=…
    redis+cluster://user:password@a:6379,b:6379

With `rediss` in place of `redis`, all connections use TLS, with the options `ssl_ca_certs`,
`ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs` and `ssl_check_hostname` of the library `redis`.
Options of the store: `prefix` is the prefix of its keys; `wait` is the number of replicas that must
have a write before it is acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from gateway._internal.extras import needs
from gateway.errors import ConfigurationError

with needs("redis"):
    from redis.asyncio.connection import AbstractConnection, Connection, parse_url

DEFAULT_PREFIX = "rt"
_OF_THE_CONNECTION = frozenset(
    {
        "db",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_cert_reqs",
        "ssl_check_hostname",
    }
)
_OF_THE_STORE = frozenset({"prefix", "wait", "sentinel_username", "sentinel_password"})


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL.

    Attributes:
        kind: Kind of the servers at the addresses.
        addresses: Host and port of one server, of the sentinels, or of some servers of a cluster.
        service: The master's name in the configuration of the sentinels.
        connection: Class of a connection to a server.
        options: Keyword arguments of a connection to a server, including the password.
        sentinel_options: Keyword arguments of a connection to a sentinel.
        prefix: Prefix of all keys.
        wait: Number of replicas that must have a write before it is acknowledged.
    """

    kind: Literal["server", "sentinel", "cluster"]
    addresses: tuple[tuple[str, int], ...]
    service: str
    connection: type[AbstractConnection] = Connection
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)
    prefix: str = DEFAULT_PREFIX
    wait: int = 0

    def __str__(self) -> str:
        """Return the servers' addresses, without secrets."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"redis {hosts}" + (f" ({self.kind})" if self.kind != "server" else "")

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Parse a URL.

        Raises:
            ConfigurationError: the URL is wrong. The message does not contain the password.
        """
        try:
            return _parse(url)
        except ValueError as error:
            raise ConfigurationError(f"the store redis: has a URL that is wrong: {error}") from None


def _parse(url: str) -> RedisUrl:
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind not in ("", "sentinel", "cluster"):
        raise ValueError(f"{parts.scheme}:// is not known")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := options.keys() - _OF_THE_CONNECTION - _OF_THE_STORE:
        raise ValueError(f"no option {', '.join(sorted(unknown))}")
    login, _, hosts = parts.netloc.rpartition("@")
    addresses = tuple(
        _address(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(",")
    )
    if kind != "sentinel" and kind != "cluster" and len(addresses) > 1:
        raise ValueError("more than one address needs redis+sentinel:// or redis+cluster://")
    service = unquote(parts.path.strip("/")) if kind == "sentinel" else ""
    if kind == "sentinel" and not service:
        raise ValueError("redis+sentinel:// needs the name of the master as its path")
    path = parts.path if not kind else ""
    of_connection = {name: options[name] for name in options.keys() & _OF_THE_CONNECTION}
    kwargs: dict[str, Any] = dict(
        parse_url(f"{scheme}://{login}@localhost{path}?{urlencode(of_connection)}")
    )
    kwargs.pop("host", None)
    connection = kwargs.pop("connection_class", Connection)
    if kind == "cluster" and kwargs.get("db"):
        raise ValueError("a cluster has no db but 0")
    return RedisUrl(
        kind or "server",  # type: ignore[arg-type]
        addresses,
        service,
        connection,
        kwargs,
        _sentinel_options(options, kwargs),
        _prefix(options.get("prefix", DEFAULT_PREFIX)),
        _replicas(options.get("wait", "0")),
    )


def _address(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or default_port


def _sentinel_options(options: dict[str, str], kwargs: dict[str, Any]) -> dict[str, Any]:
    tls = {name: value for name, value in kwargs.items() if name.startswith("ssl_")}
    login = {
        name: options[f"sentinel_{name}"]
        for name in ("username", "password")
        if f"sentinel_{name}" in options
    }
    return tls | login


def _prefix(text: str) -> str:
    if not text or any(character in text for character in "{}: \t\r\n"):
        raise ValueError(f"prefix {text!r} is empty or has a brace, a colon or a space")
    return text


def _replicas(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"wait is {text!r}; it is a number of replicas")
    return int(text)
