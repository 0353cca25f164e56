"""`realtime bench`: a small load on a gateway of one's own, and what comes of it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Annotated, Any

import typer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from gateway import protocol
from gateway.cli._output import JsonOption, emit, note, shown
from gateway.cli._target import Target, TokenOption, UrlOption
from gateway.errors import ConfigurationError, RealtimeError, StoreUnavailable, from_wire
from gateway.model.limits import MAX_APPEND_RECORDS
from gateway.model.records import StreamKey, Writer
from gateway.model.runs import Run, iso_time, new_run_id
from gateway.stores.base import Store, system_clock_ms
from gateway.stores.remote.store import gateway_url

CONNECTING = 50  # greetings under way at once
LAST_WAIT_S = 10.0  # for what is still on its way when all is sent
TICK_S = 0.01  # records that are due within it are sent as one append
MAX_MESSAGE_BYTES = 8 << 20
# Found in the bytes as they are: a load generator that parsed frames would measure itself.
_STAMP = re.compile(r'"data":\["(\d+)"')


@dataclass(slots=True)
class Counted:
    """What all subscribers have got.

    Attributes:
        received: Records.
        latencies_ms: From before the append to the arrival.
    """

    received: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def take(self, text: str, now_ns: int) -> None:
        """Count the records of a frame."""
        stamps = _STAMP.findall(text)
        self.received += len(stamps)
        self.latencies_ms += [(now_ns - int(stamp)) / 1e6 for stamp in stamps]


def bench(
    subscribers: Annotated[int, typer.Option(help="Connections that follow.", min=1)] = 100,
    rate: Annotated[float, typer.Option(help="Records appended a second.", min=0.1)] = 50.0,
    seconds: Annotated[float, typer.Option(help="How long.", min=0.1)] = 5.0,
    record_bytes: Annotated[
        int, typer.Option("--bytes", help="About the size of a record.", min=40, max=65536)
    ] = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Let many connections follow one stream, append to it, and say how long records take.

    All of it comes from this one process, so it finds what a gateway of one's own does under a
    small load, and no limit of it: where the client's own share of a core is near 100 %, that is
    what was measured. It makes a run and deletes it.
    """
    reach = Target.of(url, token, None)
    if reach.settings.url is None:
        raise ConfigurationError(reach.http_url)
    result = asyncio.run(_bench(reach, subscribers, rate, seconds, record_bytes))
    if as_json:
        emit(result)
        return
    latency = result["latency_ms"]
    typer.echo(
        f"{subscribers} subscribers, {result['records']} records in {result['seconds']:.1f} s\n"
        f"deliveries  {result['deliveries']:,}, {result['deliveries_per_s']:,.0f} a second"
        f"{'' if not result['missing'] else ', MISSING ' + format(result['missing'], ',')}\n"
        f"latency     p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f}, "
        f"p99 {latency['p99']:.1f}, longest {latency['max']:.1f}\n"
        f"append      p50 {result['append_ms']['p50']:.1f} ms, "
        f"p99 {result['append_ms']['p99']:.1f}\n"
        f"this client {result['client_cpu_percent']:.0f} % of a core"
    )
    if result["missing"]:
        note(f"{result['missing']} records did not come within {LAST_WAIT_S:g} s")
        raise typer.Exit(1)


async def _bench(
    reach: Target, subscribers: int, rate: float, seconds: float, record_bytes: int
) -> dict[str, Any]:
    counted = Counted()
    async with reach.store(owner=f"bench_{secrets.token_hex(8)}") as store:
        now_ms = system_clock_ms()
        id = new_run_id(now_ms)
        run = Run(id, "bench", "executing", id, iso_time(now_ms), owner="bench")
        key = StreamKey((await store.create_run(run)).id, "bench")
        try:
            async with AsyncExitStack() as stack:
                sockets = await _subscribed(reach, key, subscribers, stack)
                readers = [asyncio.create_task(_read(each, counted)) for each in sockets]
                began_s, cpu_s = time.perf_counter(), time.process_time()
                records, appends_ms = await _append(store, key, rate, seconds, record_bytes)
                await _arrived(counted, records * subscribers, readers)
                took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
                for reader in readers:
                    reader.cancel()
                await asyncio.gather(*readers, return_exceptions=True)
        finally:
            await store.delete_run(id)
    return {
        "subscribers": subscribers,
        "records": records,
        "seconds": round(took_s, 3),
        "deliveries": counted.received,
        "deliveries_per_s": round(counted.received / took_s, 1),
        "missing": records * subscribers - counted.received,
        "latency_ms": percentiles(counted.latencies_ms),
        "append_ms": percentiles(appends_ms),
        "client_cpu_percent": round(100 * cpu_s / took_s, 1),
    }


