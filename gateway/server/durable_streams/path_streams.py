"""Streams of paths: create, find, delete, expire.

A path's configuration is a log (`$config`); the records of its stream are another log, a new one
for each generation. A change of the configuration is an append by the writer `config`, whose
sequence is the number of changes so far. When two gateways change it at once, the store accepts one
append and reports the other as a `duplicate`; that gateway reads the configuration and tries again.
So no lock is needed. An interrupted step can leave records of a stream that was never published, or
a reference to a fork that was never created; `cleanup` deletes them.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.errors import StoreUnavailable, WriterGap
from gateway.model.records import (
    ORIGIN,
    EndReason,
    Position,
    StreamKey,
    Writer,
    path_config,
    path_data,
)
from gateway.server.durable_streams import bodies, forks
from gateway.server.durable_streams.configuration import (
    ABSENT,
    Configuration,
    Fork,
    decode,
    encode,
)
from gateway.server.durable_streams.errors import conflict, gone, not_found
from gateway.server.durable_streams.headers import DEFAULT_TYPE, CreateHeaders, ForkSpec
from gateway.server.durable_streams.idempotent_create import check_idempotent_create
from gateway.server.durable_streams.stream import HttpStream
from gateway.stores.base import PathStore

MAX_FORKS = 256  # of one stream: each adds about 60 bytes to every change of its configuration
UNPUBLISHED_MS = 60_000  # how long an unpublished fork counts as existing
MAX_TRIES = 100  # of one change; in each round, one of the competing changes succeeds
CACHED_PATHS = 10_000  # about 1 KB each


class PathEntry(NamedTuple):
    """A path's configuration and its version, the position of the last change."""

    path: str
    configuration: Configuration
    version: Position

    @property
    def data(self) -> StreamKey:
        """The log of the stream's own records."""
        return path_data(self.path, self.configuration.generation)


class _Draft(NamedTuple):
    """A stream that is about to be published."""

    configuration: Configuration
    records: list[bytes]
    source: PathEntry | None


