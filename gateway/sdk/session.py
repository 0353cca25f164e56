"""The SDK in a process: `connect()` for workers and scripts, `serve_runtime` for a gateway."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from gateway import tokens
from gateway.auth.key_files import resolve_keys
from gateway.auth.keys import KeyRing
from gateway.auth.revocations import Revocation
from gateway.model.limits import DEFAULT_LIMITS
from gateway.model.records import REVOCATIONS, Writer
from gateway.model.runs import Run
from gateway.model.store_urls import is_redis
from gateway.sdk import task_registry
from gateway.sdk.execution.heartbeat import LeaseHeartbeat, new_node
from gateway.sdk.execution.ownership import EMBEDDED_OWNER
from gateway.sdk.execution.runner import Runner
from gateway.sdk.loops.bridge import run_on_sdk_loop
from gateway.sdk.loops.watchdog import watch_for_blocking
from gateway.sdk.options import IN_PROCESS
from gateway.sdk.runtime import Runtime, install
from gateway.sdk.values import input_schemas
from gateway.settings import Settings
from gateway.stores.base import Store
from gateway.stores.factory import open_store
from gateway.stores.leases import ClusterStore
from gateway.stores.remote.store import PATIENCE_S, RemoteStore

S = TypeVar("S", bound=Store)

WORKER_TOKEN_TTL_S = 3600.0
WORKER_SCOPES = ("read:runs:*", "write:runs:*")
READY_POLL_S = 0.2  # between two looks at a store that cannot be written yet


@asynccontextmanager
async def serve_runtime(
    store: Store,
    keys: KeyRing,
    *,
    owner: str,
    concurrency: int,
    runner: str = IN_PROCESS,
    lease_s: float = DEFAULT_LIMITS.lease_s,
) -> AsyncIterator[Runtime]:
    """Give this process a runtime and a runner over an open store while the block runs.

    Args:
        store: Open; the block's end leaves it open.
        keys: Sign the tokens of handles.
        owner: Name under which this process executes runs.
        concurrency: How many runs execute at the same time.
        runner: The runner of tasks that name none.
        lease_s: Duration of a lease. Gateways that share the store treat an owner as dead when its
            lease has expired.
    """
    new = Runtime(store, asyncio.get_running_loop(), default_runner=runner)
    async with watch_for_blocking(), install(new) as runtime:
        own_runner = runtime.runner = Runner(runtime, owner=owner, concurrency=concurrency)
        tokens.use(keys, partial(store_revocation, store))
        recovering: asyncio.Task[None] | None = None
        heartbeat: LeaseHeartbeat | None = None
        try:
            if owner == EMBEDDED_OWNER and store.is_ready:
                await own_runner.recover(task_registry)
            elif owner == EMBEDDED_OWNER:
                # The disk is full. Recover later, and serve reads meanwhile.
                left = await own_runner.unfinished_runs()
                recovering = asyncio.create_task(_recover_when_ready(store, own_runner, left))
            elif isinstance(store, ClusterStore):
                heartbeat = runtime.heartbeat = LeaseHeartbeat(store, owner, lease_s)
                await heartbeat.start()
            yield runtime
        finally:
            if recovering is not None:
                recovering.cancel()
                await asyncio.gather(recovering, return_exceptions=True)
            await own_runner.stop()
            if heartbeat is not None:
                await heartbeat.stop()
            tokens.use(None)


async def _recover_when_ready(store: Store, runner: Runner, left: list[Run]) -> None:
    """Recover the runs of the last process as soon as the store can be written."""
    while not store.is_ready:  # noqa: ASYNC110 - a store does not announce that it is ready
        await asyncio.sleep(READY_POLL_S)
    await runner.recover(task_registry, left)


def owner_of_gateway(store: Store) -> str:
    """Return the owner name of a gateway: a fixed one if it is the only gateway of its store."""
    return new_node() if isinstance(store, ClusterStore) else EMBEDDED_OWNER


@run_on_sdk_loop
async def store_revocation(store: Store, revocation: Revocation) -> None:
    """Append a revocation to the log that every gateway of the store follows.

    Raises:
        RealtimeError: the revocation may not be stored.
    """
    writer = Writer(secrets.token_urlsafe(12), 0, 0)  # makes a retry after a lost reply harmless
    await store.append(REVOCATIONS, [revocation.encode()], writer=writer)


@asynccontextmanager
async def opened(store: S) -> AsyncIterator[S]:
    """Open a store for a block and close it afterwards."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def connect(
    url: str | None = None, *, store: str | None = None, secret_key: str | None = None
) -> AsyncIterator[Runtime]:
    """Use streams, tasks and runs in a script or a worker while the block runs.

    With a gateway's address (the argument or `REALTIME_URL`) all calls go through that gateway.
    Without one, this process opens the store itself and is its only owner. Tasks that are triggered
    inside are executed in this process, unless their runner is a queue.

    The block's end stops the runs that this process executes, with a warning. So await the runs
    (`await run.wait()`), or keep one block open for as long as the process lives. A view of a web
    framework that returns before its run ends must not open a block of its own
    (docs/web-frameworks.md).

    Args:
        url: The gateway, `ws://host:port`.
        store: URL of a store; default `REALTIME_STORE`.
        secret_key: The gateway's secret; default `REALTIME_SECRET_KEY`, or in development the one
            kept beside the store.

    Raises:
        ConfigurationError: a setting cannot work.
        StoreUnavailable: no gateway answered within 120 s, or the store cannot be opened.
        StoreLocked: another process owns the store: pass its gateway's `url`.
        RealtimeError: at the end of the block, the first failure that reached no caller: a record
            that was sent or appended outside any run and refused, and whose receipt was not
            awaited. The log has all of them.
    """
    settings = Settings.from_env()
    settings = replace(
        settings,
        url=url if url is not None or store is not None else settings.url,
        store=store or settings.store,
        secret_key=secret_key or settings.secret_key,
    )
    async with connect_with(settings, open_s=PATIENCE_S) as runtime:
        yield runtime
        # Not reached if the block raised: the reason for the stop is then known.
        if runtime.runner is not None:
            runtime.runner.warn_of_unfinished()
    if runtime.writers.unreported is not None:
        raise runtime.writers.unreported


@asynccontextmanager
async def connect_with(
    settings: Settings, *, open_s: float | None = None
) -> AsyncIterator[Runtime]:
    """Like `connect`, from settings.

    Args:
        settings: The settings.
        open_s: How long to wait for a gateway elsewhere; see `RemoteStore`.
    """
    keys = resolve_keys(settings)
    owner = _owner(settings)
    async with AsyncExitStack() as stack:
        store = (
            _worker_store(settings.url, keys, owner, open_s)
            if settings.url
            else open_store(settings.store, settings.retention)
        )
        await stack.enter_async_context(opened(store))
        yield await stack.enter_async_context(
            serve_runtime(
                store,
                keys,
                owner=owner,
                concurrency=settings.concurrency,
                runner=settings.runner,
                lease_s=settings.limits.lease_s,
            )
        )


def _owner(settings: Settings) -> str:
    if settings.url is None and not is_redis(settings.store):
        return EMBEDDED_OWNER
    return f"worker_{secrets.token_hex(8)}"


def _worker_store(url: str, keys: KeyRing, owner: str, open_s: float | None) -> RemoteStore:
    def token() -> str:
        return tokens.mint(WORKER_SCOPES, ttl_s=WORKER_TOKEN_TTL_S, subject="worker", keys=keys)

    return RemoteStore(url, token, owner=owner, schemas=input_schemas.registered, open_s=open_s)
