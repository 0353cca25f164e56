"""PUT, POST and DELETE.

Source:
    The Durable Streams Protocol 1.0, sections 5.1 to 5.4.
"""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.errors import OutOfOrder, RealtimeError, StreamEnded, WriterFenced, WriterGap
from gateway.model.log import Appended
from gateway.model.records import EndReason, Position, Writer
from gateway.sdk.values import input_schemas
from gateway.server.durable_streams import bodies, headers
from gateway.server.durable_streams.configuration import to_logical
from gateway.server.durable_streams.errors import HttpRefusal, conflict, malformed
from gateway.server.durable_streams.headers import AppendHeaders, CreateHeaders
from gateway.server.durable_streams.path_streams import PathStreams
from gateway.server.durable_streams.stream import JSON, HttpStream
from gateway.stores.base import OnAppended


async def read_body(request: Request) -> bytes:
    """Read a request's body.

    Raises:
        HttpRefusal: 413, it is over the limit.
    """
    receive, pieces, size, has_more = request.receive, list[bytes](), 0, True
    while has_more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        piece, has_more = message.get("body", b""), message.get("more_body", False)
        pieces.append(piece)
        size += len(piece)
        if size > bodies.MAX_BODY_BYTES:
            raise HttpRefusal(
                413,
                "body_too_large",
                f"the body is over the limit of {bodies.MAX_BODY_BYTES} bytes",
                {"Connection": "close"},  # the rest is not read
            )
    return b"".join(pieces)


class WriteHandler:
    """Makes the responses to writes.

    Args:
        paths: The streams of paths.
        max_bytes: Limit of one record.
    """

    def __init__(self, paths: PathStreams, max_bytes: int) -> None:
        self._paths = paths
        self._max_bytes = max_bytes

    async def create(self, path: str, creation: CreateHeaders, url: str, body: bytes) -> Response:
        """Create the stream of a path, or find an equal one."""
        stream, is_new = await self._paths.create(path, creation, body, self._max_bytes)
        if not is_new:
            await self._paths.touch(stream)
        position, end = await stream.tail()
        found = {"Content-Type": stream.configuration.content_type}
        if is_new:
            found["Location"] = url
        found |= headers.where(position, end is not None)
        return Response(None, 201 if is_new else 200, found)

    async def find(self, stream: HttpStream, creation: CreateHeaders, body: bytes) -> Response:
        """Make the response to a PUT of a run's stream, which always exists."""
        _check_of_run(creation, body)
        position, end = await stream.tail()
        is_closed = end is not None
        if creation.closes != is_closed:
            raise conflict(f"{stream.name} is {'closed' if is_closed else 'open'}")
        return Response(None, 200, {"Content-Type": JSON} | headers.where(position, is_closed))

    async def append(self, stream: HttpStream, addition: AppendHeaders, body: bytes) -> Response:
        """Append to a stream, close it, or both in one step."""
        if body and _is_of_another_type(stream, addition):
            await _check_open(stream)
        records = self.records(stream, addition, body)
        try:
            outcome: Appended | Exception = await stream.store.append(
                stream.key,
                records,
                writer=addition.producer,
                end=_end(addition),
                order=addition.order,
            )
        except RealtimeError as error:
            outcome = error
        return await self.answer(stream, addition, outcome, is_empty=not records)

    def append_nowait(
        self, stream: HttpStream, addition: AppendHeaders, records: list[bytes], done: OnAppended
    ) -> None:
        """Start an append; `done` gets its outcome, from which `answer` makes the response."""
        stream.store.begin_append(
            stream.key,
            records,
            done,
            writer=addition.producer,
            end=_end(addition),
            order=addition.order,
        )

    def immediate_response(
        self, stream: HttpStream, addition: AppendHeaders, outcome: Appended | Exception
    ) -> Response | None:
        """Make the response to an append; None if that needs a read or a write of the store."""
        if isinstance(outcome, Exception) or not self._paths.is_touched(stream):
            return None
        if outcome.position.offset == 0 or outcome.duplicate:
            return None
        position = to_logical(outcome.position, stream.start)
        return _answer(position, addition.closes, addition, outcome, is_empty=False)

    async def answer(
        self,
        stream: HttpStream,
        addition: AppendHeaders,
        outcome: Appended | Exception,
        *,
        is_empty: bool,
    ) -> Response:
        """Make the response to an append.

        Args:
            stream: The stream.
            addition: The request's headers.
            outcome: The result, or the error.
            is_empty: There were no records.

        Raises:
            HttpRefusal: the append was rejected.
            RealtimeError: the append failed, by no fault of the request.
        """
        match outcome:
            case StreamEnded():
                return await _closed(stream, addition, is_empty=is_empty)
            case WriterFenced() | WriterGap():
                raise _refused_producer(outcome, addition.producer)
            case OutOfOrder():
                raise HttpRefusal(409, outcome.code, outcome.message)
            case Exception():
                raise outcome
        await self._paths.touch(stream)
        return await _appended(stream, addition, outcome, is_empty=is_empty)

    def records(self, stream: HttpStream, addition: AppendHeaders, body: bytes) -> list[bytes]:
        """Make the records of an append's body.

        Raises:
            HttpRefusal: the stream does not accept the body.
            InvalidValue: a record does not match the stream's schema.
        """
        if not body:
            if not addition.closes:
                raise malformed(f"the body is empty; only {headers.CLOSED}: true may come alone")
            return []
        if addition.content_type is None:
            raise malformed("a body needs a Content-Type")
        if _is_of_another_type(stream, addition):
            there = stream.configuration.content_type
            raise conflict(f"{stream.name} has content type {there}, not {addition.content_type}")
        records = bodies.split(stream.form, body, self._max_bytes)
        if not records:
            raise malformed("the body is an empty array, which appends nothing")
        if stream.path is None:
            for record in records:
                input_schemas.check(stream.key.stream_id, record)
        return records


