"""Whether an existing stream is the one that a request would create."""

from __future__ import annotations

from gateway.server.durable_streams.configuration import Configuration
from gateway.server.durable_streams.errors import conflict
from gateway.server.durable_streams.headers import DEFAULT_TYPE, CreateHeaders, ForkSpec, media_type
from gateway.server.durable_streams.stream import HttpStream


def same_type(a: str, b: str) -> bool:
    """Whether two content types are equal, apart from parameters."""
    return media_type(a) == media_type(b)


async def check_idempotent_create(stream: HttpStream, creation: CreateHeaders) -> None:
    """Check that an existing stream is the one that a request would create.

    Raises:
        HttpRefusal: 409, it differs.
    """
    there, fork = stream.configuration, creation.fork
    asked = creation.content_type or (there.content_type if fork is not None else DEFAULT_TYPE)
    if not same_type(asked, there.content_type):
        raise conflict(f"{stream.name} is there with content type {there.content_type}")
    has_life = creation.ttl_s is not None or creation.expires_at is not None
    if (has_life or fork is None) and (creation.ttl_s, creation.expires_ms) != (
        there.ttl_s,
        there.expires_ms,
    ):
        raise conflict(f"{stream.name} is there with another time to live")
    if not _same_fork(there, fork):
        raise conflict(f"{stream.name} is there with another beginning")
    _, end = await stream.tail()
    if (end is not None) != creation.closes:
        raise conflict(f"{stream.name} is there and {'closed' if end is not None else 'open'}")


def _same_fork(there: Configuration, fork: ForkSpec | None) -> bool:
    if fork is None:
        return there.source is None
    at = there.forked_at if fork.at is None else there.fork_position
    asked = None if fork.at is None else str(fork.at)
    return (there.source, at, there.forked_more) == (fork.source, asked, fork.more)
