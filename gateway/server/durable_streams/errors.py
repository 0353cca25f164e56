"""Error responses."""

from __future__ import annotations

from collections.abc import Mapping


class HttpRefusal(Exception):
    """A request that is rejected.

    Args:
        status: HTTP status.
        code: Code for programs, in the response's body.
        message: For people: the thing's name, the value and the limit.
        headers: Further headers of the response.
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
    """Make the error of a malformed request."""
    return HttpRefusal(400, "malformed_request", message)


def not_found(name: str) -> HttpRefusal:
    """Make the error of a missing stream."""
    return HttpRefusal(404, "stream_not_found", f"there is no stream {name}")


def gone(name: str) -> HttpRefusal:
    """Make the error of a deleted stream that is kept only for its forks."""
    return HttpRefusal(410, "stream_gone", f"the stream {name} was deleted; only its forks remain")


def conflict(message: str) -> HttpRefusal:
    """Make the error of an existing stream that differs from the request."""
    return HttpRefusal(409, "stream_conflict", message)


def position_gone(name: str) -> HttpRefusal:
    """Make the error of a position that the stream does not have, or no longer has."""
    return HttpRefusal(
        410,
        "position_gone",
        f"the stream {name} no longer has this offset: it was trimmed or created again; "
        "read again from -1",
    )
