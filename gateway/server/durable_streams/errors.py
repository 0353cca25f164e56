"""What is answered instead of a result."""

from __future__ import annotations

from collections.abc import Mapping


class HttpRefusal(Exception):
    """A request that cannot be done.

    Args:
        status: HTTP status.
        code: What programs look at, in the answer's body.
        message: For people: the thing's name, the limit and the number.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def malformed(message: str) -> HttpRefusal:
    """A request that says nothing that can be done."""
    return HttpRefusal(400, "malformed_request", message)


def not_found(name: str) -> HttpRefusal:
    """A stream that is not there."""
    return HttpRefusal(404, "stream_not_found", f"there is no stream {name}")


def gone(name: str) -> HttpRefusal:
    """A deleted stream that is kept only for its forks."""
    return HttpRefusal(410, "stream_gone", f"the stream {name} was deleted; only its forks remain")


def conflict(message: str) -> HttpRefusal:
    """A stream that is there, and otherwise than the request has it."""
    return HttpRefusal(409, "stream_conflict", message)


def position_gone(name: str) -> HttpRefusal:
    """A position that the stream does not have, or has no more."""
    return HttpRefusal(
        410,
        "position_gone",
        f"the stream {name} has nothing at this offset any more: it was trimmed, or made anew; "
        "read again from -1",
    )
