"""Health, readiness and metrics over HTTP."""

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

# Headers that a proxy adds to a forwarded request.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


class GatewayStatus(Protocol):
    """What these endpoints read from a gateway."""

    @property
    def is_running(self) -> bool:
        """Whether it has started and does not shut down yet."""

    @property
    def not_ready_reason(self) -> str | None:
        """Why it is not ready for clients, for a public response; None if it is ready."""


class OpsApi:
    """The endpoints.

    Args:
        gateway: The gateway.
        metrics: Its metrics.
        allowed: Which clients may read metrics without a token.
        access: Returns the permissions of a request's bearer.
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
        """Return whether the process works; if not, a restart may help."""
        if self._gateway.is_running:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "down"}, 503)

    async def ready(self, _: Request) -> Response:
        """Return whether clients may be routed here; if not, waiting or another gateway helps."""
        # No store access: the request is not authenticated.
        not_ready_reason = self._gateway.not_ready_reason
        if not_ready_reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": not_ready_reason}, 503)

    async def metrics(self, request: Request) -> Response:
        """Return the metrics for Prometheus, if the request may read them."""
        if not self._is_open_to(request):
            self._require(request)
        text, content_type = self._metrics.scrape(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type, "cache-control": "no-store"})

    def _is_open_to(self, request: Request) -> bool:
        has_token = "authorization" in request.headers
        if self._allowed == "open":
            return not has_token  # an invalid token is an error here too
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
    """Whether a request was made on this machine, to this machine, as far as it shows.

    A proxy on this machine is recognized by the headers that it adds. A page that reached the
    gateway by DNS rebinding is recognized by its `Host`.

    Args:
        address: Address of the socket's peer.
        headers: The request's headers, names in lower case.
    """
    is_forwarded = any(each in headers for each in _FORWARDED)
    return is_loopback(address) and is_local_host(headers.get("host", "")) and not is_forwarded
