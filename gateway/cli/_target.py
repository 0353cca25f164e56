"""How a command reaches streams and runs: through a gateway, or the store itself.

With `--url` or `REALTIME_URL` a command is a client of that gateway. Without, it opens the store
itself, as its only owner; where a gateway has it open, the error says how to name that one. A
command that opens a store executes nothing: what was queued there stays so.
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
TOKEN_TTL_S = 3600.0  # renewed for as long as the command goes on
CONNECT_TIMEOUT_S = 5.0

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help=f"The running gateway, {LOCAL_URL} for example; default REALTIME_URL."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="The gateway's access token; default REALTIME_TOKEN, else one is made of the secret.",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store itself, sqlite:PATH or redis://…; default REALTIME_STORE or"
        " sqlite:.realtime/realtime.db.",
    ),
]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a command works.

    Attributes:
        settings: The environment's, with what the command line says; `url` is the gateway, None:
            the store is opened.
        token: Shown to the gateway; None: one is made of the secret.
    """

    settings: Settings
    token: str | None = None

    @classmethod
    def of(cls, url: str | None, token: str | None, store: str | None) -> Target:
        """Put together what the command line and the environment say.

        Raises:
            ConfigurationError: they do not fit each other.
        """
        logging.basicConfig(format="realtime: %(message)s")  # a connection that is lost, and so on
        settings = settings_of(store)
        settings = replace(settings, url=url or (None if store else settings.url))
        token = token or os.environ.get("REALTIME_TOKEN")
        if token and settings.url is None:
            raise ConfigurationError(
                "a token is for a gateway: name it by --url or REALTIME_URL; a store is opened"
                " without one"
            )
        return cls(settings, token or None)

    @property
    def http_url(self) -> str:
        """Where the gateway speaks HTTP.

        Raises:
            ConfigurationError: there is none, or its address is no address.
        """
        if self.settings.url is None:
            raise ConfigurationError(
                f"this needs a gateway that runs: name it by --url {LOCAL_URL} or REALTIME_URL"
            )
        parts = urlsplit(gateway_url(self.settings.url))
        scheme = {"ws": "http", "wss": "https"}[parts.scheme]
        return urlunsplit((scheme, parts.netloc, parts.path.removesuffix("/v1/ws"), "", ""))

    def bearer(self, *scopes: str) -> str:
        """Return the token to show; one that is made has these scopes.

        Raises:
            ConfigurationError: there is neither a token nor a secret.
        """
        if self.token is not None:
            return self.token
        try:
            keys = resolve_keys(self.settings)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{error.message}; or give a token, by REALTIME_TOKEN or --token"
            ) from None
        return tokens.mint(scopes, ttl_s=TOKEN_TTL_S, keys=keys)

    @asynccontextmanager
    async def store(self, *, owner: str | None = None, make: bool = False) -> AsyncIterator[Store]:
        """Open the store, or the gateway's, for a block.

        Args:
            owner: Name under which runs are kept alive at the gateway.
            make: Make a SQLite store that is not there.

        Raises:
            StoreUnavailable: nobody answers there, or the file is damaged.
            StoreLocked: a gateway or worker owns the store; says how to name it.
            ConfigurationError: there is no such store.
        """
        url = self.settings.url
        if url is None:
            check_own_store(self.settings.store, make)
            async with opened(open_store(self.settings.store, self.settings.retention)) as store:
                yield store
            return
        self.bearer(*WORKER_SCOPES)  # what is wrong with the secret is said before anything else
        await check_reachable(url)
        remote = RemoteStore(url, lambda: self.bearer(*WORKER_SCOPES), owner=owner)
        async with opened(remote) as store:
            yield store


def settings_of(store: str | None) -> Settings:
    """Read the environment; a store that is given takes the place of its own."""
    settings = Settings.from_env()
    return replace(settings, store=store) if store else settings


async def check_reachable(url: str) -> None:
    """Find out at once whether anybody listens there; a store would try for long.

    Raises:
        StoreUnavailable: nobody does.
    """
    parts = urlsplit(gateway_url(url))
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or str(error) or "no answer"
        raise StoreUnavailable(
            f"no gateway at {without_login(url)} ({why}): start one by "
            "`realtime serve`, or name another by --url"
        ) from None


def check_own_store(url: str, make: bool = False) -> None:
    """Find out whether a store can be opened here, before anything waits for it.

    Args:
        url: The store's.
        make: A SQLite file that is not there will be made.

    Raises:
        StoreLocked: a gateway or worker has it open; says how to name that.
        ConfigurationError: there is no such store.
    """
    if url.startswith("memory:"):
        raise ConfigurationError(
            "the store memory: is in its gateway's process: name that by --url or REALTIME_URL"
        )
    if not url.startswith("sqlite:"):
        return
    path = sqlite_file(url)
    if make and not path.exists():
        return
    if not path.exists():
        raise ConfigurationError(
            f"there is no store {path}: name one by --store, or a gateway by --url {LOCAL_URL}"
        )
    try:
        lock = SqliteLock(path)
        lock.acquire(0)
        lock.release()
    except TimeoutError:
        raise StoreLocked(
            f"the store {path} is in use by a gateway or worker: go through the gateway, by"
            f" --url {LOCAL_URL} (of `realtime serve`) or wherever it listens"
        ) from None
    except OSError:
        pass  # opening it says what is wrong
