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
from gateway.server.api.openapi import document
from gateway.server.api.runs import RunsApi, error_answer
from gateway.server.connection_limits import ConnectionLimits
from gateway.server.durable_streams import DurableStreams
from gateway.server.durable_streams.cleanup import sweeping_paths
from gateway.server.durable_streams.endpoints import OF_ANYBODY, Options
from gateway.server.durable_streams.path_streams import Paths
from gateway.server.durable_streams.reading import ReadTimeouts
from gateway.server.ops.cluster_leases import ClusterLeases
from gateway.server.ops.drain import farewells
from gateway.server.ops.endpoints import OpsApi
from gateway.server.ops.local_leases import LocalLeases
from gateway.server.ops.loop_lag import measuring_lag
from gateway.server.ops.metrics import GatewayCollector, Metrics
from gateway.server.ops.retention_job import sweeping
from gateway.server.ops.revocation_follower import RevocationFollower
from gateway.server.ops.snapshot import Snapshot, look
from gateway.server.query_params import taking
from gateway.server.request_checks import address_of, refuse, refuse_secret_url, require_origin
from gateway.server.websocket import http_fallback
from gateway.server.websocket.session import WebSocketSession
from gateway.settings import Settings
from gateway.stores.base import PathStore, Store, system_clock_ms
from gateway.stores.factory import open_store
from gateway.stores.instrumented import counted

CLIENTS_SHARE = 0.5  # of the time to go down: for clients to be told and seen off
WEBSOCKET_PATH = "/v1/ws"

LIFESPAN_NOT_RUN = (
    "this gateway was never started: the application that it is mounted in does not run its "
    'lifespan; mount it by `gateway.mount(app, "/live")`, in a Reflex app by `add_gateway(app)`'
)

_log = logging.getLogger("uvicorn.error")  # where those who look for the server's words find them