class PathStreams:
    """The streams of paths, over an open store.

    Args:
        store: The store.
        clock_ms: Milliseconds since 1970 UTC.
    """

    def __init__(self, store: PathStore, clock_ms: Callable[[], int]) -> None:
        self.store = store
        self._clock_ms = clock_ms
        self._cache: OrderedDict[str, PathEntry] = OrderedDict()

    async def find(self, path: str) -> PathEntry:
        """Return a path's current configuration; an expired stream is deleted first."""
        for _ in range(MAX_TRIES):
            entry = await self.read(path)
            configuration = entry.configuration
            if configuration.state != "live" or not configuration.is_expired(self._clock_ms()):
                return entry
            await self._remove(entry)
        raise _contended(path)

    async def open(self, path: str) -> HttpStream:
        """Return the stream of a path.

        Raises:
            HttpRefusal: 404, there is none; 410, it is deleted and has forks.
        """
        entry = await self.find(path)
        return self._stream(_live(entry))

    def cached(self, path: str) -> HttpStream | None:
        """Return the stream of a path if that needs no read and no write; else None.

        None does not mean that the stream is missing: then call `open`.
        """
        entry = self._cache.get(path)
        if entry is None or not self.store.is_known_tail(path_config(path), entry.version):
            return None
        configuration, now_ms = entry.configuration, self._clock_ms()
        if configuration.state != "live" or configuration.is_expired(now_ms):
            return None
        self._cache.move_to_end(path)
        return self._stream(entry)

    def is_touched(self, stream: HttpStream) -> bool:
        """Whether the stored configuration already covers a read or write now."""
        return stream.path is None or stream.configuration.touched(self._clock_ms()) is None

    def _stream(self, entry: PathEntry) -> HttpStream:
        return HttpStream(entry.path, entry.data, entry.configuration, self.store, entry.path)

    async def touch(self, stream: HttpStream) -> None:
        """Count a stream as read or written now, which restarts its sliding TTL."""
        now_ms = self._clock_ms()
        if stream.path is None or self.is_touched(stream):
            return
        entry = await self.read(stream.path)
        touched = entry.configuration.touched(now_ms)
        if entry.configuration.state == "live" and touched is not None:
            await self._change(entry, touched)  # a competing change has touched it too

    async def create(
        self, path: str, creation: CreateHeaders, body: bytes, max_bytes: int
    ) -> tuple[HttpStream, bool]:
        """Create the stream of a path, or find an equal one.

        Args:
            path: The path.
            creation: The request's headers.
            body: The first records; may be empty.
            max_bytes: Limit of one record.

        Returns:
            The stream, and whether it was created.

        Raises:
            HttpRefusal: 400 or 413, the request is invalid; 404, the fork's source is missing; 409,
                the path has a different stream.
        """
        for _ in range(MAX_TRIES):
            entry = await self.find(path)
            if entry.configuration.state == "gone":
                raise conflict(f"the stream {path} was deleted, but its forks need it")
            if entry.configuration.state == "live":
                stream = self._stream(entry)
                await check_idempotent_create(stream, creation)
                return stream, False
            created = await self._create(entry, creation, body, max_bytes)
            if created is not None:
                return created, True
        raise _contended(path)

    async def delete(self, path: str) -> None:
        """Delete the stream of a path; records that forks inherit are kept for them.

        Raises:
            HttpRefusal: 404, there is none; 410, it is already deleted.
        """
        for _ in range(MAX_TRIES):
            entry = _live(await self.find(path))
            if await self._remove(entry):
                return
        raise _contended(path)

    async def collect(self, path: str) -> PathEntry:
        """Return a path's configuration, after deleting what is expired or no longer inherited."""
        entry = await self.find(path)
        if entry.configuration.state == "gone":
            await self._remove(entry)
            entry = await self.read(path)
        return entry

    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC."""
        return self._clock_ms()

    async def read(self, path: str) -> PathEntry:
        """Return the last change of a path's configuration, expired or not."""
        key, known = path_config(path), self._cache.get(path)
        after = known.version if known is not None else await self._before_last(key)
        page = await self.store.read(key, after)
        entry = known or PathEntry(path, ABSENT, ORIGIN)
        if page.reset is not None:
            entry = PathEntry(path, ABSENT, ORIGIN)
        while page.records:
            entry = PathEntry(path, decode(page.records[-1].data), page.position)
            page = await self.store.read(key, page.position)
        self._remember(entry)
        return entry

    async def _before_last(self, key: StreamKey) -> Position | None:
        head = (await self.store.head(key)).position
        return head._replace(offset=head.offset - 1) if head.offset > 1 else None

    def _remember(self, entry: PathEntry) -> None:
        self._cache[entry.path] = entry
        self._cache.move_to_end(entry.path)
        if len(self._cache) > CACHED_PATHS:
            self._cache.popitem(last=False)

    async def _change(self, entry: PathEntry, changed: Configuration) -> PathEntry | None:
        """Append a change; return None if a competing change came first."""
        changed = msgspec.structs.replace(changed, change_id=secrets.token_hex(8))
        writer = Writer("config", 0, entry.version.offset)
        key = path_config(entry.path)
        try:
            done = await self.store.append(key, [encode(changed)], writer=writer)
        except WriterGap:  # cleanup deleted the configuration in between
            return None
        version = done.position
        if done.duplicate:
            # Either a competing change used this number, or the store repeated this append after a
            # broken connection although its first attempt was committed. The record tells which.
            page = await self.store.read(key, entry.version, 1)
            is_ours = bool(page.records) and page.records[0].data == encode(changed)
            if page.reset or page.gap or not is_ours:
                return None
            version = page.position
        entry = PathEntry(entry.path, changed, version)
        self._remember(entry)
        return entry

    # ---- creating ----

    async def _create(
        self, entry: PathEntry, creation: CreateHeaders, body: bytes, max_bytes: int
    ) -> HttpStream | None:
        draft = await self._draft(entry.path, creation, body, max_bytes)
        configuration, source = draft.configuration, draft.source
        if source is not None:
            fork = Fork(entry.path, configuration.generation, self._clock_ms())
            if await self._change(source, source.configuration.with_fork(fork)) is None:
                return None
        key = path_data(entry.path, configuration.generation)
        if draft.records or creation.closes:
            end: EndReason | None = "completed" if creation.closes else None
            writer = Writer(secrets.token_hex(8), 0, 0)  # makes a repeated append harmless
            await self.store.append(key, draft.records, writer=writer, end=end)
        published = await self._change(entry, configuration)
        if published is None:
            await self._clear(entry.path, configuration)
            return None
        return self._stream(published)

    async def _draft(
        self, path: str, creation: CreateHeaders, body: bytes, max_bytes: int
    ) -> _Draft:
        now_ms = self._clock_ms()
        configuration = Configuration(
            "live",
            now_ms,
            secrets.token_hex(8),
            creation.content_type or DEFAULT_TYPE,
            creation.ttl_s,
            creation.expires_at,
            creation.expires_ms,
            now_ms,
        )
        source, inherited = None, list[bytes]()
        if creation.fork is not None:
            source = await self._source(creation.fork)
            configuration, inherited = await forks.inherit(
                self._stream(source), creation, configuration, self._clock_ms
            )
        form = bodies.form_of(configuration.content_type)
        return _Draft(
            configuration,
            inherited + (bodies.split(form, body, max_bytes) if body else []),
            source,
        )

    async def _source(self, fork: ForkSpec) -> PathEntry:
        entry = await self.find(fork.source)
        if entry.configuration.state == "gone":
            raise conflict(f"the stream {fork.source} was deleted and takes no more forks")
        entry = _live(entry)
        if len(entry.configuration.forks) >= MAX_FORKS:
            raise conflict(f"the stream {fork.source} has {MAX_FORKS} forks, which is the limit")
        return entry

    # ---- removing ----

    async def _remove(self, entry: PathEntry) -> bool:
        """Delete a stream, or mark it gone while it has forks; False after a competing change."""
        configuration, now_ms = entry.configuration, self._clock_ms()
        alive = [fork for fork in configuration.forks if await self._is_alive(fork, now_ms)]
        if alive:
            left = msgspec.structs.replace(
                configuration, state="gone", forks=tuple(alive), changed_ms=now_ms
            )
        else:
            left = Configuration("absent", now_ms)
        if await self._change(entry, left) is None:
            return False
        if not alive:
            await self._clear(entry.path, configuration)
        return True

    async def _is_alive(self, fork: Fork, now_ms: int) -> bool:
        configuration = (await self.find(fork.path)).configuration
        if configuration.state != "absent" and configuration.generation == fork.generation:
            return True
        is_young = fork.since_ms + UNPUBLISHED_MS > now_ms
        return is_young and configuration.changed_ms < fork.since_ms  # it may still be published

    async def _clear(self, path: str, configuration: Configuration) -> None:
        """Delete a stream's records, and its entry in the source's forks."""
        await self.store.delete(path_data(path, configuration.generation))
        if configuration.source is not None:
            await self._release(
                configuration.source,
                configuration.source_generation,
                path,
                configuration.generation,
            )

    async def _release(self, path: str, generation: str, fork: str, fork_generation: str) -> None:
        for _ in range(MAX_TRIES):
            entry = await self.read(path)
            configuration = entry.configuration
            if configuration.state == "absent" or configuration.generation != generation:
                return
            left = configuration.without_fork(fork, fork_generation)
            is_over = left.state == "gone" and not left.forks
            if is_over:
                left = Configuration("absent", self._clock_ms())
            if await self._change(entry, left) is not None:
                if is_over:
                    await self._clear(path, configuration)
                return
        raise _contended(path)


def _contended(path: str) -> StoreUnavailable:
    return StoreUnavailable(f"the stream {path} was changed by others {MAX_TRIES} times at once")


def _live(entry: PathEntry) -> PathEntry:
    if entry.configuration.state == "absent":
        raise not_found(entry.path)
    if entry.configuration.state == "gone":
        raise gone(entry.path)
    return entry
