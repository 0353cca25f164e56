"""One running gateway: its store, its hub, its open connections, its routes."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from gateway._internal.counters import Counters
from gateway.auth.key_files import resolve_keys
from gateway.auth.permissions import Permissions, require
from gateway.auth.secret_file import resolve_secret
from gateway.auth.verifier import Verifier
from gateway.errors import (
    NotStarted,
    RealtimeError,
    ShuttingDown,
    StoreUnavailable,
    TokenRevoked,
)
from gateway.fanout.hub import Hub
from gateway.model.network import Proxies
from gateway.sdk import stream_registry, task_registry
from gateway.sdk.session import opened, owner_of_gateway, serve_runtime
from gateway.sdk.values import input_schemas
from gateway.server.api import asyncapi, client_assets
from gateway.server.api.authentication import Authenticator
from gateway.server.api.json_body import error_response
from gateway.server.api.openapi import document
from gateway.server.api.runs import RunsApi
from gateway.server.api.tokens import TokensApi
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.durable_streams import DurableStreams
from gateway.server.durable_streams.cleanup import run_cleanup
from gateway.server.durable_streams.endpoints import ANONYMOUS, Options
from gateway.server.durable_streams.path_streams import PathStreams
from gateway.server.durable_streams.reading import ReadTimeouts
from gateway.server.ops.cluster_leases import ClusterLeases
from gateway.server.ops.drain import plan_drain
from gateway.server.ops.endpoints import OpsApi
from gateway.server.ops.local_leases import LocalLeases
from gateway.server.ops.loop_lag import measure_loop_lag
from gateway.server.ops.metrics import GatewayCollector, Metrics
from gateway.server.ops.retention_job import run_retention
from gateway.server.ops.revocation_follower import RevocationFollower
from gateway.server.ops.snapshot import Snapshot, take_snapshot
from gateway.server.query_params import allow_params
from gateway.server.request_checks import (
    client_address,
    reject,
    reject_token_in_url,
    require_origin,
)
from gateway.server.websocket import http_fallback
from gateway.server.websocket.session import WebSocketSession
from gateway.settings import Settings
from gateway.stores.base import PathStore, Store, system_clock_ms
from gateway.stores.factory import open_store
from gateway.stores.instrumented import counted

DRAIN_SHARE = 0.5  # share of the drain time in which clients get their close frames
WEBSOCKET_PATH = "/v1/ws"

LIFESPAN_NOT_RUN = (
    "this gateway was never started: the application that it is mounted in does not run its "
    'lifespan; mount it by `gateway.mount(app, "/live")`, in a Reflex app by `add_gateway(app)`'
)

_log = logging.getLogger(
    "uvicorn.error"
)  # uvicorn's logger: operators look there for the server's messages


class Gateway:
    """One running gateway: its store, its hub, its open connections.

    Args:
        settings: The settings. Nothing is opened before `run`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store: Store | None = None  # None while it is not running
        self._is_lifespan_run = False
        self._is_warned = False
        self._raw_store: Store | None = None  # the store without instrumentation
        self._hub: Hub | None = None
        self._secret_key = ""
        self._verifier: Verifier | None = None
        self._revocations: RevocationFollower | None = None
        self._sessions: dict[WebSocketSession, asyncio.Task[Any]] = {}
        self._proxies = Proxies(settings.trusted_proxies)
        self._connection_limits = ConnectionLimits(settings.limits, time.monotonic())
        # Waiting HTTP requests count like connections, but without a rate: a long-poll client sends
        # its next request as soon as records arrive.
        http_limits = replace(settings.limits, accepts_per_s=1e9)
        self._http_reader_limits = ConnectionLimits(http_limits, time.monotonic())
        self._paths: PathStreams | None = None
        self.counters = Counters()
        self._authenticator = Authenticator(self._verify, lambda: self._secret_key)
        self._runs = RunsApi(self._require_store, self._authenticator, self._count_readers)
        self._tokens = TokensApi(self._authenticator)
        self._streams = DurableStreams(
            self._require_store,
            self._require_hub,
            self._require_paths,
            self._stream_permissions,
            self._admit_reader,
            _options(settings),
            self.counters,
        )
        self._metrics = Metrics(
            GatewayCollector(
                self.counters,
                self._sessions.keys(),
                self._streams,
                lambda: self._hub,
                lambda: self._raw_store,
            )
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Open the store, serve, and close in the opposite order."""
        self._is_lifespan_run = True
        self._secret_key = resolve_secret(self.settings)
        keys = resolve_keys(replace(self.settings, secret_key=self._secret_key))
        self._verifier = Verifier(keys)
        async with AsyncExitStack() as stack:
            raw_store = open_store(self.settings.store, self.settings.retention)
            store = await stack.enter_async_context(opened(counted(raw_store, self.counters)))
            lease_s = self.settings.limits.lease_s
            runtime = await stack.enter_async_context(
                serve_runtime(
                    store,
                    keys,
                    owner=owner_of_gateway(store),
                    concurrency=self.settings.concurrency,
                    runner=self.settings.runner,
                    lease_s=lease_s,
                )
            )
            self._revocations = revocations = RevocationFollower(store, self._on_revoked)
            await revocations.start()
            stack.push_async_callback(revocations.stop)
            self._leases: LocalLeases | ClusterLeases = (
                LocalLeases(store, lease_s)
                if runtime.heartbeat is None
                else ClusterLeases(runtime.heartbeat, task_registry)
            )
            await self._leases.start()
            await stack.enter_async_context(run_retention(store))
            await stack.enter_async_context(measure_loop_lag(self.counters.loop_lag_s))
            self._hub = Hub(store, self.settings.limits.ring_bytes, counters=self.counters)
            self._store, self._raw_store = store, raw_store
            if isinstance(store, PathStore):
                self._paths = PathStreams(store, system_clock_ms)
                await stack.enter_async_context(run_cleanup(self._paths))
            if self.settings.http_open:
                _log.warning("Streams over HTTP need no token: REALTIME_HTTP_OPEN is 1")
            try:
                yield
            finally:
                await self.drain()
                await self._leases.stop()

    async def drain(self) -> None:
        """Accept no more connections, ask open ones to reconnect elsewhere, and wait for them."""
        self._store = None
        self._streams.shut_down()
        limits = self.settings.limits
        ends_at_s = self._monotonic_s() + DRAIN_SHARE * limits.drain_s
        sessions = list(self._sessions)
        random.shuffle(sessions)
        for pause_s, retry_after_s in plan_drain(
            len(sessions),
            within_s=DRAIN_SHARE * limits.drain_s / 2,
            accepts_per_s=limits.accepts_per_s,
            random=random.random,
        ):
            await asyncio.sleep(pause_s)
            for after_s in retry_after_s:
                sessions.pop().shut_down(after_s)
        if self._sessions:
            left_s = max(0.0, ends_at_s - self._monotonic_s())
            await asyncio.wait(self._sessions.values(), timeout=left_s)
        for session in tuple(self._sessions):
            session.abort("the gateway shuts down")

    def _monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def serve_websocket(self, websocket: WebSocket) -> None:
        """Serve one WebSocket until it closes."""
        address = client_address(websocket, self._proxies)
        try:
            reject_token_in_url(websocket.scope)
            require_origin(websocket, self._proxies, self.settings)
            store = self._require_store()
            self._connection_limits.accept(address, time.monotonic())
        except RealtimeError as error:
            self.counters.refusals[error.code] += 1
            await reject(websocket, error)
            return
        subjects: frozenset[str] = frozenset()
        try:
            await websocket.accept()
            session = self._new_session(websocket, store)
            try:
                await session.run()
            finally:
                subjects = session.subjects
                del self._sessions[session]
        finally:
            self._connection_limits.leave(address, subjects)

    def _new_session(self, websocket: WebSocket, store: Store) -> WebSocketSession:
        task = asyncio.current_task()
        assert task is not None
        assert self._hub is not None
        session = WebSocketSession(
            websocket,
            store=store,
            hub=self._hub,
            verify=self._verify,
            limits=self.settings.limits,
            leases=self._leases,
            name=self.settings.name,
            counters=self.counters,
            admit=self._connection_limits.admit,
            ages_at_s=self._max_age_deadline_s(),
        )
        self._sessions[session] = task
        self.counters.connections_opened += 1
        return session

    def _max_age_deadline_s(self) -> float:
        # Spread the deadlines: connections that a restart opened together would also end together.
        max_age_s = self.settings.limits.max_age_s
        return self._monotonic_s() + max_age_s * random.uniform(0.9, 1) if max_age_s else math.inf

    def _verify(self, token: object, now_s: float) -> Permissions:
        if self._verifier is None:
            raise self._not_running()
        access = self._verifier.verify(token, now_s)
        if self._revocations is not None and self._revocations.is_revoked(access):
            raise TokenRevoked("the token was revoked; get another one")
        return access

    def _knows_revocations(self) -> bool:
        return self._revocations is not None and self._revocations.is_current

    def _on_revoked(self, is_revoked: Callable[[Permissions], bool]) -> None:
        for session in tuple(self._sessions):
            session.revoked(is_revoked)
        self._streams.revalidate()

    def snapshot(self) -> Snapshot:
        """Return what the gateway does now."""
        memory = self._metrics.registry.get_sample_value("process_resident_memory_bytes")
        return take_snapshot(
            self.counters, self._hub, self._sessions, self._streams, memory, self.not_ready_reason
        )

    def may_operate(self, bearer: str) -> bool:
        """Whether a secret key or a token allows a look at all streams and connections."""
        try:
            return self._authenticator.permissions_of(bearer).may_read_metrics()
        except RealtimeError:
            return False

    @property
    def streams(self) -> DurableStreams:
        """The endpoints of streams over HTTP."""
        return self._streams

    @property
    def is_running(self) -> bool:
        """Whether it has started and does not shut down yet."""
        return self._store is not None

    @property
    def not_ready_reason(self) -> str | None:
        """Why it is not ready for clients, for a public response; None if it is ready."""
        if self._store is None:
            return "down" if self._is_lifespan_run else "never started: its lifespan was not run"
        if not self._store.is_ready:
            return "store unavailable"
        # a gateway without revocations would accept revoked tokens
        if not self._knows_revocations():
            return "revocations unheard"
        return None

    @property
    def routes(self) -> list[BaseRoute]:
        """The gateway's routes, for any Starlette application."""
        inside = OpsApi(self, self._metrics, self.settings.metrics, self._authenticator.permissions)
        return [
            WebSocketRoute(WEBSOCKET_PATH, self.serve_websocket),
            *inside.routes,
            Route("/v1/openapi.json", _describe),
            Route("/v1/asyncapi.json", _describe_frames),
            Route("/v1/schemas", allow_params(self.schemas)),
            *client_assets.ROUTES,
            http_fallback.route(self.serve_websocket, self.settings.limits, self.counters),
            *self._runs.routes,
            *self._tokens.routes,
            *self._streams.routes,
        ]

    async def schemas(self, request: Request) -> JSONResponse:
        """Return the JSON Schemas of the streams that this process and connected workers define."""
        may = self._authenticator.permissions(request).may_read_every_run()
        require(may, "read the schemas of streams; read:runs:* has it")
        return JSONResponse(
            {"streams": stream_registry.json_schemas() | input_schemas.registered()}
        )

    async def on_error(self, _: Request, error: Exception) -> JSONResponse:
        """Make the response to a rejected request."""
        assert isinstance(error, RealtimeError)
        self.counters.refusals[error.code] += 1
        return error_response(error)

    def _require_store(self) -> Store:
        if self._store is None:
            raise self._not_running()
        return self._store

    def _not_running(self) -> RealtimeError:
        if self._is_lifespan_run:
            return ShuttingDown("the gateway is not running", random.uniform(0.5, 2))
        if not self._is_warned:
            self._is_warned = True
            _log.error(LIFESPAN_NOT_RUN)
        return NotStarted(LIFESPAN_NOT_RUN)

    def _stream_permissions(self, request: Request) -> Permissions:
        if not self.settings.http_open:
            return self._authenticator.permissions(request)
        # No token is required, so the origin check alone keeps other sites' pages out.
        require_origin(request, self._proxies, self.settings)
        return ANONYMOUS

    def _admit_reader(self, request: Request, access: Permissions) -> Callable[[], None]:
        address, subjects = client_address(request, self._proxies), list[str]()
        self._http_reader_limits.accept(address, time.monotonic())
        try:
            if access.subject and not access.may_write_every_run():
                self._http_reader_limits.admit(access.subject)
                subjects.append(access.subject)
        except RealtimeError:
            self._http_reader_limits.leave(address, ())
            raise
        return lambda: self._http_reader_limits.leave(address, subjects)

    def _require_hub(self) -> Hub:
        self._require_store()
        assert self._hub is not None
        return self._hub

    def _count_readers(self, run_id: str) -> dict[str, int]:
        return self._require_hub().readers(run_id)

    def _require_paths(self) -> PathStreams:
        self._require_store()
        if self._paths is None:
            raise StoreUnavailable("this gateway's store has streams of runs only")
        return self._paths


def _options(settings: Settings) -> Options:
    limits = settings.limits
    times = ReadTimeouts(limits.long_poll_s, limits.events_s, limits.send_s)
    return Options(limits.record_bytes, times, settings.http_open)


async def _describe(_: Request) -> JSONResponse:
    return JSONResponse(document(version("realtime-streams")))


async def _describe_frames(_: Request) -> JSONResponse:
    return JSONResponse(asyncapi.document(version("realtime-streams")))
