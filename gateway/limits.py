"""What a client must stay below, and what a gateway spends at most. No I/O.

Each is read from the environment as `REALTIME_` and its name in capitals, for example
`REALTIME_SUBSCRIPTIONS=100`. The default stands beside it, and what raising it costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ConfigurationError

SPARE_BYTES = 4096  # of a frame that carries one record: what is around the record


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one gateway.

    Attributes:
        frame_bytes: Of a frame from a client that carries no data. Before `hello` every frame is
            one, so a stranger costs no more than this. On the gateway's own server a larger one,
            its fragments together, closes the connection while it arrives.
        data_frame_bytes: Of `append`, `run_create`, `run_patch` and `register`: records of 1 MiB,
            or a payload, and what is around them. Memory of the gateway while it is read.
        record_bytes: Of one record. It is kept whole in memory for as long as it is sent.
        subscriptions: Of one connection; about 2 KB each.
        requests: Under way on one connection. One that has as many is not read until one of them
            is answered.
        flight_bytes: Of one connection's requests under way and of answers that wait to be taken.
            Above it the connection is not read: what it may cost at once, and a frame.
        subject_connections: Open with tokens of one subject (workers and tokens without a subject
            are not counted); about 24 KB each.
        address_connections: Open from one address (of IPv6: from one /64); about 24 KB each.
        accepts_per_s: New connections of the whole gateway, after a burst of two seconds' worth.
            A greeting costs about 0.5 ms of CPU.
        hello_s: For `hello`, and for a token that is good; a stranger holds a socket so long.
        idle_s: Without a subscription or a request; workers may rest. A socket and 24 KB.
        send_s: A client that takes nothing and says nothing for so long is cut off.
        ring_bytes: Of all rings of recent records together; a reader that lags further behind
            than they reach reads the store.
        max_age_s: After which a connection is asked to come back anew (from 0.9 to 1 of it, at
            random); 0: never. Spreads clients over gateways that were added.
        drain_s: From SIGTERM to the process's end.
        lease_s: A worker that is away for so long, or a gateway of a Redis store, is taken for dead
            and its runs are marked crashed.
        long_poll_s: For something to be appended, of a request over HTTP that waits for it. Below
            what proxies allow, commonly 60.
        events_s: Of an answer of server-sent events (from 0.8 to 1 of it, at random), after which
            its reader comes back where it was: spreads readers over gateways, and lets caches
            collapse them.
    """

    frame_bytes: int = 64 << 10
    data_frame_bytes: int = 2 << 20
    record_bytes: int = 1 << 20
    subscriptions: int = 256
    requests: int = 64
    flight_bytes: int = 4 << 20
    subject_connections: int = 100
    address_connections: int = 1000
    accepts_per_s: float = 500.0
    hello_s: float = 10.0
    idle_s: float = 300.0
    send_s: float = 60.0
    ring_bytes: int = 256 << 20
    max_age_s: float = 0.0
    drain_s: float = 10.0
    lease_s: float = 60.0
    long_poll_s: float = 20.0
    events_s: float = 60.0

    def check(self) -> Limits:
        """Return the limits if they fit each other.

        Raises:
            ConfigurationError: names the two that do not.
        """
        if self.record_bytes + SPARE_BYTES > self.data_frame_bytes:
            raise ConfigurationError(
                f"REALTIME_RECORD_BYTES is {self.record_bytes}; with what is around a record that "
                f"does not fit REALTIME_DATA_FRAME_BYTES, which is {self.data_frame_bytes}"
            )
        return self


def arriving_bytes(limits: Limits) -> int:
    """Return the most that a server gathers of one message, after `hello`.

    It is more than any frame may have, so that one that is too large is answered with both numbers.
    """
    return 2 * limits.data_frame_bytes


DEFAULT_LIMITS = Limits()
