"""The routes: permissions of requests, and the headers of every response.

Source:
    PROTOCOL.md, sections 10 and 12.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway._internal.counters import Counters
from gateway.auth.permissions import Permissions, require
from gateway.errors import RealtimeError, RunNotFound
from gateway.fanout.hub import Hub
from gateway.fanout.lag import LaggingReader
from gateway.model.log import Appended
from gateway.model.records import RUN_STREAM, StreamKey, check_run_id, check_stream_id
from gateway.protocol.authorization import require_read
from gateway.server.durable_streams import headers
from gateway.server.durable_streams.errors import HttpRefusal, malformed, not_found
from gateway.server.durable_streams.live import LiveReaders, ReaderDeps
from gateway.server.durable_streams.path_streams import PathStreams
from gateway.server.durable_streams.reading import Clock, ReadHandler, ReadRequest, ReadTimeouts
from gateway.server.durable_streams.stream import RUN_STREAM_CONFIGURATION, HttpStream
from gateway.server.durable_streams.writing import (
    WriteHandler,
    delete_of_run,
    delete_path,
    read_body,
)
from gateway.server.fast_path import STREAM_PREFIX, Respond
from gateway.stores.base import Store, find_run

MAX_PATH = 512  # characters
MAX_SEGMENT = 128

_SEGMENT = re.compile(r"[A-Za-z0-9._~@:=+-]{1,128}\Z")
ANONYMOUS = Permissions(
    frozenset({"read:runs:*", "write:runs:*", "read:paths:*", "write:paths:*"}), float("inf")
)

_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),  # the token protects the response
)
_NOT_STORED = (b"cache-control", b"no-store")
_BY_TOKEN = (b"vary", b"Authorization")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the endpoints.

    Attributes:
        record_bytes: Limit of one record, bytes.
        times: Time limits of waiting responses.
        is_open: No token is needed to read, so caches may share responses.
    """

    record_bytes: int
    times: ReadTimeouts
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    """A request, the stream that it names, and its bearer's permissions."""

    request: Request
    name: str
    run: StreamKey | None
    access: Permissions
    is_still_allowed: Callable[[], bool]