def _end(addition: AppendHeaders) -> EndReason | None:
    return "completed" if addition.closes else None


def _is_of_another_type(stream: HttpStream, addition: AppendHeaders) -> bool:
    there, given = stream.configuration.content_type, addition.content_type
    return given is not None and headers.media_type(given) != headers.media_type(there)


async def delete_path(paths: PathStreams, path: str) -> Response:
    """Delete the stream of a path."""
    await paths.delete(path)
    return Response(None, 204)


async def delete_of_run(stream: HttpStream) -> Response:
    """Delete the records of a run's stream, which stays ended."""
    await stream.tail()  # raises if it is already deleted
    await stream.store.delete(stream.key)
    return Response(None, 204)


def _check_of_run(creation: CreateHeaders, body: bytes) -> None:
    """Check a PUT of a run's stream: it is JSON and lives as long as its run."""
    if creation.content_type and headers.media_type(creation.content_type) != JSON:
        raise conflict(f"streams of runs are {JSON}, not {creation.content_type}")
    if creation.ttl_s is not None or creation.expires_at is not None or creation.fork is not None:
        raise conflict("streams of runs live as long as their run, and begin empty")
    if body:
        raise malformed("streams of runs are always there; append to them with POST")


async def _check_open(stream: HttpStream) -> None:
    position, end = await stream.tail()
    if end is not None:
        raise _closed_refusal(stream, position)


async def _closed(stream: HttpStream, addition: AppendHeaders, *, is_empty: bool) -> Response:
    position, _ = await stream.tail()
    if is_empty and addition.producer is None:  # closing twice is idempotent
        return Response(None, 204, headers.where(position, True))
    raise _closed_refusal(stream, position)


def _closed_refusal(stream: HttpStream, position: Position) -> HttpRefusal:
    return HttpRefusal(
        409,
        StreamEnded.code,
        f"the stream {stream.name} is closed; nothing can be appended",
        headers.where(position, True),
    )


def _refused_producer(error: WriterFenced | WriterGap, producer: Writer | None) -> HttpRefusal:
    if isinstance(error, WriterFenced):
        return HttpRefusal(
            403, error.code, error.message, {headers.PRODUCER_EPOCH: str(error.epoch)}
        )
    if error.is_new_epoch:
        return HttpRefusal(400, error.code, f"a new epoch begins with 0: {error.message}")
    assert producer is not None
    return HttpRefusal(
        409,
        error.code,
        error.message,
        {
            headers.EXPECTED_SEQUENCE: str(error.expected),
            headers.RECEIVED_SEQUENCE: str(producer.sequence),
        },
    )


async def _appended(
    stream: HttpStream, addition: AppendHeaders, done: Appended, *, is_empty: bool
) -> Response:
    position, is_closed = to_logical(done.position, stream.start), addition.closes
    if done.position.offset == 0 or done.duplicate:
        position, end = await stream.tail()
        is_closed = end is not None
    return _answer(position, is_closed, addition, done, is_empty=is_empty)


def _answer(
    position: Position, is_closed: bool, addition: AppendHeaders, done: Appended, *, is_empty: bool
) -> Response:
    found = headers.where(position, is_closed)
    if addition.producer is None:
        return Response(None, 204, found)
    found[headers.PRODUCER_EPOCH] = str(addition.producer.epoch)
    if done.next_sequence is not None:
        found[headers.PRODUCER_SEQUENCE] = str(done.next_sequence - 1)
    return Response(None, 204 if done.duplicate or is_empty else 200, found)
