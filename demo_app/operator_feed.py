"""The operator page's feed: a run that samples the gateway's metrics once a second.

One run serves all visitors. The first visitor starts it. It ends when its stream has had no reader
for `IDLE_TIMEOUT_S`, or after `MAX_FEED_S`; the next visitor then starts another one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway import current_run, runs, streams, task
from gateway.errors import RunNotFound
from gateway.fanout.lag import LaggingReader
from gateway.model.records import StreamKey
from gateway.server.gateway import Gateway
from gateway.server.ops.endpoints import is_local
from gateway.server.ops.snapshot import Snapshot

SAMPLE_INTERVAL_S = 1.0
IDLE_TIMEOUT_S = 30.0  # without a reader
MAX_FEED_S = 900.0  # limits the length of one run's stream
MAX_ROWS = 10  # per table
SAMPLES_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A live stream. Run ids are shortened: a full id would let a visitor open that run's page."""

    run: str
    stream: str
    per_s: float
    readers: int


@dataclass(frozen=True, slots=True)
class ReaderRow:
    """A reader that lags behind its stream."""

    connection: str
    stream: str
    behind: int


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """Counts of one error code that the gateway has sent to clients."""

    code: str
    last_minute: int
    total: int


@dataclass(frozen=True, slots=True)
class GatewayMetrics:
    """One sample of the gateway. `sent_levels` are percentages of the last minute's peak rate."""

    clock: str
    state: str
    connections: int
    subscriptions: int
    live_streams: int
    appended_per_s: float
    sent_per_s: float
    sent_kb_per_s: float
    delivery_ms: str
    loop_ms: str
    memory_mb: int
    peak_per_s: float
    sent_levels: list[int] = field(default_factory=list)
    rates: list[StreamRow] = field(default_factory=list)
    lagging: list[ReaderRow] = field(default_factory=list)
    refusals: list[RefusalRow] = field(default_factory=list)


metrics = streams.define("gateway-metrics", GatewayMetrics)


class RateTracker:
    """Computes rates from the counters of consecutive snapshots.

    Args:
        first: The snapshot that the first rates are computed against.
        at_s: Monotonic time of that snapshot, in seconds.
    """

    def __init__(self, first: Snapshot, at_s: float) -> None:
        self._sent = deque([0.0] * SAMPLES_PER_MINUTE, SAMPLES_PER_MINUTE)
        refusals = dict(first.counters.refusals)
        self._refused: deque[dict[str, int]] = deque([refusals], SAMPLES_PER_MINUTE + 1)
        self._remember(first, at_s)

    def _remember(self, now: Snapshot, at_s: float) -> None:
        counters = now.counters
        self._at_s = at_s
        self._counts = (counters.records_appended, counters.records_sent, counters.bytes_sent)
        self._records = {stream.key: stream.records for stream in now.streams}
        self._delivery = list(counters.delivery_s.counts)
        self._loop = list(counters.loop_lag_s.counts)

    def update(self, now: Snapshot, at_s: float, clock: str) -> GatewayMetrics:
        """Return the metrics of a snapshot, with rates since the previous one.

        Args:
            now: The snapshot.
            at_s: Monotonic time of the snapshot, in seconds.
            clock: Wall-clock time to display.
        """
        elapsed_s = max(at_s - self._at_s, 1e-3)
        counters = now.counters
        counts = (counters.records_appended, counters.records_sent, counters.bytes_sent)
        appended, sent, sent_bytes = (
            (after - before) / elapsed_s for after, before in zip(counts, self._counts, strict=True)
        )
        self._sent.append(sent)
        peak = max(self._sent)
        self._refused.append(dict(counters.refusals))
        result = GatewayMetrics(
            clock=clock,
            state=now.not_ready_reason or "ready",
            connections=now.connections,
            subscriptions=now.subscriptions,
            live_streams=len(now.streams),
            appended_per_s=round(appended, 1),
            sent_per_s=round(sent, 1),
            sent_kb_per_s=round(sent_bytes / 1000, 1),
            delivery_ms=_ms(counters.delivery_s.quantile(0.99, self._delivery)),
            loop_ms=_ms(counters.loop_lag_s.quantile(0.99, self._loop)),
            memory_mb=round(now.memory_bytes / 1e6),
            peak_per_s=round(peak, 1),
            sent_levels=[round(100 * each / peak) if peak else 0 for each in self._sent],
            rates=self._rates(now, elapsed_s),
            lagging=_readers(now.lagging),
            refusals=self._refusals(),
        )
        self._remember(now, at_s)
        return result

    def _rates(self, now: Snapshot, elapsed_s: float) -> list[StreamRow]:
        rows = [
            StreamRow(
                _short(each.key.run_id),
                each.key.stream_id,
                round((each.records - self._records.get(each.key, each.records)) / elapsed_s, 1),
                each.readers,
            )
            for each in now.streams
        ]
        return sorted(rows, key=lambda row: (-row.per_s, -row.readers, row.stream))[:MAX_ROWS]

    def _refusals(self) -> list[RefusalRow]:
        before, now = self._refused[0], self._refused[-1]
        rows = [RefusalRow(code, n - before.get(code, 0), n) for code, n in now.items()]
        return sorted(rows, key=lambda row: (-row.last_minute, -row.total, row.code))[:MAX_ROWS]


