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
from gateway.model.limits import DEFAULT_LIMITS
from gateway.model.runs import Run
from gateway.model.store_urls import is_redis
from gateway.sdk import tasks
from gateway.sdk.execution.heartbeat import LeaseHeartbeat, new_node
from gateway.sdk.execution.runner import EMBEDDED_OWNER, Runner
from gateway.sdk.execution.task_queues import HERE
from gateway.sdk.loops.watchdog import watching_for_blocking
from gateway.sdk.revocation import keep_revocation
from gateway.sdk.runtime import Runtime, installed
from gateway.sdk.values import input_schemas
from gateway.settings import Settings
from gateway.stores.base import Store
from gateway.stores.factory import open_store
from gateway.stores.leases import ClusterStore
from gateway.stores.remote.store import PATIENCE_S, RemoteStore

S = TypeVar("S", bound=Store)

WORKER_TOKEN_TTL_S = 3600.0
RECOVERY_PAUSE_S = 0.2
WORKER_SCOPES = ("read:runs:*", "write:runs:*")


@asynccontextmanager
async def serve_runtime(
    store: Store,
    keys: KeyRing,
    *,
    owner: str,
    concurrency: int,
    runner: str = HERE,
    lease_s: float = DEFAULT_LIMITS.lease_s,
) -> AsyncIterator[Runtime]:
    """Give this process a runtime and a runner over an open store while the block runs.

    Args:
        store: Open; stays open.
        keys: Sign the tokens of handles.
        owner: Name under which this process executes runs.
        concurrency: Runs that execute at the same time.
        runner: Who executes runs of tasks that name none.
        lease_s: Where others share the store: not heard of for so long, it is taken for dead.
    """
    new = Runtime(store, asyncio.get_running_loop(), default_runner=runner)
    async with watching_for_blocking(), installed(new) as runtime:
        here = runtime.runner = Runner(runtime, owner=owner, concurrency=concurrency)
        tokens.use(keys, partial(keep_revocation, store))
        recovering: asyncio.Task[None] | None = None
        try:
            if owner == EMBEDDED_OWNER and store.is_ready:
                await here.recover(tasks)
            elif owner == EMBEDDED_OWNER:  # its disk is full: what can be read is served meanwhile
                left = await here.left_over()
                recovering = asyncio.create_task(_recover_late(store, here, left))
            elif isinstance(store, ClusterStore):
                runtime.keeper = LeaseHeartbeat(store, owner, lease_s)
                await runtime.keeper.start()
            yield runtime
        finally:
            if recovering is not None:
                recovering.cancel()
                await asyncio.gather(recovering, return_exceptions=True)
            await here.stop()
            if runtime.keeper is not None:
                await runtime.keeper.stop()
            tokens.use(None)


async def _recover_late(store: Store, runner: Runner, left: list[Run]) -> None:
    """Judge what the last process left, once the store can be written."""
    while not store.is_ready:  # noqa: ASYNC110 - a store says so only when it is asked
        await asyncio.sleep(RECOVERY_PAUSE_S)
    await runner.recover(tasks, left)


def owner_of_gateway(store: Store) -> str:
    """Name a gateway as the owner of runs: the only one of its store, or one of several."""
    return new_node() if isinstance(store, ClusterStore) else EMBEDDED_OWNER


@asynccontextmanager
async def opened(store: S) -> AsyncIterator[S]:
    """Open a store for a block and close it after."""
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

    With a gateway's address (the argument or `REALTIME_URL`) everything goes through that gateway;
    without one this process opens the store itself and is its only owner. Tasks that are triggered
    inside are executed in this process, unless their runner is a queue.

    The block's end stops what it executes, with a warning. So await the runs (`await run.wait()`),
    or keep one block open for as long as the process lives; a view of a web framework that should
    return before its run ends must not enter a block of its own (docs/web-frameworks.md).

    Args:
        url: The gateway, `ws://host:port`.
        store: A store's URL; default `REALTIME_STORE`.
        secret_key: The gateway's secret; default `REALTIME_SECRET_KEY`, or in development the one
            kept beside the store.

    Raises:
        ConfigurationError: a setting that cannot work.
        StoreUnavailable: no gateway answered within 120 s, or the store cannot be opened.
        StoreLocked: another process owns the store: pass its gateway's `url`.
        RealtimeError: at the end of the block, the first failure that reached no caller: a record
            that was sent or appended outside any run and refused, and whose receipt was not
            awaited. The log names all of them.
    """
    settings = Settings.from_env()
    settings = replace(
        settings,
        url=url if url is not None or store is not None else settings.url,
        store=store or settings.store,
        secret_key=secret_key or settings.secret_key,
    )
    async with connected(settings, open_s=PATIENCE_S) as runtime:
        yield runtime
        if runtime.runner is not None:  # left by an error, the cause is known
            runtime.runner.warn_of_unfinished()
    if runtime.untold is not None:
        raise runtime.untold


@asynccontextmanager
async def connected(settings: Settings, *, open_s: float | None = None) -> AsyncIterator[Runtime]:
    """Be `connect` with settings that are made already.

    Args:
        settings: The settings.
        open_s: How long a gateway elsewhere is waited for; see `RemoteStore`.
    """
    keys = resolve_keys(settings)
    owner = _owner(settings)
    async with AsyncExitStack() as stack:
        chosen = (
            _worker_store(settings.url, keys, owner, open_s)
            if settings.url
            else open_store(settings.store, settings.retention)
        )
        await stack.enter_async_context(opened(chosen))
        yield await stack.enter_async_context(
            serve_runtime(
                chosen,
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
