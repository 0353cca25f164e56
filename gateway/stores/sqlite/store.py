"""`sqlite:PATH`: the embedded default. One file, one owner, a writer thread with group commit.

Durability `full` (the default) syncs every group commit, so an acknowledged append survives a power
loss. With `normal`, it survives the death of the process. A power loss may then lose the latest
appends, but never damages the file.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar

from gateway._internal.private_folder import make_folder
from gateway.errors import ConfigurationError, StoreLocked, StoreUnavailable
from gateway.model.log import Appended, Head, Page, RunQuery, RunState, SetState
from gateway.model.patches import Operation
from gateway.model.records import EndReason, Position, RunSet, StreamKey, Writer
from gateway.model.retention import KEEP_ALL, Retention, SweepResult
from gateway.model.runs import Run, check_new_run
from gateway.stores.base import PAGE_BYTES, OnAppended, OnPage, system_clock_ms
from gateway.stores.change_notifier import ChangeNotifier
from gateway.stores.reserved_logs import check_path_log
from gateway.stores.sqlite import errors, queries, schema
from gateway.stores.sqlite import retention as sqlite_retention
from gateway.stores.sqlite.blocks import CommittedBatch
from gateway.stores.sqlite.errors import DAMAGED, is_full, to_store_error
from gateway.stores.sqlite.file_lock import SqliteLock
from gateway.stores.sqlite.incarnation import Incarnation
from gateway.stores.sqlite.reader_pool import ReaderPool
from gateway.stores.sqlite.transactions import Transactions
from gateway.stores.sqlite.writer_thread import WriterThread
from gateway.stores.tail_cache import TailCache

_log = logging.getLogger("realtime.sqlite")

T = TypeVar("T")

LOCK_WAIT_S = 5.0  # after a restart, the previous process may still be closing the file
PROBE_S = 1.0  # between two attempts to write while writes fail

Durability = Literal["full", "normal"]


class SqliteStore:
    """The store contract, implemented with one SQLite file.

    Args:
        path: The database file. A missing folder is created, unless it is directly below `/`.
        durability: `full` or `normal`, see the module.
        clock_ms: Returns the time of new records in milliseconds.
        lock_wait_s: How long to wait for another owner to release the file.
        retention: Which records and runs may be deleted.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Durability = "full",
        clock_ms: Callable[[], int] = system_clock_ms,
        lock_wait_s: float = LOCK_WAIT_S,
        retention: Retention = KEEP_ALL,
    ) -> None:
        if durability not in ("full", "normal"):
            raise ConfigurationError(f"durability is {durability!r}; it is full or normal")
        self.path = Path(path)
        self._durability = durability
        self._clock_ms = clock_ms
        self._lock_wait_s = lock_wait_s
        self._retention = retention
        self._incarnation = Incarnation(self.path)
        self._probe: asyncio.Task[None] | None = None
        self._swept_no: int | None = 0  # last stream checked since `open`; None: all are checked
        self._lock = SqliteLock(self.path)
        self._growth = ChangeNotifier()
        self._tails = TailCache()
        self._writer: WriterThread | None = None
        self._readers: ReaderPool | None = None
        self._can_read = asyncio.Event()  # cleared while the readers are replaced
        self._refusal: StoreUnavailable | None = None  # why the store is read-only

    async def open(self) -> None:
        """See `Store.open`."""
        await asyncio.to_thread(self._take_file)
        try:
            await self._begin()
        except BaseException as error:
            if isinstance(error, Exception) and is_full(error) and await self._can_be_read():
                self._refusal = to_store_error(self.path, error, "written")
                _log.warning("%s; until then it is read", self._refusal)
                self._readers = ReaderPool(self._connect_alone)
                self._probe = asyncio.create_task(self._begin_late(), name=f"open {self.path}")
            else:
                self._lock.release()
                if isinstance(error, sqlite3.Error | OSError):
                    raise to_store_error(self.path, error, "opened") from error
                raise
        self._can_read.set()

    async def _begin(self) -> None:
        connection = await asyncio.to_thread(self._prepare)
        self._readers = ReaderPool(self._connect)
        self._writer = WriterThread(
            connection,
            self.path,
            asyncio.get_running_loop(),
            self._publish_commit,
            self._probe_soon,
            self._retention,
        )

    async def _begin_late(self) -> None:
        """Retry until the file can be opened for writing. Reads wait during each attempt."""
        while self._writer is None:
            await asyncio.sleep(PROBE_S)
            self._can_read.clear()
            try:
                if self._readers is not None:
                    await asyncio.to_thread(self._readers.stop)
                await self._begin()
            except (sqlite3.Error, OSError) as error:
                self._refusal = to_store_error(self.path, error, "written")
                self._readers = ReaderPool(self._connect_alone)
            finally:
                self._can_read.set()
        _log.warning("the store %s can be written again", self.path)
        self._probe = None

    async def _can_be_read(self) -> bool:
        def look() -> bool:
            with closing(self._connect_alone()) as db:
                return schema.is_readable(db) and self._incarnation.is_of(db)

        try:
            return self.path.exists() and await asyncio.to_thread(look)
        except (sqlite3.Error, OSError):
            return False

    def _take_file(self) -> None:
        try:
            make_folder(self.path)
            self._lock.acquire(self._lock_wait_s)
        except TimeoutError:
            raise StoreLocked(
                f"the store {self.path} is in use by another process; only one may own it. "
                "Set REALTIME_URL to that process's gateway (ws://host:port) to work through it. "
                "Where a server runs several worker processes (Reflex with REFLEX_REDIS_URL or "
                "REDIS_URL, `uvicorn --workers`), set REALTIME_STORE=redis://HOST:PORT/0"
            ) from None
        except OSError as error:
            raise to_store_error(self.path, error, "opened") from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path,
            timeout=errors.BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def _connect_alone(self) -> sqlite3.Connection:
        # The disk may be full. With `unix-excl` no other process can open the file, so SQLite keeps
        # the index of the write-ahead log in memory instead of on the disk. `query_only` forbids
        # writes; `mode=ro` would require that the index exists.
        connection = sqlite3.connect(
            f"{self.path.resolve().as_uri()}?vfs=unix-excl",
            uri=True,
            timeout=errors.BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        schema.stand_in(connection)
        connection.execute("PRAGMA query_only = 1")
        return connection

    def _prepare(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._durability.upper()}")
            schema.create_tables(connection)
            if self._incarnation.adopt(connection, self._clock_ms()):
                _log.warning(
                    "the store %s was put back from a backup: what was appended after it is lost, "
                    "and clients who hold positions in it start over",
                    self.path,
                )
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """See `Store.close`."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        try:
            await self._rename()
        except StoreUnavailable as error:
            _log.warning("the store %s: %s", self.path, error)
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        if writer is not None:
            await writer.stop()
        if readers is not None:
            await asyncio.to_thread(readers.stop)
        self._tails.clear()
        self._lock.release()  # after SQLite has closed the file

    @property
    def is_ready(self) -> bool:
        """See `Store.is_ready`."""
        return self._writer is not None and not self._writer.is_refused

    async def _try_to_write(self) -> None:
        """Probe the file until writes succeed again, so that recovery does not need an append."""
        while self._writer is not None and self._writer.is_refused:
            await asyncio.sleep(PROBE_S)
            try:
                await self._write(lambda tx: tx.probe())
            except StoreUnavailable as error:
                _log.warning("%s", error)
        self._probe = None

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
        return await self._write(
            lambda tx: tx.append(key, records, source, writer, end, self._clock_ms(), order)
        )

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
        if self._writer is None:
            done(self._why_not())
            return
        self._writer.begin(
            lambda tx: tx.append(key, records, source, writer, end, self._clock_ms(), order), done
        )

    async def read(
        self, key: StreamKey, after: Position | None = None, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """See `Store.read`."""
        if after is not None and self._tails.is_known_tail(key, after):
            return Page([], after)
        reading, page = self._tails.begin_read(key), None
        try:
            page = await self._read(lambda db: queries.read_page(db, key, after, max_bytes))
        finally:
            self._tails.end_read(key, reading, page)
        return page

    async def head(self, key: StreamKey) -> Head:
        """See `Store.head`."""
        return (await self._read(lambda db: queries.read_head(db, key)))[1]

    async def delete(self, key: StreamKey) -> None:
        """See `Store.delete`."""
        await self._write(lambda tx: tx.delete(key, self._clock_ms()))

    def follow(
        self, key: StreamKey, after: Position | None = None, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """See `Store.follow`."""
        return self._growth.follow(key, after, self.read, on_page)

    def is_known_tail(self, key: StreamKey, after: Position) -> bool:
        """See `PathStore.is_known_tail`."""
        return self._tails.is_known_tail(key, after)

    async def list_path_logs(self, after: StreamKey | None, limit: int) -> list[StreamKey]:
        """See `PathStore.list_path_logs`."""
        return await self._read(lambda db: queries.read_path_logs(db, after, limit))

    async def drop(self, key: StreamKey, at: Position) -> bool:
        """See `PathStore.drop`."""
        check_path_log(key)
        return await self._write(lambda tx: tx.drop(key, at))

    async def create_run(self, run: Run) -> Run:
        """See `Store.create_run`."""
        check_new_run(run)
        return await self._write(lambda tx: tx.create_run(run, self._clock_ms()))

    async def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        *,
        operations: Sequence[Operation] = (),
        writer: Writer | None = None,
    ) -> Run:
        """See `Store.patch_run`."""
        return await self._write(
            lambda tx: tx.patch_run(run_id, patch, operations, writer, self._clock_ms())
        )

    async def get_run(self, run_id: str) -> RunState:
        """See `Store.get_run`."""
        return await self._read(lambda db: queries.read_run(db, run_id))

    async def delete_run(self, run_id: str) -> bool:
        """See `Store.delete_run`."""
        return await self._write(lambda tx: tx.delete_run(run_id, self._clock_ms()))

    async def sweep(self) -> SweepResult:
        """See `Store.sweep`."""
        if self._writer is None:
            raise self._why_not()
        await self._rename()
        kept, now_ms = self._retention, self._clock_ms()
        found = await self._read(lambda db: sqlite_retention.find(db, self._swept_no, kept, now_ms))
        if found.is_nothing and not (self._writer is not None and self._writer.has_outgrown):
            swept = SweepResult(has_more=found.has_more)
        else:
            swept = await self._write(lambda tx: sqlite_retention.remove(tx, found, kept, now_ms))
        self._swept_no = found.last_no
        return swept

    async def _rename(self) -> None:
        """Give the file a new incarnation name, if anything was committed since the last one."""
        if self._writer is not None and self._writer.has_written:
            await self._write(lambda tx: tx.rename(self._incarnation))

    async def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """See `Store.consume_token_use`."""
        return await self._write(
            lambda tx: tx.consume_token_use(token_id, uses, expires_at_ms, self._clock_ms())
        )

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """See `Store.list_runs`."""
        return await self._read(lambda db: queries.read_runs(db, query))

    async def list_set_runs(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """See `Store.list_set_runs`."""
        return await self._read(lambda db: queries.read_set(db, sets, limit))

    async def _write(self, work: Callable[[Transactions], T]) -> T:
        if self._writer is None:
            raise self._why_not()
        result: T = await self._writer.submit(work)
        return result

    def _why_not(self) -> StoreUnavailable:
        if self._readers is not None and self._refusal is not None:
            return self._refusal
        return StoreUnavailable(f"the store {self.path} is not open")

    def _probe_soon(self) -> None:
        if self._probe is None:
            self._probe = asyncio.create_task(self._try_to_write(), name=f"probe {self.path}")

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._readers is None:
            raise self._why_not()
        await self._can_read.wait()
        if self._readers is None:  # the store was closed during the wait
            raise self._why_not()
        try:
            return await self._readers.submit(work)
        except (sqlite3.Error, *DAMAGED) as error:
            raise to_store_error(self.path, error, "read") from error

    def _publish_commit(
        self, grown: Mapping[StreamKey, CommittedBatch], changed: set[StreamKey], ended: set[str]
    ) -> None:
        for key, added in grown.items():
            self._tails.advance(key, added.position, is_open=added.ended is None)
            if self._growth.is_followed(key):
                self._growth.publish(key, None if key in changed else added.page())
        for key in changed:
            self._tails.forget(key)
        for run_id in ended:
            self._tails.forget_run(run_id)
            self._growth.invalidate_run(run_id)
