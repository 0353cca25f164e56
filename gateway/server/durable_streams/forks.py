"""What a fork inherits: the point of divergence, the inherited parts, and the first own record.

A fork copies no records. Its configuration names the parts of other streams that come before its
own records; only a fork inside a record copies the first bytes of that record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from gateway.model.records import Position
from gateway.server.durable_streams import bodies
from gateway.server.durable_streams.configuration import Configuration
from gateway.server.durable_streams.errors import conflict, malformed
from gateway.server.durable_streams.headers import CreateHeaders, ForkSpec
from gateway.server.durable_streams.idempotent_create import same_type
from gateway.server.durable_streams.stream import HttpStream

MAX_PARTS = 32  # streams that one stream inherits from: the depth of forks of forks
EPOCH_WAIT_S = 0.001
EPOCH_WAITS = 50

_EPOCH_TIME = slice(0, 11)  # the hex digits of an epoch that hold its time in milliseconds


async def inherit(
    source: HttpStream,
    creation: CreateHeaders,
    configuration: Configuration,
    clock_ms: Callable[[], int],
) -> tuple[Configuration, list[bytes]]:
    """Add what a new stream inherits to its configuration.

    Args:
        source: The stream to fork, which belongs to a path.
        creation: The headers of the request; they name a fork.
        configuration: The new stream's, without its inheritance.
        clock_ms: Milliseconds since 1970 UTC.

    Returns:
        The configuration, and the records that the fork's own log begins with.

    Raises:
        HttpRefusal: 400, the source has no such offset; 409, the content type differs or the forks
            are too deep.
    """
    fork, inherited = creation.fork, source.configuration
    assert fork is not None
    assert source.path is not None
    if creation.content_type and not same_type(creation.content_type, inherited.content_type):
        raise conflict(
            f"the stream {source.path} has content type {inherited.content_type}, which its forks "
            f"share; this asks for {creation.content_type}"
        )
    position, stop, first = await _divergence(source, fork)
    parts = inherited.inherited(source.path, stop)
    if len(parts) > MAX_PARTS:
        raise conflict(f"forks of forks go {MAX_PARTS} deep; {source.path} is at the limit")
    has_own_life = creation.ttl_s is not None or creation.expires_at is not None
    life = configuration if has_own_life else inherited
    await _wait_for_newer_epoch(position.epoch, clock_ms)
    return msgspec.structs.replace(
        configuration,
        content_type=creation.content_type or inherited.content_type,
        ttl_s=life.ttl_s,
        expires_at=life.expires_at,
        expires_ms=life.expires_ms,
        parts=parts,
        source=source.path,
        source_generation=inherited.generation,
        forked_at=str(fork.at) if fork.at is not None else None,
        fork_position=str(position),
        forked_more=fork.more,
    ), first


async def _divergence(source: HttpStream, fork: ForkSpec) -> tuple[Position, int, list[bytes]]:
    """Return the fork's position, the offset at which inheritance stops, and its first records."""
    tail, _ = await source.tail()
    position = fork.at if fork.at is not None else tail
    if position.offset > tail.offset or not await source.holds(position):
        raise malformed(f"the stream {source.path} has no offset {position}")
    if fork.more == 0:
        return position, position.offset, []
    if source.form == "json":
        if position.offset + fork.more > tail.offset:
            raise malformed(
                f"the stream {source.path} has {tail.offset - position.offset} values after "
                f"{position}; {fork.more} are to be inherited"
            )
        return position, position.offset + fork.more, []
    page = await source.read(position, 1)
    data = bodies.unwrap(page.records[0]) if page.records else b""
    if fork.more > len(data):
        raise malformed(
            f"the record of the stream {source.path} after {position} is {len(data)} bytes long; "
            f"{fork.more} are to be inherited"
        )
    if fork.more == len(data):
        return position, position.offset + 1, []
    return position, position.offset, [bodies.wrap(data[: fork.more])]


async def _wait_for_newer_epoch(epoch: str, clock_ms: Callable[[], int]) -> None:
    # The fork's own offsets must sort after the inherited ones, and an epoch begins with the time:
    # wait until a new epoch sorts after the source's. The wait ends after 50 ms, so offsets may
    # still sort wrongly when the clocks of two gateways differ by more than that.
    for _ in range(EPOCH_WAITS):
        if f"{clock_ms():011x}" > epoch[_EPOCH_TIME]:
            return
        await asyncio.sleep(EPOCH_WAIT_S)