def _readers(lagging: Iterable[LaggingReader]) -> list[ReaderRow]:
    rows = [ReaderRow(each.connection, _name(each.key), each.lag) for each in lagging]
    return sorted(rows, key=lambda row: -row.behind)[:MAX_ROWS]


def _name(key: StreamKey) -> str:
    return f"{_short(key.run_id)}/{key.stream_id}"


def _short(run_id: str) -> str:
    return f"…{run_id[-6:]}"


def _ms(bound_s: float | None) -> str:
    if bound_s is None:
        return "none"
    return "over 10 s" if bound_s == math.inf else f"≤ {bound_s * 1000:g} ms"


_gateway: Gateway | None = None
_feed_run_id: str | None = None
_starting = asyncio.Lock()


def set_gateway(gateway: Gateway | None) -> None:
    """Set the gateway to sample, or None if the gateway runs in another process."""
    global _gateway
    _gateway = gateway


def may_operate(address: str, headers: Mapping[str, str], bearer: str) -> bool:
    """Return whether a visitor may read the gateway's metrics.

    Args:
        address: Peer address of the visitor's socket.
        headers: Headers of the request. In development, a local visitor needs no credentials.
        bearer: The secret key, or a token with `read:metrics:*`.
    """
    if _gateway is None:
        return False
    if bearer:
        return _gateway.may_operate(bearer)
    return _gateway.settings.env == "development" and is_local(address, headers)


async def ensure_feed() -> str | None:
    """Return the id of the feed's run, and start a run if none is active.

    Returns None if this process has no gateway.
    """
    global _feed_run_id
    if _gateway is None:
        return None
    async with _starting:  # concurrent visitors must not start several runs
        if _feed_run_id is None or await _is_finished(_feed_run_id):
            _feed_run_id = (await watch_gateway.trigger()).id
        return _feed_run_id


async def _is_finished(run_id: str) -> bool:
    try:
        return (await runs.retrieve(run_id)).is_finished
    except RunNotFound:  # deleted by retention
        return True


@task(max_duration_s=MAX_FEED_S + 60)
async def watch_gateway() -> int:
    """Append one sample of this process's gateway per second until the feed has no readers.

    Returns:
        The number of samples.
    """
    context = current_run()
    if _gateway is None or context is None:
        raise RuntimeError("this process has no gateway to sample")
    began_s = read_s = time.monotonic()
    rates = RateTracker(_gateway.snapshot(), began_s)
    samples = 0
    while (now_s := time.monotonic()) - read_s < IDLE_TIMEOUT_S and now_s - began_s < MAX_FEED_S:
        await asyncio.sleep(SAMPLE_INTERVAL_S)
        now = _gateway.snapshot()
        # A snapshot lists only streams that have readers in this process.
        if any(stream.key == StreamKey(context.id, metrics.id) for stream in now.streams):
            read_s = time.monotonic()
        await metrics.append(rates.update(now, time.monotonic(), time.strftime("%H:%M:%S")))
        samples += 1
    return samples
