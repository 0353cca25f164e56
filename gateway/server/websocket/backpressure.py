"""What one connection has in flight: requests under way, and answers that wait to be taken."""

from __future__ import annotations

from gateway import protocol
from gateway._internal.wakeup import Wakeup
from gateway.model.limits import LIST_BYTES, Limits
from gateway.protocol import Request

MAX_ANSWERS = 256  # that wait to be taken, however small they are
LOT_BYTES = 64 << 10  # of answers that are handed over together
ANSWER_BYTES = 4096  # what an answer is taken for as long as it is not there

PONG = protocol.encode(protocol.Pong())


def cost_of(request: Request, frame_size: int) -> int:
    """Estimate what a request holds of memory until it is answered, bytes."""
    match request:
        case protocol.Read(max_bytes=max_bytes):
            return frame_size + max_bytes
        case protocol.RunList() | protocol.RunsGet():
            return frame_size + LIST_BYTES
    return frame_size + ANSWER_BYTES


class Backpressure:
    """Counts, and lets the reader of the socket wait while there is too much.

    Args:
        limits: `requests` and `flight_bytes` of it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._answers: list[str] = []  # few: `is_full` sees to it
        self._bytes = 0
        self._changed = Wakeup()
        self.requests = 0

    @property
    def bytes(self) -> int:
        """Held by requests and answers, as far as can be told."""
        return self._bytes

    @property
    def answers(self) -> int:
        """How many answers wait."""
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

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.is_full:
            await self._changed.wait()

    def begin(self, cost: int) -> None:
        """Take note of a request."""
        self.requests += 1
        self._bytes += cost

    def end(self, cost: int) -> None:
        """Take note that a request is over; its answer is an answer of its own."""
        self.requests -= 1
        self._bytes -= cost
        self._changed.set()

    def put(self, answer: str) -> None:
        """Let an answer wait. One pong is as good as many to a client that takes none."""
        if answer == PONG and PONG in self._answers:
            return
        self._answers.append(answer)
        self._bytes += len(answer)

    def take(self) -> str:
        """Return the first answer that waits.

        Raises:
            IndexError: there is none.
        """
        answer = self._answers.pop(0)
        self._bytes -= len(answer)
        self._changed.set()
        return answer

    def take_lot(self) -> list[str]:
        """Return the first answers that wait, about `LOT_BYTES` of them at most; one if any."""
        lot = self._answers
        if self._bytes <= LOT_BYTES:  # so that all of them fit
            self._answers = []
        else:
            lot = lot[: _count_within(lot, LOT_BYTES)]
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
