"""Backpressure of one connection: requests in progress, and results that wait to be sent."""

from __future__ import annotations

from gateway import protocol
from gateway._internal.wakeup import Wakeup
from gateway.model.limits import LIST_BYTES, Limits
from gateway.protocol import Request

MAX_ANSWERS = 256  # that wait, however small they are
BATCH_BYTES = 64 << 10  # of results that are written together
ANSWER_BYTES = 4096  # estimate for a result that does not exist yet

PONG = protocol.encode(protocol.Pong())


def cost_of(request: Request, frame_size: int) -> int:
    """Estimate the memory that a request holds until its result is sent, bytes."""
    match request:
        case protocol.Read(max_bytes=max_bytes):
            return frame_size + max_bytes
        case protocol.RunList() | protocol.RunsGet():
            return frame_size + LIST_BYTES
    return frame_size + ANSWER_BYTES


class Backpressure:
    """Counts requests and results; the socket's reader waits while there are too many.

    Args:
        limits: Its `requests` and `flight_bytes` apply.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._answers: list[str] = []  # few, since `is_full` stops the reader
        self._bytes = 0
        self._changed = Wakeup()
        self.requests = 0

    @property
    def bytes(self) -> int:
        """Estimated memory of requests and results, bytes."""
        return self._bytes

    @property
    def answers(self) -> int:
        """Number of results that wait."""
        return len(self._answers)

    @property
    def is_full(self) -> bool:
        """Whether the client must not be read now."""
        limits = self._limits
        return (
            self.requests >= limits.requests
            or self._bytes > limits.flight_bytes
            or len(self._answers) > MAX_ANSWERS
        )

    async def wait_for_room(self) -> None:
        """Wait until it is not full."""
        while self.is_full:
            await self._changed.wait()

    def begin(self, cost: int) -> None:
        """Count a request."""
        self.requests += 1
        self._bytes += cost

    def end(self, cost: int) -> None:
        """Uncount a request. Its result is counted by `put`."""
        self.requests -= 1
        self._bytes -= cost
        self._changed.set()

    def put(self, answer: str) -> None:
        """Queue a result. A client that reads nothing gets one pong for many pings."""
        if answer == PONG and PONG in self._answers:
            return
        self._answers.append(answer)
        self._bytes += len(answer)

    def take(self) -> str:
        """Remove and return the first waiting result.

        Raises:
            IndexError: there is none.
        """
        answer = self._answers.pop(0)
        self._bytes -= len(answer)
        self._changed.set()
        return answer

    def take_batch(self) -> list[str]:
        """Remove and return waiting results: up to `BATCH_BYTES`, but at least one if any."""
        lot = self._answers
        if self._bytes <= BATCH_BYTES:  # then all of them fit
            self._answers = []
        else:
            lot = lot[: _count_within(lot, BATCH_BYTES)]
            del self._answers[: len(lot)]
        self._bytes -= sum(map(len, lot))
        self._changed.set()
        return lot


def _count_within(answers: list[str], limit: int) -> int:
    size = 0
    for count, answer in enumerate(answers):
        size += len(answer)
        if size > limit:
            return max(1, count)
    return len(answers)