class Gateway:
    """What one gateway holds while it runs: its store, its hub, its open connections.

    Args:
        settings: What it runs with; nothing is opened before `run`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store: Store | None = None  # None: takes nothing new
        self._is_lifespan_run = False
        self._is_warned = False
        self._kept: Store | None = None  # without the counters around it
        self._hub: Hub | None = None
        self._secret_key = ""
        self._verifier: Verifier | None = None
        self._revocations: RevocationFollower | None = None
        self._carriers: dict[WebSocketSession, asyncio.Task[Any]] = {}
        self._proxies = Proxies(settings.trusted_proxies)
        self._admission = ConnectionLimits(settings.limits, time.monotonic())
        # Requests over HTTP that wait are counted like connections, but may come as often as there
        # is something to be had.
        often = replace(settings.limits, accepts_per_s=1e9)
        self._readers = ConnectionLimits(often, time.monotonic())
        self._paths: Paths | None = None
        self.counters = Counters()
        self._runs = RunsApi(
            self._open_store, self._verify, lambda: self._secret_key, self._count_readers
        )
        self._streams = DurableStreams(
            self._open_store,
            self._open_hub,
            self._open_paths,
            self._access_of_stream,
            self._admit_reader,
            _options(settings),
            self.counters,
        )
        self._metrics = Metrics(
            GatewayCollector(
                self.counters,
                self._carriers.keys(),
                self._streams,
                lambda: self._hub,
                lambda: self._kept,
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
            kept = open_store(self.settings.store, self.settings.retention)
            store = await stack.enter_async_context(opened(counted(kept, self.counters)))
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
            await stack.enter_async_context(sweeping(store))
            await stack.enter_async_context(measuring_lag(self.counters.loop_lag_s))
            self._hub = Hub(store, self.settings.limits.ring_bytes, counters=self.counters)
            self._store, self._kept = store, kept
            if isinstance(store, PathStore):
                self._paths = Paths(store, system_clock_ms)
                await stack.enter_async_context(sweeping_paths(self._paths))
            if self.settings.http_open:
                _log.warning("Streams over HTTP are open to anybody: REALTIME_HTTP_OPEN is 1")
            try:
                yield
            finally:
                await self.drain()
                await self._leases.stop()

    async def drain(self) -> None:
        """Take no more connections, tell those that are open to come back, and see them off."""
        self._store = None
        self._streams.shut_down()
        limits = self.settings.limits
        ends_at_s = self._monotonic_s() + CLIENTS_SHARE * limits.drain_s
        carriers = list(self._carriers)
        random.shuffle(carriers)
        for pause_s, retry_after_s in farewells(
            len(carriers),
            within_s=CLIENTS_SHARE * limits.drain_s / 2,
            accepts_per_s=limits.accepts_per_s,
            random=random.random,
        ):
            await asyncio.sleep(pause_s)
            for after_s in retry_after_s:
                carriers.pop().shut_down(after_s)
        if self._carriers:
            left_s = max(0.0, ends_at_s - self._monotonic_s())
            await asyncio.wait(self._carriers.values(), timeout=left_s)
        for carrier in tuple(self._carriers):
            carrier.cut("the gateway goes down")

    def _monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def serve_websocket(self, websocket: WebSocket) -> None:
        """Serve one WebSocket until it closes."""
        address = address_of(websocket, self._proxies)
        try:
            refuse_secret_url(websocket.scope)
            require_origin(websocket, self._proxies, self.settings)
            store = self._open_store()
            self._admission.accept(address, time.monotonic())
        except RealtimeError as error:
            self.counters.refusals[error.code] += 1
            await refuse(websocket, error)
            return
        subjects: frozenset[str] = frozenset()
        try:
            await websocket.accept()
            carrier = self._carrier(websocket, store)
            try:
                await carrier.run()
            finally:
                subjects = carrier.subjects
                del self._carriers[carrier]
        finally:
            self._admission.leave(address, subjects)

    def _carrier(self, websocket: WebSocket, store: Store) -> WebSocketSession:
        task = asyncio.current_task()
        assert task is not None
        assert self._hub is not None
        carrier = WebSocketSession(
            websocket,
            store=store,
            hub=self._hub,
            verify=self._verify,
            limits=self.settings.limits,
            leases=self._leases,
            name=self.settings.name,
            counters=self.counters,
            admit=self._admission.admit,
            ages_at_s=self._ages_at_s(),
        )
        self._carriers[carrier] = task
        self.counters.connections_opened += 1
        return carrier

    def _ages_at_s(self) -> float:
        # Not all at once: those that came together after a restart would also leave together.
        max_age_s = self.settings.limits.max_age_s
        return self._monotonic_s() + max_age_s * random.uniform(0.9, 1) if max_age_s else math.inf

    def _verify(self, token: object, now_s: float) -> Permissions:
        if self._verifier is None:
            raise self._not_running()
        access = self._verifier.verify(token, now_s)
        if self._revocations is not None and self._revocations.is_revoked(access):
            raise TokenRevoked("the token was revoked; another one is needed")
        return access

    def _hears_revocations(self) -> bool:
        return self._revocations is not None and self._revocations.is_hearing

    def _on_revoked(self, is_revoked: Callable[[Permissions], bool]) -> None:
        for carrier in tuple(self._carriers):
            carrier.revoked(is_revoked)
        self._streams.recheck()

    def figures(self) -> Snapshot:
        """Look at what it does at this moment."""
        memory = self._metrics.registry.get_sample_value("process_resident_memory_bytes")
        return look(self.counters, self._hub, self._carriers, self._streams, memory, self.unready)

    def may_operate(self, bearer: str) -> bool:
        """Whether a secret key, or a token, is good for seeing inside the gateway."""
        try:
            return self._runs.access_of(bearer).may_read_metrics()
        except RealtimeError:
            return False

    @property
    def streams(self) -> DurableStreams:
        """Serves streams over HTTP."""
        return self._streams

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and is not going down."""
        return self._store is not None

    @property
    def unready(self) -> str | None:
        """Why it is not ready for clients, in words that a stranger may read; None: it is."""
        if self._store is None:
            return "down" if self._is_lifespan_run else "never started: its lifespan was not run"
        if not self._store.is_ready:
            return "store unavailable"
        if not self._hears_revocations():  # nor is ready who reads no answer from the store
            return "revocations unheard"
        return None

    @property
    def routes(self) -> list[BaseRoute]:
        """The gateway's paths, for any Starlette application."""
        inside = OpsApi(self, self._metrics, self.settings.metrics, self._runs.access)
        return [
            WebSocketRoute(WEBSOCKET_PATH, self.serve_websocket),
            *inside.routes,
            Route("/v1/openapi.json", _describe),
            Route("/v1/asyncapi.json", _describe_frames),
            Route("/v1/schemas", taking(self.schemas)),
            *client_assets.ROUTES,
            http_fallback.route(self.serve_websocket, self.settings.limits, self.counters),
            *self._runs.routes,
            *self._streams.routes,
        ]

    async def schemas(self, request: Request) -> JSONResponse:
        """Tell the JSON Schemas of the streams that are defined here and by connected workers."""
        may = self._runs.access(request).may_read_every_run()
        require(may, "read the schemas of streams; read:runs:* has it")
        return JSONResponse(
            {"streams": stream_registry.json_schemas() | input_schemas.registered()}
        )

    async def on_error(self, _: Request, error: Exception) -> JSONResponse:
        """Answer a request that was refused."""
        assert isinstance(error, RealtimeError)
        self.counters.refusals[error.code] += 1
        return error_answer(error)

    def _open_store(self) -> Store:
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

    def _access_of_stream(self, request: Request) -> Permissions:
        if not self.settings.http_open:
            return self._runs.access(request)
        # Without a token nothing else tells a page of the user's own from any that he visits.
        require_origin(request, self._proxies, self.settings)
        return OF_ANYBODY

    def _admit_reader(self, request: Request, access: Permissions) -> Callable[[], None]:
        address, subjects = address_of(request, self._proxies), list[str]()
        self._readers.accept(address, time.monotonic())
        try:
            if access.subject and not access.may_write_every_run():
                self._readers.admit(access.subject)
                subjects.append(access.subject)
        except RealtimeError:
            self._readers.leave(address, ())
            raise
        return lambda: self._readers.leave(address, subjects)

    def _open_hub(self) -> Hub:
        self._open_store()
        assert self._hub is not None
        return self._hub

    def _count_readers(self, run_id: str) -> dict[str, int]:
        return self._open_hub().readers(run_id)

    def _open_paths(self) -> Paths:
        self._open_store()
        if self._paths is None:
            raise StoreUnavailable("this gateway's store keeps streams of runs only")
        return self._paths


def _options(settings: Settings) -> Options:
    limits = settings.limits
    times = ReadTimeouts(limits.long_poll_s, limits.events_s, limits.send_s)
    return Options(limits.record_bytes, times, settings.http_open)


async def _describe(_: Request) -> JSONResponse:
    return JSONResponse(document(version("realtime-streams")))


async def _describe_frames(_: Request) -> JSONResponse:
    return JSONResponse(asyncapi.document(version("realtime-streams")))
