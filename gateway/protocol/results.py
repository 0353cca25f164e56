"""The values of `result` frames, by request: what `server/websocket/requests.py` returns.

The gateway writes these values from the store's; clients decode the fields that they need. These
types describe the protocol, and tests compare real answers with them.

Source:
    PROTOCOL.md, section 4.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.model.records import EndReason
from gateway.model.runs import Run
from gateway.protocol import client_frames as asked
from gateway.protocol.gateway_frames import PageFields


class StreamHead(msgspec.Struct, frozen=True):
    """The end position of a stream, its earliest kept position, and its end reason."""

    position: str
    earliest: str
    end: EndReason | None


class RunAt(msgspec.Struct, frozen=True):
    """A run, and the position of its log that it reflects."""

    run: Run
    position: str


class RunsAt(msgspec.Struct, frozen=True):
    """The runs of sets, and the positions of the sets' logs that they reflect."""

    runs: list[Run]
    has_more: bool
    positions: list[str]


RESULTS: dict[type[msgspec.Struct], Any] = {
    asked.Head: StreamHead,
    asked.Read: PageFields,
    asked.Delete: None,
    asked.RunCreate: Run,
    asked.RunPatch: Run,
    asked.RunDelete: bool,
    asked.RunGet: RunAt,
    asked.RunList: list[Run],
    asked.RunsGet: RunsAt,
    asked.Spend: bool,
    asked.Register: None,
}
"""The type of each request's value; the answer to `append` is an `appended` frame."""
