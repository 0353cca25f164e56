"""What a connection's state machine asks its carrier to do: values, carried out in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gateway.auth.permissions import Permissions
from gateway.errors import ConnectionAged, ShuttingDown
from gateway.model.records import Position, RunSet, StreamKey
from gateway.protocol import FromLast, Request


@dataclass(frozen=True, slots=True)
class Send:
    """Send this text."""

    text: str
    refused: str | None = field(default=None, compare=False)  # the error's code, to be counted


@dataclass(frozen=True, slots=True)
class Open:
    """Look up the run and the stream's head, then call `opened` or `failed`."""

    id: int
    key: StreamKey
    start: Literal["beginning", "latest"] | Position | FromLast
    throttle_s: float
    as_run: bool  # the run as it is, then its changes: the cursor stands where the run was read
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OpenSet:
    """Look up a set of runs, then call `opened_set` or `failed`."""

    id: int
    sets: tuple[RunSet, ...]
    limit: int
    throttle_s: float
    skip: frozenset[str]


@dataclass(frozen=True, slots=True)
class ExcludeFields:
    """Leave fields of runs out of the frames of a subscription from now on."""

    id: int
    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class Stop:
    """Send nothing more for this subscription."""

    id: int


@dataclass(frozen=True, slots=True)
class Execute:
    """Carry out a request at the store, then call `answered` or `failed`."""

    request: Request
    skip: frozenset[str] = frozenset()  # fields of runs that the answer leaves out
    # If given, the run that is read is looked up first: only its tags or its batch can allow it.
    judged_by: Permissions | None = None


@dataclass(frozen=True, slots=True)
class RegisterOwner:
    """Register the connection as the worker of this name."""

    owner: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket."""

    code: int
    reason: str

    @property
    def is_gentle(self) -> bool:
        """Whether the client caused no error: pending requests are answered before the close."""
        return self.code in (ShuttingDown.close_code, ConnectionAged.close_code)


Command = Send | Open | OpenSet | ExcludeFields | Stop | Execute | RegisterOwner | Close
