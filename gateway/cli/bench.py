"""`realtime bench`: a small load test of a gateway."""

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
from gateway.cli._output import JsonOption, emit, escape_control, info
from gateway.cli._target import Target, TokenOption, UrlOption
from gateway.errors import ConfigurationError, RealtimeError, StoreUnavailable, from_wire
from gateway.model.limits import MAX_APPEND_RECORDS
from gateway.model.records import StreamKey, Writer
from gateway.model.runs import Run, iso_time, new_run_id
from gateway.stores.base import Store, system_clock_ms
from gateway.stores.remote.store import gateway_url

MAX_HANDSHAKES = 50  # concurrent handshakes
DELIVERY_TIMEOUT_S = 10.0  # without a delivery, after the last append
TICK_S = 0.01  # records due within one tick share an append
MAX_MESSAGE_BYTES = 8 << 20
# Matches the raw text: a load generator that decoded frames would measure its own decoder.
_STAMP = re.compile(r'"data":\["(\d+)"')


@dataclass(slots=True)
class Deliveries:
    """The records that all subscribers have received.

    Attributes:
        received: Number of records.
        latencies_ms: Times from before the append to the arrival.
    """

    received: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, text: str, now_ns: int) -> None:
        """Count the records of a frame."""
        stamps = _STAMP.findall(text)
        self.received += len(stamps)
        self.latencies_ms += [(now_ns - int(stamp)) / 1e6 for stamp in stamps]


