"""Parse the URL of a store. `stores/redis/url.py` parses the servers in a Redis URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gateway.errors import ConfigurationError


def is_redis(url: str) -> bool:
    """Whether a store's URL names Redis or Valkey servers."""
    return url.partition(":")[0].partition("+")[0] in ("redis", "rediss")


def sqlite_path(rest: str) -> tuple[Path, dict[str, str]]:
    """Split the part after `sqlite:` into the file and its options.

    Raises:
        ConfigurationError: the path is missing, or an option is unknown.
    """
    parts = urlsplit(rest)
    path = rest.partition("?")[0].removeprefix("//")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if not path:
        raise ConfigurationError("the store sqlite: needs a path: sqlite:data/realtime.db")
    if unknown := options.keys() - {"durability"}:
        raise ConfigurationError(f"the store sqlite: has no option {', '.join(sorted(unknown))}")
    return Path(path), options


def sqlite_file(url: str) -> Path:
    """Return the file of a SQLite store's URL.

    Raises:
        ConfigurationError: it names another kind of store, which is not a file.
    """
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite":
        raise ConfigurationError(f"the store {url!r} has no file to copy; sqlite: has one")
    return sqlite_path(rest)[0]
