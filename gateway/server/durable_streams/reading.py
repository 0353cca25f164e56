"""GET and HEAD: catch-up, long-poll, server-sent events.

Source:
    The Durable Streams Protocol 1.0, sections 5.5 to 5.8 and 10.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from gateway._internal.counters import Counters
from gateway.errors import RealtimeError
from gateway.model.records import ORIGIN
from gateway.server.durable_streams import bodies, headers
from gateway.server.durable_streams.errors import HttpRefusal, malformed
from gateway.server.durable_streams.events import EventStream
from gateway.server.durable_streams.live import LiveReader, ReaderDeps
from gateway.server.durable_streams.offsets import (
    StartOffset,
    entity_tag,
    next_cursor,
    read_offset,
)
from gateway.server.durable_streams.stream import HttpPage, HttpStream
from gateway.server.entity_tags import matches
from gateway.server.streaming_response import EVENT_HEADERS, wait_for_disconnect

PAGE_BYTES = 1 << 20  # of records in one response
CHECK_S = 1.0  # interval of token checks while records arrive
KEEP_ALIVE_S = 15.0  # an idle event stream sends a comment this often, so that proxies keep it open
CACHED_FOR_S = 60  # a full page never changes
NO_STORE = "no-store"


@dataclass(frozen=True, slots=True)
class ReadTimeouts:
    """Time limits of waiting responses, seconds.

    Attributes:
        long_poll_s: A long poll.
        events_s: A stream of events; its reader reconnects at its position.
        send_s: A reader that reads nothing for so long is aborted.
    """

    long_poll_s: float
    events_s: float
    send_s: float


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness, as arguments.

    Attributes:
        clock_s: Unix time.
        random: Returns a number from 0 to below 1.
    """

    clock_s: Callable[[], float]
    random: Callable[[], float]


class ReadRequest(NamedTuple):
    """A request that reads.

    Attributes:
        request: The request.
        stream: The stream.
        is_still_allowed: Whether its token still allows the read.
        admit: Counts it as waiting, or raises; returns a function that uncounts it.
    """

    request: Request
    stream: HttpStream
    is_still_allowed: Callable[[], bool]
    admit: Callable[[], Callable[[], None]]


