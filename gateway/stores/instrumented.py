"""A wrapper that measures the calls of a store: records, bytes, durations, faults."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from gateway._internal.counters import Counters
from gateway.errors import ConnectionLost, Internal, RealtimeError, StoreLocked, StoreUnavailable
from gateway.model.log import Appended, Head, Page, RunQuery, RunState, SetState
from gateway.model.patches import Operation
from gateway.model.records import EndReason, Position, RunSet, StreamKey, Writer
from gateway.model.retention import SweepResult
from gateway.model.runs import Run
from gateway.stores.base import PAGE_BYTES, OnAppended, OnPage, PathStore, Store
from gateway.stores.leases import ClusterStore, ExpiredLease

_FAULTS = (StoreUnavailable, StoreLocked, ConnectionLost, Internal)  # other errors are the caller's


class InstrumentedStore:
    """Wraps a store and counts its calls. Each method calls the same method of the inner store.

    Args:
        inner: The wrapped store.
        counters: The counters to increment.
        monotonic_s: Returns a monotonic time in seconds.
    """

    def __init__(
        self,
        inner: Store,
        counters: Counters,
        monotonic_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.inner = inner
        self._counters = counters
        self._monotonic_s = monotonic_s

    @contextmanager
    def _faults(self, method: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._note(error, method)
            raise

    def _note(self, error: Exception, method: str) -> None:
        if isinstance(error, _FAULTS) or not isinstance(error, RealtimeError):
            self._counters.store_errors[method] += 1

    async def open(self) -> None:
        """See `Store.open`."""
        with self._faults("open"):
            await self.inner.open()

    async def close(self) -> None:
        """See `Store.close`."""
        await self.inner.close()

    @property
    def is_ready(self) -> bool:
        """See `Store.is_ready`."""
        return self.inner.is_ready

    async def append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> Appended:
        """See `Store.append`."""
        began_s = self._monotonic_s()
        try:
            done = await self.inner.append(
                key, records, source=source, writer=writer, end=end, order=order
            )
        except Exception as error:
            self._note(error, "append")
            raise
        self._count(done, records, began_s)
        return done

    def _count(self, done: Appended, records: Sequence[bytes], began_s: float) -> None:
        counters = self._counters
        counters.append_s.observe(self._monotonic_s() - began_s)
        if not done.duplicate:
            counters.records_appended += len(records)
            counters.bytes_appended += sum(map(len, records))

    def begin_append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        done: OnAppended,
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> None:
        """See `Store.begin_append`."""
        began_s = self._monotonic_s()

        def counted(outcome: Appended | Exception) -> None:
            if isinstance(outcome, Exception):
                self._note(outcome, "append")
            else:
                self._count(outcome, records, began_s)
            done(outcome)

        self.inner.begin_append(
            key, records, counted, source=source, writer=writer, end=end, order=order
        )

    async def read(
        self, key: StreamKey, after: Position | None = None, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """See `Store.read`."""
        try:  # no context manager, as in `append`: its cost would show in the many short reads
            return await self.inner.read(key, after, max_bytes)
        except Exception as error:
            self._note(error, "read")
            raise

    async def head(self, key: StreamKey) -> Head:
        """See `Store.head`."""
        with self._faults("head"):
            return await self.inner.head(key)

    async def delete(self, key: StreamKey) -> None:
        """See `Store.delete`."""
        with self._faults("delete"):
            await self.inner.delete(key)

    async def follow(
        self, key: StreamKey, after: Position | None = None, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """See `Store.follow`."""
        with self._faults("follow"):
            async with aclosing(self.inner.follow(key, after, on_page)) as pages:
                async for page in pages:
                    yield page

    async def create_run(self, run: Run) -> Run:
        """See `Store.create_run`."""
        with self._faults("create_run"):
            return await self.inner.create_run(run)

    async def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        *,
        operations: Sequence[Operation] = (),
        writer: Writer | None = None,
    ) -> Run:
        """See `Store.patch_run`."""
        with self._faults("patch_run"):
            return await self.inner.patch_run(run_id, patch, operations=operations, writer=writer)

    async def get_run(self, run_id: str) -> RunState:
        """See `Store.get_run`."""
        with self._faults("get_run"):
            return await self.inner.get_run(run_id)

    async def delete_run(self, run_id: str) -> bool:
        """See `Store.delete_run`."""
        with self._faults("delete_run"):
            return await self.inner.delete_run(run_id)

    async def sweep(self) -> SweepResult:
        """See `Store.sweep`."""
        with self._faults("sweep"):
            return await self.inner.sweep()

    async def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """See `Store.consume_token_use`."""
        with self._faults("spend"):
            return await self.inner.consume_token_use(token_id, uses, expires_at_ms)

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """See `Store.list_runs`."""
        with self._faults("list_runs"):
            return await self.inner.list_runs(query)

    async def list_set_runs(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """See `Store.list_set_runs`."""
        with self._faults("get_set"):
            return await self.inner.list_set_runs(sets, limit)


class InstrumentedPathStore(InstrumentedStore):
    """`InstrumentedStore` for a store that also stores streams of paths."""

    def __init__(self, inner: PathStore, counters: Counters) -> None:
        super().__init__(inner, counters)
        self._paths = inner

    def is_known_tail(self, key: StreamKey, after: Position) -> bool:
        """See `PathStore.is_known_tail`."""
        return self._paths.is_known_tail(key, after)

    async def list_path_logs(self, after: StreamKey | None, limit: int) -> list[StreamKey]:
        """See `PathStore.list_path_logs`."""
        with self._faults("path_logs"):
            return await self._paths.list_path_logs(after, limit)

    async def drop(self, key: StreamKey, at: Position) -> bool:
        """See `PathStore.drop`."""
        with self._faults("drop"):
            return await self._paths.drop(key, at)


class InstrumentedClusterStore(InstrumentedPathStore):
    """`InstrumentedStore` for a store that several processes open concurrently."""

    def __init__(self, inner: ClusterStore, counters: Counters) -> None:
        super().__init__(inner, counters)
        self._shared = inner

    async def renew_leases(
        self, owners: Sequence[str], lease_s: float, *, only_new: bool = False
    ) -> None:
        """See `ClusterStore.renew_leases`."""
        with self._faults("hold"):
            await self._shared.renew_leases(owners, lease_s, only_new=only_new)

    async def release_lease(self, owner: str) -> None:
        """See `ClusterStore.release_lease`."""
        with self._faults("let_go"):
            await self._shared.release_lease(owner)

    async def expired_leases(self) -> list[ExpiredLease]:
        """See `ClusterStore.expired_leases`."""
        with self._faults("lapsed"):
            return await self._shared.expired_leases()

    async def delete_lease(self, owner: str) -> None:
        """See `ClusterStore.delete_lease`."""
        with self._faults("forget_lease"):
            await self._shared.delete_lease(owner)

    async def patch_run_if_owner(
        self, run_id: str, patch: Mapping[str, Any], owner: str
    ) -> Run | None:
        """See `ClusterStore.patch_run_if_owner`."""
        with self._faults("patch_own_run"):
            return await self._shared.patch_run_if_owner(run_id, patch, owner)


def counted(inner: Store, counters: Counters) -> InstrumentedStore:
    """Wrap a store in the instrumented class of its kind."""
    if isinstance(inner, ClusterStore):
        return InstrumentedClusterStore(inner, counters)
    if isinstance(inner, PathStore):
        return InstrumentedPathStore(inner, counters)
    return InstrumentedStore(inner, counters)