def bench(
    subscribers: Annotated[
        int, typer.Option(help="Number of subscribed connections.", min=1)
    ] = 100,
    rate: Annotated[float, typer.Option(help="Records appended per second.", min=0.1)] = 50.0,
    seconds: Annotated[float, typer.Option(help="Duration in seconds.", min=0.1)] = 5.0,
    record_bytes: Annotated[
        int, typer.Option("--bytes", help="Approximate size of a record.", min=40, max=65536)
    ] = 100,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Subscribe many connections to one stream, append to it, and measure the latency of records.

    All load comes from this one process, so the command shows a gateway's behaviour under a small
    load, not its limit. If the client's CPU share is near 100 %, the client was the bottleneck. The
    command creates a run and deletes it.
    """
    target = Target.from_options(url, token, None)
    if target.settings.url is None:
        raise ConfigurationError(target.http_url)
    result = asyncio.run(_bench(target, subscribers, rate, seconds, record_bytes))
    if as_json:
        emit(result)
        return
    latency = result["latency_ms"]
    typer.echo(
        f"{subscribers} subscribers, {result['records']} records in {result['seconds']:.1f} s\n"
        f"deliveries  {result['deliveries']:,}, {result['deliveries_per_s']:,.0f} a second"
        f"{'' if not result['missing'] else ', MISSING ' + format(result['missing'], ',')}\n"
        f"latency     p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f}, "
        f"p99 {latency['p99']:.1f}, max {latency['max']:.1f}\n"
        f"append      p50 {result['append_ms']['p50']:.1f} ms, "
        f"p99 {result['append_ms']['p99']:.1f}\n"
        f"this client {result['client_cpu_percent']:.0f} % of a core"
    )
    if result["missing"]:
        info(f"{result['missing']} records did not arrive within {DELIVERY_TIMEOUT_S:g} s")
        raise typer.Exit(1)


async def _bench(
    target: Target, subscribers: int, rate: float, seconds: float, record_bytes: int
) -> dict[str, Any]:
    deliveries = Deliveries()
    async with target.store(owner=f"bench_{secrets.token_hex(8)}") as store:
        now_ms = system_clock_ms()
        id = new_run_id(now_ms)
        run = Run(id, "bench", "executing", id, iso_time(now_ms), owner="bench")
        key = StreamKey((await store.create_run(run)).id, "bench")
        try:
            async with AsyncExitStack() as stack:
                sockets = await _connect_subscribers(target, key, subscribers, stack)
                readers = [asyncio.create_task(_read(each, deliveries)) for each in sockets]
                began_s, cpu_s = time.perf_counter(), time.process_time()
                records, appends_ms = await _append(store, key, rate, seconds, record_bytes)
                await _wait_for_deliveries(deliveries, records * subscribers, readers)
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
        "deliveries": deliveries.received,
        "deliveries_per_s": round(deliveries.received / took_s, 1),
        "missing": records * subscribers - deliveries.received,
        "latency_ms": percentiles(deliveries.latencies_ms),
        "append_ms": percentiles(appends_ms),
        "client_cpu_percent": round(100 * cpu_s / took_s, 1),
    }


async def _connect_subscribers(
    target: Target, key: StreamKey, count: int, stack: AsyncExitStack
) -> list[ClientConnection]:
    limit = asyncio.Semaphore(MAX_HANDSHAKES)

    async def connect_one() -> ClientConnection:
        async with limit:
            return await stack.enter_async_context(_Subscriber(target, key))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(connect_one()) for _ in range(count)]
    except* RealtimeError as errors:
        raise errors.exceptions[0] from None  # the others fail for the same reason
    return [task.result() for task in tasks]


class _Subscriber:
    """A connection that is subscribed to the stream."""

    def __init__(self, target: Target, key: StreamKey) -> None:
        self._target = target
        self._key = key

    async def __aenter__(self) -> ClientConnection:
        url = gateway_url(self._target.settings.url or "")
        try:
            self._socket = await connect(url, compression=None, max_size=MAX_MESSAGE_BYTES)
        except (OSError, WebSocketException) as error:
            raise StoreUnavailable(f"{url} accepts no further connections: {error}") from None
        token = self._target.token_for(f"read:runs:{self._key.run_id}")
        subscribe = protocol.Subscribe(1, self._key.run_id, stream=self._key.stream_id)
        try:
            await self._request(protocol.Hello(protocol.VERSION, token), protocol.Welcome)
            await self._request(subscribe, protocol.Subscribed)
        except BaseException:
            self._socket.transport.abort()
            raise
        return self._socket

    async def _request(self, frame: Any, expected: type) -> None:
        try:
            await self._socket.send(protocol.encode(frame))
        except WebSocketException:
            pass  # the gateway may have sent an error before it closed
        try:
            answer = protocol.decode_gateway(await self._socket.recv())
        except WebSocketException as error:
            raise StoreUnavailable(f"the gateway closed a connection: {error}") from None
        if isinstance(answer, protocol.ErrorFrame):
            raise from_wire(answer.code, f"rejected subscriber: {escape_control(answer.message)}")
        assert isinstance(answer, expected)

    async def __aexit__(self, *_: object) -> None:
        self._socket.transport.abort()  # closing handshakes of hundreds of sockets take long


async def _read(socket: ClientConnection, deliveries: Deliveries) -> None:
    async for text in socket:
        deliveries.add(str(text), time.time_ns())


async def _append(
    store: Store, key: StreamKey, rate: float, seconds: float, record_bytes: int
) -> tuple[int, list[float]]:
    """Append at a fixed rate; return the number of records and the durations of the appends."""
    total = max(1, round(rate * seconds))
    padding = "x" * (record_bytes - 40)
    writer_id = secrets.token_urlsafe(12)
    times_ms: list[float] = []

    async def append_batch(first: int, count: int) -> None:
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
                    group.create_task(append_batch(sent, due))
                    sent += due
                await asyncio.sleep(min(TICK_S, 1 / rate))
    except* RealtimeError as errors:
        raise errors.exceptions[0] from None
    return total, times_ms


async def _wait_for_deliveries(
    deliveries: Deliveries, expected: int, readers: Sequence[asyncio.Task[None]]
) -> None:
    last_at_s, last = time.perf_counter(), deliveries.received
    while deliveries.received < expected and time.perf_counter() - last_at_s < DELIVERY_TIMEOUT_S:
        await asyncio.sleep(TICK_S)
        if deliveries.received > last:
            last_at_s, last = time.perf_counter(), deliveries.received
        if all(reader.done() for reader in readers):
            return


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the maximum."""
    if len(values) < 2:
        only = values[0] if values else 0.0
        return {"p50": only, "p95": only, "p99": only, "max": only}
    cuts = quantiles(values, n=100, method="inclusive")
    result = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(values)}
    return {name: round(value, 2) for name, value in result.items()}
