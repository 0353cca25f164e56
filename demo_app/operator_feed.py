"""What the operator's page shows: a run that looks at the gateway once a second and streams it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway import current_run, runs, streams, task
from gateway.errors import RunNotFound
from gateway.records import StreamKey
from gateway.web.app import Gateway
from gateway.web.figures import Figures, LaggingReader
from gateway.web.inside import is_local

EVERY_S = 1.0
UNWATCHED_S = 30.0  # without a reader the run ends; the next visitor starts another
MAX_WATCH_S = 900.0  # then too, so that no run grows for ever
ROWS = 10  # of each table
MINUTE = 60  # looks


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A live stream; the ids of runs are shortened, since who knows one may watch it."""

    run: str
    stream: str
    per_s: float
    readers: int


@dataclass(frozen=True, slots=True)
class ReaderRow:
    """A reader that lags."""

    connection: str
    stream: str
    behind: int


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """An error that clients were told."""

    code: str
    last_minute: int
    total: int


@dataclass(frozen=True, slots=True)
class GatewayFigures:
    """One look at the gateway; `sent_levels` are percent of the minute's highest."""

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


figures = streams.define("gateway-figures", GatewayFigures)


class Observer:
    """Makes rates of one look after the other.

    Args:
        first: The look before the first.
        at_s: When that was, in a time that nobody sets.
    """

    def __init__(self, first: Figures, at_s: float) -> None:
        self._sent = deque([0.0] * MINUTE, MINUTE)
        self._refused: deque[dict[str, int]] = deque([dict(first.counters.refusals)], MINUTE + 1)
        self._keep(first, at_s)

    def _keep(self, now: Figures, at_s: float) -> None:
        counters = now.counters
        self._at_s = at_s
        self._counts = (counters.records_appended, counters.records_sent, counters.bytes_sent)
        self._records = {stream.key: stream.records for stream in now.streams}
        self._delivery = list(counters.delivery_s.counts)
        self._loop = list(counters.loop_lag_s.counts)

    def look(self, now: Figures, at_s: float, clock: str) -> GatewayFigures:
        """Say what has become of the figures since the last look.

        Args:
            now: The figures.
            at_s: The time.
            clock: The time as it is shown.
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
        shown = GatewayFigures(
            clock=clock,
            state=now.unready or "ready",
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
        self._keep(now, at_s)
        return shown

    def _rates(self, now: Figures, elapsed_s: float) -> list[StreamRow]:
        rows = [
            StreamRow(
                _short(each.key.run_id),
                each.key.stream_id,
                round((each.records - self._records.get(each.key, each.records)) / elapsed_s, 1),
                each.readers,
            )
            for each in now.streams
        ]
        return sorted(rows, key=lambda row: (-row.per_s, -row.readers, row.stream))[:ROWS]

    def _refusals(self) -> list[RefusalRow]:
        before, now = self._refused[0], self._refused[-1]
        rows = [RefusalRow(code, n - before.get(code, 0), n) for code, n in now.items()]
        return sorted(rows, key=lambda row: (-row.last_minute, -row.total, row.code))[:ROWS]


def _readers(lagging: Iterable[LaggingReader]) -> list[ReaderRow]:
    rows = [ReaderRow(each.connection, _name(each.key), each.lag) for each in lagging]
    return sorted(rows, key=lambda row: -row.behind)[:ROWS]


def _name(key: StreamKey) -> str:
    return f"{_short(key.run_id)}/{key.stream_id}"


def _short(run_id: str) -> str:
    return f"…{run_id[-6:]}"


def _ms(bound_s: float | None) -> str:
    if bound_s is None:
        return "none"
    return "over 10 s" if bound_s == math.inf else f"≤ {bound_s * 1000:g} ms"


_gateway: Gateway | None = None
_watch_id: str | None = None
_starting = asyncio.Lock()


def attend(gateway: Gateway | None) -> None:
    """Say which gateway is looked at; None where it is in another process."""
    global _gateway
    _gateway = gateway


def may_operate(address: str, headers: Mapping[str, str], bearer: str) -> bool:
    """Whether a visitor may see inside the gateway.

    Args:
        address: Where the visitor's socket comes from.
        headers: The request's; in development whoever sits at this machine needs nothing.
        bearer: The secret key, or a token with `read:metrics:*`.
    """
    if _gateway is None:
        return False
    if bearer:
        return _gateway.may_operate(bearer)
    return _gateway.settings.env == "development" and is_local(address, headers)


async def watched() -> str | None:
    """Return the id of the run that looks at the gateway, starting one if none does."""
    global _watch_id
    if _gateway is None:
        return None
    async with _starting:  # of many visitors at once one starts it
        if _watch_id is None or await _is_over(_watch_id):
            _watch_id = (await watch_gateway.trigger()).id
        return _watch_id


async def _is_over(run_id: str) -> bool:
    try:
        return (await runs.retrieve(run_id)).is_final
    except RunNotFound:  # deleted since
        return True


@task(max_duration_s=MAX_WATCH_S + 60)
async def watch_gateway() -> int:
    """Look at this process's gateway until nobody watches any more."""
    context = current_run()
    if _gateway is None or context is None:
        raise RuntimeError("there is no gateway in this process to look at")
    began_s = seen_s = time.monotonic()
    observer = Observer(_gateway.figures(), began_s)
    looks = 0
    while (now_s := time.monotonic()) - seen_s < UNWATCHED_S and now_s - began_s < MAX_WATCH_S:
        await asyncio.sleep(EVERY_S)
        now = _gateway.figures()
        if any(stream.key == StreamKey(context.id, figures.id) for stream in now.streams):
            seen_s = time.monotonic()
        await figures.append(observer.look(now, time.monotonic(), time.strftime("%H:%M:%S")))
        looks += 1
    return looks