async def _subscribed(
    reach: Target, key: StreamKey, count: int, stack: AsyncExitStack
) -> list[ClientConnection]:
    room = asyncio.Semaphore(CONNECTING)

    async def one() -> ClientConnection:
        async with room:
            return await stack.enter_async_context(_Subscriber(reach, key))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for _ in range(count)]
    except* RealtimeError as errors:
        raise errors.exceptions[0] from None  # what one meets the others do too
    return [task.result() for task in tasks]


class _Subscriber:
    """A connection that follows the stream."""

    def __init__(self, reach: Target, key: StreamKey) -> None:
        self._reach = reach
        self._key = key

    async def __aenter__(self) -> ClientConnection:
        url = gateway_url(self._reach.settings.url or "")
        try:
            self._socket = await connect(url, compression=None, max_size=MAX_MESSAGE_BYTES)
        except (OSError, WebSocketException) as error:
            raise StoreUnavailable(f"{url} takes no more connections: {error}") from None
        token = self._reach.bearer(f"read:runs:{self._key.run_id}")
        subscribe = protocol.Subscribe(1, self._key.run_id, stream=self._key.stream_id)
        try:
            await self._ask(protocol.Hello(protocol.VERSION, token), protocol.Welcome)
            await self._ask(subscribe, protocol.Subscribed)
        except BaseException:
            self._socket.transport.abort()
            raise
        return self._socket

    async def _ask(self, frame: Any, expected: type) -> None:
        try:
            await self._socket.send(protocol.encode(frame))
        except WebSocketException:
            pass  # it may have said why before
        try:
            answer = protocol.decode_gateway(await self._socket.recv())
        except WebSocketException as error:
            raise StoreUnavailable(f"a subscriber was cut off: {error}") from None
        if isinstance(answer, protocol.ErrorFrame):
            raise from_wire(answer.code, f"a subscriber was refused: {shown(answer.message)}")
        assert isinstance(answer, expected)

    async def __aexit__(self, *_: object) -> None:
        self._socket.transport.abort()  # hundreds of goodbyes would be waited for


async def _read(socket: ClientConnection, counted: Counted) -> None:
    async for text in socket:
        counted.take(str(text), time.time_ns())


async def _append(
    store: Store, key: StreamKey, rate: float, seconds: float, record_bytes: int
) -> tuple[int, list[float]]:
    """Append at a rate, whatever becomes of it; returns how many, and how long appends took."""
    total = max(1, round(rate * seconds))
    padding = "x" * (record_bytes - 40)
    writer_id = secrets.token_urlsafe(12)
    times_ms: list[float] = []

    async def one(first: int, count: int) -> None:
        began_s = time.perf_counter()
        data = b'["%d","%b"]' % (time.time_ns(), padding.encode())
        await store.append(key, [data] * count, writer=Writer(writer_id, 0, first))
        times_ms.append((time.perf_counter() - began_s) * 1000)

    began_s, sent = time.perf_counter(), 0
    try:
        async with asyncio.TaskGroup() as group:
            while sent < total:
                due = min(total, int((time.perf_counter() - began_s) * rate) + 1) - sent
                if due > 0:
                    due = min(due, MAX_APPEND_RECORDS)
                    group.create_task(one(sent, due))
                    sent += due
                await asyncio.sleep(min(TICK_S, 1 / rate))
    except* RealtimeError as errors:
        raise errors.exceptions[0] from None
    return total, times_ms


async def _arrived(counted: Counted, expected: int, readers: Sequence[asyncio.Task[None]]) -> None:
    heard_at_s, heard = time.perf_counter(), counted.received
    while counted.received < expected and time.perf_counter() - heard_at_s < LAST_WAIT_S:
        await asyncio.sleep(TICK_S)
        if counted.received > heard:
            heard_at_s, heard = time.perf_counter(), counted.received
        if all(reader.done() for reader in readers):
            return


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the longest."""
    if len(values) < 2:
        only = values[0] if values else 0.0
        return {"p50": only, "p95": only, "p99": only, "max": only}
    cuts = quantiles(values, n=100, method="inclusive")
    found = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}
    return {name: round(value, 2) for name, value in found.items()}
