"""A reader that is behind its stream, as metrics and the operator's page see it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model.records import StreamKey


@dataclass(frozen=True, slots=True)
class LaggingReader:
    """A reader with records that it has not received yet.

    Attributes:
        connection: The connection's name in the log; `http` for a reader of Durable Streams.
        key: The stream.
        lag: Number of records.
    """

    connection: str
    key: StreamKey
    lag: int
