"""The gateway as a Starlette application, and its lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.errors import RealtimeError
from gateway.server.durable_streams.headers import ANSWER_HEADERS, REQUEST_HEADERS
from gateway.server.gateway import Gateway
from gateway.settings import Settings


async def _end(_: Request, __: Exception) -> Response:
    """End a request whose client disconnected during its body; no client reads this."""
    return Response(status_code=400)


def make_app(gateway: Gateway, *, cors: bool = True) -> Starlette:
    """Make the application of a gateway that the caller runs.

    Args:
        gateway: The gateway; the caller enters `gateway.run()`.
        cors: Allow pages of the settings' origins to use HTTP. If false, the surrounding
            application decides.
    """
    origins = list(gateway.settings.origins) if cors else []
    across = Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "PUT", "POST", "DELETE"],
        allow_headers=["authorization", "content-type", *REQUEST_HEADERS],
        expose_headers=["retry-after", *ANSWER_HEADERS],
    )
    return Starlette(
        routes=gateway.routes,
        middleware=[across] if origins else [],
        exception_handlers={RealtimeError: gateway.on_error, ClientDisconnect: _end},
    )


def create_app(settings: Settings | None = None) -> Starlette:
    """Make the gateway's application.

    Args:
        settings: The settings; default: from the environment.

    Returns:
        A Starlette application whose lifespan opens and closes the store. Starlette does not run
        the lifespan of a mounted application: inside another one use `gateway.mount`, in a Reflex
        app `gateway.integrations.reflex.add_gateway`.
    """
    gateway = Gateway(settings or Settings.from_env())
    app = make_app(gateway)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.run():
            yield

    app.router.lifespan_context = lifespan
    app.state.gateway = gateway
    return app