class ReadHandler:
    """Makes the responses to reads.

    Args:
        deps: What live readers need.
        times: Time limits of waiting responses.
        clock: Time and randomness.
        is_public: No token is needed, so caches may share responses.
        counters: Counts sent bytes and records.
    """

    def __init__(
        self,
        deps: ReaderDeps,
        times: ReadTimeouts,
        clock: Clock,
        is_public: bool,
        counters: Counters,
    ) -> None:
        self._deps = deps
        self._counters = counters
        self._paths = deps.paths
        self._times = times
        self._clock = clock
        self._scope = "public" if is_public else "private"

    async def head(self, stream: HttpStream) -> Response:
        """Return a stream's configuration and end; this does not count as a read."""
        position, end = await stream.tail()
        configuration = stream.configuration
        found = {"Content-Type": configuration.content_type, "Cache-Control": NO_STORE}
        found |= headers.where(position, end is not None)
        if configuration.ttl_s is not None:
            found[headers.TTL] = str(configuration.ttl_s)
        if configuration.expires_at is not None:
            found[headers.EXPIRES_AT] = configuration.expires_at
        return _bare(200, found)

    async def get(self, reading: ReadRequest) -> Response:
        """Return records: the existing ones, or live."""
        query = reading.request.query_params
        place, live = read_offset(query.getlist("offset")), query.get("live")
        if live not in (None, "long-poll", "sse"):
            raise malformed(f"live is {live[:40]!r}; it is long-poll or sse")
        if live is not None and place is None:
            raise malformed(f"live={live} needs an offset; -1 is the beginning")
        await self._paths.touch(reading.stream)
        if live == "sse":
            return await self._events(reading, place or ORIGIN)
        if live == "long-poll":
            return await self._long_poll(reading, place or ORIGIN)
        return await self._catch_up(reading, place or ORIGIN)

    # ---- what is there ----

    async def _catch_up(self, reading: ReadRequest, place: StartOffset) -> Response:
        stream = reading.stream
        if place == "now":
            position, end = await stream.tail()
            chunk = HttpPage([], position, True, end is not None)
            return self._page(stream, chunk, {"Cache-Control": NO_STORE})
        chunk = await stream.read(place, PAGE_BYTES)
        identity = stream.configuration.generation
        tag = entity_tag(identity, place, chunk.position, chunk.is_closed)
        caching = {"ETag": tag, "Cache-Control": self._caching(chunk)}
        if matches(reading.request.headers.get("If-None-Match"), tag):
            return _bare(304, caching | _where(chunk))
        return self._page(stream, chunk, caching)

    def _caching(self, chunk: HttpPage) -> str:
        if chunk.is_at_tail and not chunk.is_closed:
            return f"{self._scope}, no-cache"  # it grows: revalidate with the tag
        return f"{self._scope}, max-age={CACHED_FOR_S}, stale-while-revalidate=300"

    def _page(self, stream: HttpStream, chunk: HttpPage, more: dict[str, str]) -> Response:
        found = {"Content-Type": stream.configuration.content_type} | _where(chunk) | more
        body = bodies.join(stream.form, chunk.records)
        return Response(self._counted(body, len(chunk.records)), 200, found)

    # ---- long-poll ----

    async def _long_poll(self, reading: ReadRequest, place: StartOffset) -> Response:
        stream = reading.stream
        position = (await stream.tail())[0] if place == "now" else place
        chunk = await stream.read(position, PAGE_BYTES)
        if not chunk.records and not chunk.is_closed:
            chunk = await self._wait(reading, chunk)
        more = {"Cache-Control": NO_STORE}
        if not chunk.is_closed or chunk.records:
            more[headers.CURSOR] = self._cursor(reading.request)
        if not chunk.records:
            return _bare(204, _where(chunk) | more)
        tag = entity_tag(stream.configuration.generation, position, chunk.position, chunk.is_closed)
        return self._page(stream, chunk, more | {"ETag": tag})

    async def _wait(self, reading: ReadRequest, at: HttpPage) -> HttpPage:
        leave = reading.admit()
        gone = asyncio.create_task(wait_for_disconnect(reading.request.receive), name="long poll")
        try:
            async with LiveReader(reading.stream, at.position, self._deps) as reader:
                gone.add_done_callback(lambda _: reader.cancel())
                ends_at_s = self._time() + self._times.long_poll_s
                while not reader.is_canceled:
                    chunk = await reader.next()
                    if chunk is not None and (chunk.records or chunk.is_closed):
                        return chunk
                    if (left_s := ends_at_s - self._time()) <= 0:
                        break
                    await reader.wait(min(left_s, self._alive_s(reading.stream)))
                    await self._keep(reading)
        finally:
            gone.cancel()
            leave()
        return at

    # ---- server-sent events ----

    async def _events(self, reading: ReadRequest, place: StartOffset) -> Response:
        stream = reading.stream
        position = (await stream.tail())[0] if place == "now" else place
        if position.offset > 0 and not await stream.holds(position):
            await stream.read(position, 1)  # raises the error
        found = dict(EVENT_HEADERS)
        if stream.form == "binary":
            found[headers.DATA_ENCODING] = "base64"
        leave = reading.admit()  # the response uncounts it, however it ends
        reader = LiveReader(stream, position, self._deps)
        events = self._made_of(reading, reader)
        return EventStream(events, found, reader.cancel, leave, self._times.send_s)

    async def _made_of(
        self, reading: ReadRequest, reader: LiveReader
    ) -> AsyncGenerator[bytes, None]:
        ends_at_s = self._time() + self._times.events_s * (1 - 0.2 * self._clock.random())
        is_told, check_at_s = False, self._time() + CHECK_S
        try:
            async with reader:
                while (left_s := ends_at_s - self._time()) > 0 and not reader.is_canceled:
                    if self._time() >= check_at_s or reader.must_revalidate:
                        reader.must_revalidate = False
                        await self._keep(reading)
                        check_at_s = self._time() + min(CHECK_S, self._alive_s(reading.stream))
                    chunk = await reader.next()
                    if chunk is None and not is_told:
                        chunk = HttpPage([], reader.position, True, False)
                    if chunk is not None:
                        yield self._event(reading, chunk)
                        is_told = chunk.is_at_tail
                        if chunk.is_closed:
                            return
                    elif not await reader.wait(min(left_s, self._alive_s(reading.stream))):
                        yield self._counted(bodies.KEEP_ALIVE)
        except (HttpRefusal, RealtimeError):
            return  # the reader reconnects, and gets the error then

    def _event(self, reading: ReadRequest, chunk: HttpPage) -> bytes:
        data = bodies.event(reading.stream.form, chunk.records) if chunk.records else b""
        data += bodies.control(
            str(chunk.position),
            cursor=self._cursor(reading.request),
            up_to_date=chunk.is_at_tail,
            closed=chunk.is_closed,
        )
        return self._counted(data, len(chunk.records))

    # ---- both ----

    def _counted(self, body: bytes, record_count: int = 0) -> bytes:
        self._counters.bytes_sent += len(body)
        self._counters.records_sent += record_count
        return body

    def _cursor(self, request: Request) -> str:
        given = request.query_params.get("cursor")
        return next_cursor(self._clock.clock_s(), given, self._clock.random)

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    def _alive_s(self, stream: HttpStream) -> float:
        """Return how long the reader may wait before a touch of the stream or a comment is due."""
        configuration = stream.configuration
        alive_s = KEEP_ALIVE_S
        if configuration.ttl_s is not None:
            alive_s = min(alive_s, configuration.ttl_s / 2)
        if configuration.expires_ms is not None:
            alive_s = min(alive_s, configuration.expires_ms / 1000 - self._clock.clock_s())
        return max(alive_s, 0.01)

    async def _keep(self, reading: ReadRequest) -> None:
        """Check the token again, and touch the stream, which a live reader keeps from expiring."""
        if not reading.is_still_allowed():
            raise HttpRefusal(
                401, "token_expired", "the token has expired or was revoked; mint a new one"
            )
        if reading.stream.path is not None:
            await self._paths.touch(await self._paths.open(reading.stream.path))


def _where(chunk: HttpPage) -> dict[str, str]:
    found = headers.where(chunk.position, chunk.is_closed)
    if chunk.is_at_tail:
        found[headers.UP_TO_DATE] = "true"
    return found


def _bare(status: int, found: dict[str, str]) -> Response:
    response = Response(None, status, found)
    if status == 200:
        del response.headers["content-length"]  # the length of a GET's body is unknown
    return response
