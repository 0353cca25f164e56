"""A gateway inside another Starlette or FastAPI application: `gateway.mount(app, "/live")`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute

from gateway.errors import ConfigurationError
from gateway.sdk.session import connect
from gateway.server.app import make_app
from gateway.server.gateway import Gateway
from gateway.settings import Settings

_PREFIX = re.compile(r"(?:/[\w.~-]+)+/?", re.ASCII)


def mount(app: Starlette, path: str, settings: Settings | None = None) -> Gateway | None:
    """Mount a gateway in a Starlette or FastAPI application, and run it with the application.

    Starlette does not run the lifespan of a mounted application. This function does: the gateway
    starts before the application's lifespan and stops after it, so that both the lifespan and
    the views may use tasks and streams without `connect()`. Clients name the gateway by its path:
    `https://example.com/live`.

    With `REALTIME_URL` set, nothing is mounted: this application uses the gateway at that address,
    and pages have to name it.

    Args:
        app: The application, before it is served.
        path: The prefix of the gateway's URLs, for example `/live`.
        settings: The gateway's settings; default: the environment's.

    Returns:
        The gateway; None if this application uses a gateway elsewhere.

    Raises:
        ConfigurationError: the path is not a prefix; `/` would hide routes that are added later.
    """
    if not _PREFIX.fullmatch(path):
        raise ConfigurationError(f"the path is {path!r}; it is a prefix like '/live'")
    settings = settings or Settings.from_env()
    if settings.url is not None:
        _run_with(app, connected_to(settings.url))
        return None
    gateway = Gateway(settings)
    app.mount(path.rstrip("/"), make_app(gateway), name="realtime")
    _run_with(app, gateway.run)
    return gateway


def _run_with(app: Starlette, run: Callable[[], AbstractAsyncContextManager[None]]) -> None:
    """Run a context around the application's lifespan."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Any]:
        async with run(), inner(app) as state:
            yield state

    app.router.lifespan_context = lifespan


def connected_to(url: str) -> Callable[[], AbstractAsyncContextManager[None]]:
    """Make a context in which this process uses the gateway at a URL."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        async with connect(url):
            yield

    return connected


def under(prefix: str, routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """Move a gateway's routes under a prefix; other routes may use other paths below it."""
    return [_moved(prefix, route) for route in routes]


def _moved(prefix: str, route: BaseRoute) -> BaseRoute:
    if isinstance(route, WebSocketRoute):
        return WebSocketRoute(prefix + route.path, route.endpoint)
    assert isinstance(route, Route)
    return Route(prefix + route.path, route.endpoint, methods=list(route.methods or ()) or None)