@dataclass(frozen=True)
class DurableStreams:
    """The endpoints, over an open store.

    Args:
        store: Returns the store, or raises while there is none.
        hub: Returns the hub, likewise.
        paths: Returns the streams of paths, likewise; raises if the store has none.
        access: Returns the permissions of a request's bearer, or raises.
        admit: Counts a request that waits for records, or raises; returns a function that uncounts
            it.
        options: Options of the endpoints.
        counters: Counters of the gateway.
        clock: Time and randomness.
    """

    store: Callable[[], Store]
    hub: Callable[[], Hub]
    paths: Callable[[], PathStreams]
    access: Callable[[Request], Permissions]
    admit: Callable[[Request, Permissions], Callable[[], None]]
    options: Options
    counters: Counters
    clock: Clock = field(default_factory=lambda: Clock(time.time, random.random))
    _readers: LiveReaders = field(default_factory=LiveReaders)

    @property
    def live_readers(self) -> int:
        """Number of requests that wait for records."""
        return len(self._readers)

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield the waiting readers that have records to send."""
        return self._readers.lagging()

    def shut_down(self) -> None:
        """End all waiting responses; their readers resume elsewhere."""
        self._readers.cancel()

    def revalidate(self) -> None:
        """Revalidate the token of every live reader."""
        self._readers.revalidate()

    @property
    def routes(self) -> list[Route]:
        """The endpoints' routes."""
        methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
        return [Route(STREAM_PREFIX + "{name:path}", self.serve, methods=methods)]

    async def serve_asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request below the prefix as an ASGI application."""
        scope["path_params"] = {"name": scope["path"].removeprefix(STREAM_PREFIX)}
        response = await self.serve(Request(scope, receive))
        await response(scope, receive, send)

    async def serve(self, request: Request) -> Response:
        """Return the response to a request; an error becomes a response too."""
        return await self._answered(self._answer(request))

    def begin_append(self, scope: Scope, body: bytes, answer: Respond) -> bool:
        """Start an append without a task, if it only has to wait for its commit.

        Args:
            scope: ASGI scope of a POST to a stream.
            body: The whole body.
            answer: Called once, on the event loop, with the response that `serve` would return, or
                with an awaitable of it.

        Returns:
            Whether it was started. If not, nothing was done, and `serve_asgi` has to serve it.
        """
        scope["path_params"] = {"name": scope["path"].removeprefix(STREAM_PREFIX)}
        request = Request(scope)
        try:
            call = self._call(request)
            self._require_write(call)
            stream = self._cached(call)
            if stream is None or not body:
                return False
            addition = headers.read_append_headers(headers.named(scope["headers"]))
            writing = self._writing()
            records = writing.records(stream, addition, body)
        except (HttpRefusal, RealtimeError):
            return False  # `serve` makes the error response
        self.counters.bytes_received += len(body)

        def done(outcome: Appended | Exception) -> None:
            response = writing.immediate_response(stream, addition, outcome)
            if response is not None:
                answer(self._finished(response))
            else:
                answer(self._answered(writing.answer(stream, addition, outcome, is_empty=False)))

        writing.append_nowait(stream, addition, records, done)
        return True

    def _cached(self, call: _Call) -> HttpStream | None:
        if call.run is not None:
            return self._of_run(call.name, call.run)
        return self.paths().cached(call.name)

    async def _answered(self, answering: Awaitable[Response]) -> Response:
        try:
            response = await answering
        except HttpRefusal as refused:
            response = self._refuse(refused.status, refused, refused.headers)
        except RunNotFound as error:
            response = self._refuse(404, error, {})
        except RealtimeError as error:
            status = 400 if error.http_status == 422 else error.http_status
            more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            if error.retry_after_s is not None:
                more["Retry-After"] = str(math.ceil(error.retry_after_s))
            response = self._refuse(status, error, more)
        return self._finished(response)

    def _finished(self, response: Response) -> Response:
        """Add the headers that every response has."""
        raw = response.raw_headers
        if not any(name == b"cache-control" for name, _ in raw):
            raw.append(_NOT_STORED)
        raw += _SECURITY
        if not self.options.is_open:
            raw.append(_BY_TOKEN)
        return response

    def _refuse(
        self, status: int, error: HttpRefusal | RealtimeError, more: dict[str, str]
    ) -> Response:
        self.counters.refusals[error.code] += 1
        body = {"code": error.code, "message": error.message, "retryable": status in (429, 503)}
        return JSONResponse(body, status, more)

    async def _answer(self, request: Request) -> Response:
        call = self._call(request)
        return await _BY_METHOD[request.method](self, call)

    async def _get(self, call: _Call) -> Response:
        stream = await self._readable(call)
        reading = ReadRequest(
            call.request,
            stream,
            call.is_still_allowed,
            lambda: self.admit(call.request, call.access),
        )
        return await self._reader().get(reading)

    async def _head(self, call: _Call) -> Response:
        return await self._reader().head(await self._readable(call))

    async def _put(self, call: _Call) -> Response:
        self._require_write(call)
        creation = headers.read_create_headers(headers.named(call.request.scope["headers"]))
        if creation.fork is not None:
            source = self._source(creation.fork.source)
            may = call.access.may_read_path(source)
            require(may, f"read path {source}")
            creation = creation._replace(fork=creation.fork._replace(source=source))
        body = await self._body(call)
        if call.run is not None:
            return await self._writing().find(self._of_run(call.name, call.run), creation, body)
        url = str(call.request.url.replace(query="", fragment=""))
        return await self._writing().create(call.name, creation, url, body)

    async def _post(self, call: _Call) -> Response:
        self._require_write(call)
        stream = await self._open(call)
        addition = headers.read_append_headers(headers.named(call.request.scope["headers"]))
        return await self._writing().append(stream, addition, await self._body(call))

    async def _body(self, call: _Call) -> bytes:
        body = await read_body(call.request)
        self.counters.bytes_received += len(body)
        return body

    async def _delete(self, call: _Call) -> Response:
        if call.run is None:
            self._require_write(call)
            return await delete_path(self.paths(), call.name)
        log = StreamKey(call.run.run_id, RUN_STREAM)
        require(call.access.may_write(log), f"change run {log.run_id}")
        return await delete_of_run(self._of_run(call.name, call.run))

    # ---- which stream, and who ----

    def _call(self, request: Request) -> _Call:
        access = self.access(request)
        name = check_name(request.path_params["name"])
        return _Call(
            request, name, _key_of_run(name), access, lambda: self._is_still_allowed(request)
        )

    def _is_still_allowed(self, request: Request) -> bool:
        try:
            self.access(request)
        except RealtimeError:
            return False
        return True

    async def _readable(self, call: _Call) -> HttpStream:
        if call.run is None:
            require(call.access.may_read_path(call.name), f"read path {call.name}")
        else:
            await self._require_read_of_run(call.access, call.run)
        return await self._open(call)

    async def _require_read_of_run(self, access: Permissions, key: StreamKey) -> None:
        # Without permission, a missing and an existing run get the same error.
        depends = access.depends_on_run()
        require_read(access, key, await find_run(self.store(), key.run_id) if depends else None)

    def _require_write(self, call: _Call) -> None:
        if call.run is None:
            require(call.access.may_write_path(call.name), f"write path {call.name}")
        else:
            require(call.access.may_write(call.run), f"append to stream {call.run}")

    async def _open(self, call: _Call) -> HttpStream:
        if call.run is not None:
            return self._of_run(call.name, call.run)
        return await self.paths().open(call.name)

    def _of_run(self, name: str, key: StreamKey) -> HttpStream:
        return HttpStream(name, key, RUN_STREAM_CONFIGURATION, self.store(), None)

    def _source(self, url_path: str) -> str:
        path = unquote(url_path).partition("?")[0]
        if STREAM_PREFIX not in path:
            raise malformed(
                f"{headers.FORKED_FROM} is {path[:80]!r}; it begins with {STREAM_PREFIX}"
            )
        name = check_name(path.partition(STREAM_PREFIX)[2])
        if _key_of_run(name) is not None:
            raise HttpRefusal(
                409, "stream_conflict", f"{name} belongs to a run, which has no forks"
            )
        return name

    # ---- what answers ----

    def _reader(self) -> ReadHandler:
        deps = ReaderDeps(self.hub(), self.paths(), self._readers)
        options = self.options
        return ReadHandler(deps, options.times, self.clock, options.is_open, self.counters)

    def _writing(self) -> WriteHandler:
        return WriteHandler(self.paths(), self.options.record_bytes)


_BY_METHOD: dict[str, Callable[[DurableStreams, _Call], Awaitable[Response]]] = {
    "GET": DurableStreams._get,
    "HEAD": DurableStreams._head,
    "PUT": DurableStreams._put,
    "POST": DurableStreams._post,
    "DELETE": DurableStreams._delete,
}


@lru_cache(4096)  # 1 KB each
def check_name(name: str) -> str:
    """Check the name of a stream: what follows the prefix in a URL.

    Raises:
        HttpRefusal: 400, the name breaks a rule; 404, it is reserved.
    """
    segments = name.split("/")
    if len(name) > MAX_PATH or not all(_SEGMENT.match(each) for each in segments):
        raise malformed(
            f"the path {name[:80]!r} is not allowed: up to {MAX_PATH} characters, in segments of 1 "
            f"to {MAX_SEGMENT} of A-Z a-z 0-9 . _ ~ @ : = + -"
        )
    if any(each in (".", "..") for each in segments):
        raise malformed(f"the path {name[:80]!r} has a segment of dots")
    if segments[0].startswith("__"):
        # reserved for interfaces of the protocol that this gateway does not have
        raise not_found(name[:80])
    return name


def _key_of_run(name: str) -> StreamKey | None:
    run_id, _, stream_id = name.partition("/")
    if not run_id.startswith("run_"):
        return None
    return StreamKey(check_run_id(run_id), check_stream_id(stream_id))
