"""What a gateway tells of itself over HTTP: whether it lives, whether it is ready, its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.auth.permissions import Permissions, require
from gateway.errors import InvalidToken
from gateway.model.network import is_local_host, is_loopback
from gateway.server.ops.metrics import METRICS_PATH, Metrics
from gateway.settings import MetricsAccess

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"

# What a proxy adds to a request that comes from elsewhere.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


class GatewayStatus(Protocol):
    """What is asked of a gateway here."""

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and is not going down."""

    @property
    def unready(self) -> str | None:
        """Why it is not ready for clients, in words that a stranger may read; None: it is."""


class OpsApi:
    """The endpoints.

    Args:
        gateway: Which.
        metrics: Its own.
        allowed: Who may read these without a token.
        access: Says what a request's bearer may do.
    """

    def __init__(
        self,
        gateway: GatewayStatus,
        metrics: Metrics,
        allowed: MetricsAccess,
        access: Callable[[Request], Permissions],
    ) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._allowed = allowed
        self._access = access

    @property
    def routes(self) -> list[BaseRoute]:
        """The endpoints' paths."""
        return [
            Route(HEALTH_PATH, self.health),
            Route(READY_PATH, self.ready),
            Route(METRICS_PATH, self.metrics),
        ]

    async def health(self, _: Request) -> Response:
        """Say whether the gateway lives: if not, starting it again may help."""
        if self._gateway.is_running:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "down"}, 503)

    async def ready(self, _: Request) -> Response:
        """Say whether clients may be sent here: if not, waiting or another gateway helps."""
        # Nothing is asked of the store for this: whoever asks here is a stranger.
        unready = self._gateway.unready
        if unready is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": unready}, 503)

    async def metrics(self, request: Request) -> Response:
        """Write the metrics for Prometheus, for those who may see them."""
        if not self._is_open_to(request):
            self._require(request)
        text, content_type = self._metrics.scrape(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})

    def _is_open_to(self, request: Request) -> bool:
        has_token = "authorization" in request.headers
        if self._allowed == "open":
            return not has_token  # a token that is not good is told so, also here
        address = request.client.host if request.client is not None else ""
        return self._allowed == "local" and not has_token and is_local(address, request.headers)

    def _require(self, request: Request) -> None:
        if "authorization" not in request.headers:
            raise InvalidToken(
                "metrics need `Authorization: Bearer …` with the secret key, or a token with "
                "read:metrics:*; REALTIME_METRICS says who needs none"
            )
        require(self._access(request).may_read_metrics(), "read metrics")


def is_local(address: str, headers: Mapping[str, str]) -> bool:
    """Whether a request was made on this machine, to this machine, as far as can be told.

    A proxy on this machine gives itself away by what it adds. A page that was led here by a name
    of its own (DNS rebinding) does by that name.

    Args:
        address: Of the socket's other end.
        headers: The request's, their names in small letters.
    """
    is_forwarded = any(each in headers for each in _FORWARDED)
    return is_loopback(address) and is_local_host(headers.get("host", "")) and not is_forwarded
