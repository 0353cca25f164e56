"""Create the store that a URL names. Redis is imported only when a URL names it."""

from __future__ import annotations

from gateway.errors import ConfigurationError
from gateway.model.retention import KEEP_ALL, Retention
from gateway.model.store_urls import is_redis, sqlite_path
from gateway.stores.base import Store
from gateway.stores.memory import MemoryStore
from gateway.stores.migration import CopyableStore
from gateway.stores.sqlite.migration import MovableSqliteStore
from gateway.stores.sqlite.store import SqliteStore


def open_store(url: str, retention: Retention = KEEP_ALL) -> Store:
    """Create the store that a URL names. The caller opens it.

    Args:
        url: As in `REALTIME_STORE`.
        retention: Which records and runs the store may delete.

    Raises:
        ConfigurationError: the URL names no known store.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory":
        return MemoryStore(retention=retention)
    if scheme == "sqlite":
        path, options = sqlite_path(rest)
        durability = options.get("durability", "full")
        return SqliteStore(path, durability=durability, retention=retention)  # type: ignore[arg-type]
    if is_redis(url):
        return _redis_store(url, retention)
    raise ConfigurationError(
        f"the store {scheme + ':'!r} is not known: use sqlite:PATH, memory: or redis://HOST:PORT/0 "
        "(a worker names a gateway elsewhere by REALTIME_URL)"
    )


def open_movable_store(url: str) -> CopyableStore:
    """Create a store that can be the source or target of a copy. The caller opens it.

    The store has no retention, so a copy deletes nothing.

    Args:
        url: As in `REALTIME_STORE`.

    Raises:
        ConfigurationError: the URL names no known store, or one that cannot be copied.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        path, options = sqlite_path(rest)
        return MovableSqliteStore(path, durability=options.get("durability", "full"))  # type: ignore[arg-type]
    if is_redis(url):
        from gateway.stores.redis.migration import MovableRedisStore

        return MovableRedisStore(url)
    raise ConfigurationError(
        f"the store {scheme + ':'!r} cannot be copied: sqlite:PATH and redis://HOST:PORT/0 can"
    )


def _redis_store(url: str, retention: Retention) -> Store:
    from gateway.stores.redis.store import RedisStore

    return RedisStore(url, retention=retention)
