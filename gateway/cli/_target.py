"""The target of a command: a gateway, or a store that the command opens itself.

With `--url` or `REALTIME_URL` a command is a client of that gateway. Without, it opens the store as
its only owner. If a gateway has the store open, the error names the option to use instead. A
command that opens a store executes no runs: queued runs stay queued.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

import typer

from gateway import tokens
from gateway.auth.key_files import resolve_keys
from gateway.errors import ConfigurationError, StoreLocked, StoreUnavailable
from gateway.model.store_urls import sqlite_file
from gateway.sdk.session import WORKER_SCOPES, opened
from gateway.settings import Settings
from gateway.stores.base import Store
from gateway.stores.factory import open_store
from gateway.stores.remote.connection import without_login
from gateway.stores.remote.store import RemoteStore, gateway_url
from gateway.stores.sqlite.file_lock import SqliteLock

LOCAL_URL = "ws://127.0.0.1:8400"
TOKEN_TTL_S = 3600.0  # renewed while the command executes
CONNECT_TIMEOUT_S = 5.0

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help=f"Address of a running gateway, such as {LOCAL_URL}; default REALTIME_URL."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="Access token for the gateway; default REALTIME_TOKEN, else one minted by the secret.",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Store to open, sqlite:PATH or redis://…; default REALTIME_STORE or"
        " sqlite:.realtime/realtime.db.",
    ),
]


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway or the store on which a command operates.

    Attributes:
        settings: Settings of the environment, overridden by the command line. `url` is the gateway;
            if it is None, the command opens the store.
        token: Access token for the gateway. If it is None, the command mints one by the secret.
    """

    settings: Settings
    token: str | None = None

    @classmethod
    def from_options(cls, url: str | None, token: str | None, store: str | None) -> Target:
        """Combine the options of the command line with the environment.

        Raises:
            ConfigurationError: a token is given, but no gateway.
        """
        logging.basicConfig(format="realtime: %(message)s")  # for example of a lost connection
        settings = load_settings(store)
        settings = replace(settings, url=url or (None if store else settings.url))
        token = token or os.environ.get("REALTIME_TOKEN")
        if token and settings.url is None:
            raise ConfigurationError(
                "a token needs a gateway: set --url or REALTIME_URL; opening a store needs no token"
            )
        return cls(settings, token or None)

    @property
    def http_url(self) -> str:
        """The gateway's address for HTTP.

        Raises:
            ConfigurationError: no gateway is set, or its URL is invalid.
        """
        if self.settings.url is None:
            raise ConfigurationError(
                f"this command needs a running gateway: set --url {LOCAL_URL} or REALTIME_URL"
            )
        parts = urlsplit(gateway_url(self.settings.url))
        scheme = {"ws": "http", "wss": "https"}[parts.scheme]
        return urlunsplit((scheme, parts.netloc, parts.path.removesuffix("/v1/ws"), "", ""))

    def token_for(self, *scopes: str) -> str:
        """Return the given token, or else mint one with these scopes.

        Raises:
            ConfigurationError: there is neither a token nor a secret.
        """
        if self.token is not None:
            return self.token
        try:
            keys = resolve_keys(self.settings)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{error.message}; or set a token, by REALTIME_TOKEN or --token"
            ) from None
        return tokens.mint(scopes, ttl_s=TOKEN_TTL_S, keys=keys)

    @asynccontextmanager
    async def store(
        self, *, owner: str | None = None, create: bool = False
    ) -> AsyncIterator[Store]:
        """Open the store, or a remote store of the gateway, for a block.

        Args:
            owner: Owner of the runs that the gateway keeps alive for this connection.
            create: Create a missing SQLite store.

        Raises:
            StoreUnavailable: the gateway does not respond, or the file is damaged.
            StoreLocked: a gateway or worker owns the store.
            ConfigurationError: the store does not exist.
        """
        url = self.settings.url
        if url is None:
            check_store_available(self.settings.store, create)
            async with opened(open_store(self.settings.store, self.settings.retention)) as store:
                yield store
            return
        self.token_for(*WORKER_SCOPES)  # fails early if there is no valid secret
        await check_reachable(url)
        remote = RemoteStore(url, lambda: self.token_for(*WORKER_SCOPES), owner=owner)
        async with opened(remote) as store:
            yield store


def load_settings(store: str | None) -> Settings:
    """Read the settings from the environment; `store` overrides `REALTIME_STORE`."""
    settings = Settings.from_env()
    return replace(settings, store=store) if store else settings


async def check_reachable(url: str) -> None:
    """Check that the gateway accepts connections; a remote store would retry for minutes.

    Raises:
        StoreUnavailable: it does not, within `CONNECT_TIMEOUT_S`.
    """
    parts = urlsplit(gateway_url(url))
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise StoreUnavailable(
            f"no gateway at {without_login(url)} ({reason}): start one with "
            "`realtime serve`, or set another one by --url"
        ) from None


def check_store_available(url: str, create: bool = False) -> None:
    """Check that this process can open a store, without waiting for its lock.

    Args:
        url: The store's URL.
        create: Accept a missing SQLite file, which will be created.

    Raises:
        StoreLocked: a gateway or worker owns the store; the message names the option to use.
        ConfigurationError: the store does not exist.
    """
    if url.startswith("memory:"):
        raise ConfigurationError(
            "the store memory: exists only in its gateway's process: set --url or REALTIME_URL"
        )
    if not url.startswith("sqlite:"):
        return
    path = sqlite_file(url)
    if create and not path.exists():
        return
    if not path.exists():
        raise ConfigurationError(
            f"there is no store {path}: set --store, or a gateway by --url {LOCAL_URL}"
        )
    try:
        lock = SqliteLock(path)
        lock.acquire(0)
        lock.release()
    except TimeoutError:
        raise StoreLocked(
            f"the store {path} is in use by a gateway or worker: connect to the gateway, by"
            f" --url {LOCAL_URL} (the default of `realtime serve`) or its other address"
        ) from None
    except OSError:
        pass  # opening the store reports the problem
