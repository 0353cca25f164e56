"""Embedding in a Reflex app: `add_gateway(app)` is all that is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import reflex as rx

from gateway.sdk.session import connect
from gateway.settings import Settings
from gateway.web.app import Gateway, make_app


def add_gateway(app: rx.App, settings: Settings | None = None) -> None:
    """Mount a gateway in a Reflex app, and start and stop it with the app.

    Its WebSocket is then at the Reflex backend's own address, which is where pages look for it.
    With `REALTIME_URL` set, nothing is mounted: tasks of this app work through the gateway at that
    address, and pages have to be told it (`gateway_url`).

    Args:
        app: The Reflex app, before it is run.
        settings: What the gateway runs with; default: the environment's.
    """
    settings = settings or Settings.from_env()
    if settings.url is not None:
        app.register_lifespan_task(_connected(settings.url))
        return
    gateway = Gateway(settings)
    app.api_transformer = [make_app(gateway, any_origin=False), *_transformers(app)]
    # Reflex never runs the lifespan of a mounted app, so its own has to.
    app.register_lifespan_task(gateway.run)


def _transformers(app: rx.App) -> list[Any]:
    there: Any = app.api_transformer
    if there is None:
        return []
    return list(there) if isinstance(there, list | tuple) else [there]


def _connected(url: str) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        async with connect(url):
            yield

    return connected
