"""The streams of paths: create, find, delete, expire, fork.

A path's configuration is a log (`$config`); its stream's records are another, one for each
generation. Whoever changes a configuration appends to that log as the writer `config`, whose
sequence is the number of changes so far: of two who change the same at once, on one node or on
many, the store takes one and tells the other that its number was used (`duplicate`), who then looks
again. There is no lock anywhere. What a step that was cut short leaves behind (records of a stream
that was never published, a reference of a fork that never came to be) is forgotten by `sweeping`.
"""

from __future__ import annotations

import asyncio
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
from gateway.server.durable_streams import bodies
from gateway.server.durable_streams.configuration import (
    ABSENT,
    Configuration,
    Fork,
    decode,
    encode,
)
from gateway.server.durable_streams.errors import conflict, gone, malformed, not_found
from gateway.server.durable_streams.headers import DEFAULT_TYPE, CreateHeaders, ForkSpec
from gateway.server.durable_streams.idempotent_create import check_same, same_type
from gateway.server.durable_streams.stream import HttpStream
from gateway.stores.base import PathStore

MAX_FORKS = 256  # of one stream: each costs about 60 bytes of every change of its configuration
MAX_PARTS = 32  # a stream may inherit from: how deep forks of forks go
UNPUBLISHED_MS = 60_000  # what is being created counts as there for so long
MAX_TRIES = 100  # at a change that others make at the same time; each time one of them succeeds
CACHED_PATHS = 10_000  # about 1 KB each
EPOCH_WAIT_S = 0.001
EPOCH_WAITS = 50

_EPOCH_TIME = slice(0, 11)  # of an epoch: hex digits of its milliseconds


class PathEntry(NamedTuple):
    """A path's configuration, and after which change."""

    path: str
    configuration: Configuration
    version: Position

    @property
    def data(self) -> StreamKey:
        """The log that holds the stream's own records."""
        return path_data(self.path, self.configuration.generation)


class _Draft(NamedTuple):
    """A stream that is about to be published."""

    configuration: Configuration
    records: list[bytes]
    source: PathEntry | None


class Paths:
    """The streams of paths, over an open store.

    Args:
        store: Where they are kept.
        clock_ms: Milliseconds since 1970 UTC.
    """

    def __init__(self, store: PathStore, clock_ms: Callable[[], int]) -> None:
        self.store = store
        self._clock_ms = clock_ms
        self._cache: OrderedDict[str, PathEntry] = OrderedDict()

    async def find(self, path: str) -> PathEntry:
        """Return a path's configuration as it is now; what has expired is deleted by this."""
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
            Refused: 404, there is none; 410, it is deleted and has forks.
        """
        entry = await self.find(path)
        return self._stream(_live(entry))

    def known(self, path: str) -> HttpStream | None:
        """Return the stream of a path if it is there and nothing has to be read or written first.

        None says nothing: then `open` tells.
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
        """Whether it is written down already that a stream is read or written now."""
        return stream.path is None or stream.configuration.touched(self._clock_ms()) is None

    def _stream(self, entry: PathEntry) -> HttpStream:
        return HttpStream(entry.path, entry.data, entry.configuration, self.store, entry.path)

    async def touch(self, stream: HttpStream) -> None:
        """Count a stream as read or written now; its sliding time to live, if any, starts anew."""
        now_ms = self._clock_ms()
        if stream.path is None or self.is_touched(stream):
            return
        entry = await self.read(stream.path)
        touched = entry.configuration.touched(now_ms)
        if entry.configuration.state == "live" and touched is not None:
            await self._change(entry, touched)  # whoever was faster has touched it as well

    async def create(
        self, path: str, creation: CreateHeaders, body: bytes, max_bytes: int
    ) -> tuple[HttpStream, bool]:
        """Create the stream of a path, or find that it is there as it is asked for.

        Args:
            path: Which.
            creation: As it is to be.
            body: What it begins with; may be empty.
            max_bytes: Of one record.

        Returns:
            The stream, and whether it was created.

        Raises:
            Refused: 400 or 413, it cannot be so; 404, the source of the fork is not there; 409, it
                is there and otherwise.
        """
        for _ in range(MAX_TRIES):
            entry = await self.find(path)
            if entry.configuration.state == "gone":
                raise conflict(f"the stream {path} was deleted, but its forks need it")
            if entry.configuration.state == "live":
                stream = self._stream(entry)
                await check_same(stream, creation)
                return stream, False
            created = await self._create(entry, creation, body, max_bytes)
            if created is not None:
                return created, True
        raise _contended(path)

    async def delete(self, path: str) -> None:
        """Delete the stream of a path; what forks of it inherit is kept for them.

        Raises:
            Refused: 404, there is none; 410, that was done already.
        """
        for _ in range(MAX_TRIES):
            entry = _live(await self.find(path))
            if await self._remove(entry):
                return
        raise _contended(path)

    async def tidy(self, path: str) -> PathEntry:
        """Return a path's configuration, without what has expired or nobody inherits any more."""
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
        """Append a change; None if another came first."""
        changed = msgspec.structs.replace(changed, change_id=secrets.token_hex(8))
        writer = Writer("config", 0, entry.version.offset)
        key = path_config(entry.path)
        try:
            done = await self.store.append(key, [encode(changed)], writer=writer)
        except WriterGap:  # it was forgotten meanwhile, with all that was known of it
            return None
        version = done.position
        if done.duplicate:
            # Another writer's change has this number, or the store repeated this append after a
            # broken connection and its first attempt had been committed.
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
            writer = Writer(secrets.token_hex(8), 0, 0)  # lets the store repeat the append
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
            configuration, inherited = await self._inherit(source, creation, configuration)
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

    async def _inherit(
        self, source: PathEntry, creation: CreateHeaders, configuration: Configuration
    ) -> tuple[Configuration, list[bytes]]:
        fork, given = creation.fork, source.configuration
        assert fork is not None
        if creation.content_type and not same_type(creation.content_type, given.content_type):
            raise conflict(
                f"the stream {source.path} has content type {given.content_type}, which its forks "
                f"share; this asks for {creation.content_type}"
            )
        at, stop, first = await self._divergence(source, fork)
        parts = given.inherited(source.path, stop)
        if len(parts) > MAX_PARTS:
            raise conflict(f"forks of forks go {MAX_PARTS} deep; {source.path} is at the limit")
        has_own_life = creation.ttl_s is not None or creation.expires_at is not None
        life = configuration if has_own_life else given
        await self._outlast(at.epoch)
        return msgspec.structs.replace(
            configuration,
            content_type=creation.content_type or given.content_type,
            ttl_s=life.ttl_s,
            expires_at=life.expires_at,
            expires_ms=life.expires_ms,
            parts=parts,
            source=source.path,
            source_generation=given.generation,
            forked_at=str(fork.at) if fork.at is not None else None,
            fork_position=str(at),
            forked_more=fork.more,
        ), first

    async def _divergence(
        self, source: PathEntry, fork: ForkSpec
    ) -> tuple[Position, int, list[bytes]]:
        """Return where a fork begins, up to which record it inherits, and what is its own then."""
        stream = self._stream(source)
        tail, _ = await stream.tail()
        at = fork.at if fork.at is not None else tail
        if at.offset > tail.offset or not await stream.holds(at):
            raise malformed(f"the stream {source.path} has no offset {at}")
        if fork.more == 0:
            return at, at.offset, []
        if stream.form == "json":
            if at.offset + fork.more > tail.offset:
                raise malformed(
                    f"the stream {source.path} has {tail.offset - at.offset} values after {at}; "
                    f"{fork.more} are to be inherited"
                )
            return at, at.offset + fork.more, []
        chunk = await stream.read(at, 1)
        data = bodies.unwrap(chunk.records[0]) if chunk.records else b""
        if fork.more > len(data):
            raise malformed(
                f"what the stream {source.path} has after {at} is {len(data)} bytes long; "
                f"{fork.more} are to be inherited"
            )
        if fork.more == len(data):
            return at, at.offset + 1, []
        return at, at.offset, [bodies.wrap(data[: fork.more])]

    async def _outlast(self, epoch: str) -> None:
        # The fork's own offsets must sort after those it inherits, and an epoch begins with the
        # time. Clocks of gateways that differ by more than this may still disagree.
        for _ in range(EPOCH_WAITS):
            if f"{self._clock_ms():011x}" > epoch[_EPOCH_TIME]:
                return
            await asyncio.sleep(EPOCH_WAIT_S)

    # ---- removing ----

    async def _remove(self, entry: PathEntry) -> bool:
        """Take a stream away, or keep it for its forks; false if another changed it first."""
        configuration, now_ms = entry.configuration, self._clock_ms()
        forks = [fork for fork in configuration.forks if await self._is_alive(fork, now_ms)]
        if forks:
            left = msgspec.structs.replace(
                configuration, state="gone", forks=tuple(forks), changed_ms=now_ms
            )
        else:
            left = Configuration("absent", now_ms)
        if await self._change(entry, left) is None:
            return False
        if not forks:
            await self._clear(entry.path, configuration)
        return True

    async def _is_alive(self, fork: Fork, now_ms: int) -> bool:
        configuration = (await self.find(fork.path)).configuration
        if configuration.state != "absent" and configuration.generation == fork.generation:
            return True
        is_young = fork.since_ms + UNPUBLISHED_MS > now_ms
        return is_young and configuration.changed_ms < fork.since_ms  # it may yet be published

    async def _clear(self, path: str, configuration: Configuration) -> None:
        """Remove a stream's records, and let go of what it inherited."""
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
