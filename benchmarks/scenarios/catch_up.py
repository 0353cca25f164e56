"""Catch-up: one client reads a long stream; 1,000 clients resume while others follow it live."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection

from benchmarks.load_generator import MARKER, Load, WireProtocol, receive_some, text_frame
from benchmarks.peers.servers import BY_NAME, HERE_FULL, as_worker, running
from benchmarks.report import Effort, Result, interleaved
from gateway.model.records import StreamKey

NAME = "catch-up"
CLIENTS = 1000
BEHIND = 10_000  # records
OLDER = 20_000  # records before these, which are not read
ONE_CLIENT = 200_000  # records that one client reads from the beginning
LIVE = 100  # live readers of the same stream
LIVE_PER_S = 50.0
BASELINE_S = 2.0  # measures the live readers before the catch-up
WHAT = f"{CLIENTS:,} clients resume {BEHIND:,} behind"


@dataclass(frozen=True)
class CatchUpRun:
    """One run with many clients that catch up.

    Attributes:
        per_s: Records per second to all clients together.
        seconds: Time until the last client has caught up.
        load_share: The load generator's share of a core.
        baseline_ms: Latencies of live readers before the catch-up.
        latencies_ms: Latencies of live readers during the catch-up.
    """

    per_s: float
    seconds: float
    load_share: float
    baseline_ms: list[float]
    latencies_ms: list[float]


def measure(effort: Effort) -> Iterator[Result]:
    """Measure one client, then many clients."""
    yield one_client(effort)
    yield from many_clients(effort)


def one_client(effort: Effort) -> Result:
    """Measure one client that reads a stream from its beginning."""
    records = effort.records(ONE_CLIENT)
    what = f"one client, {records:,} records from the beginning"
    taken, failed = interleaved(what, effort, {HERE_FULL: partial(_one_client, records)})
    note = failed.get(HERE_FULL, "")
    rates = tuple(taken[HERE_FULL])
    return Result(NAME, f"{what}: records/s", HERE_FULL, rates, None, None, note)


def many_clients(effort: Effort) -> Iterator[Result]:
    """Measure many clients that catch up together, and live readers at the same time."""
    clients = effort.records(CLIENTS)
    taken, failed = interleaved(WHAT, effort, {HERE_FULL: partial(_many_clients, clients)})
    runs, note = taken[HERE_FULL], failed.get(HERE_FULL, "")
    share = max((each.load_share for each in runs), default=None)
    for label, values in (
        ("records/s to all", [each.per_s for each in runs]),
        ("seconds until all have caught up", [each.seconds for each in runs]),
        ("live readers' p99 in ms, before", [percentile(each.baseline_ms, 99) for each in runs]),
        ("live readers' p50 in ms", [percentile(each.latencies_ms, 50) for each in runs]),
        ("live readers' p99 in ms", [percentile(each.latencies_ms, 99) for each in runs]),
    ):
        yield Result(NAME, f"{WHAT}: {label}", HERE_FULL, tuple(values), share, None, note)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, or NaN without values."""
    ordered = sorted(values)
    place = min(len(ordered) - 1, int(len(ordered) * percent / 100))
    return ordered[place] if ordered else float("nan")


def _one_client(records: int) -> float:
    with running(BY_NAME[HERE_FULL]) as (port, _, protocol):
        fill(port, protocol, records)
        behind = [each.replace(b'"latest"', b'"beginning"') for each in protocol.greeting]
        reader = Load(port, replace(protocol, greeting=behind))
        began = time.perf_counter()
        reader.connect(1)
        while reader.received < records - 1000:  # connect() may have received the first
            _wait_for_records(reader)
        reader.close()
        return records / (time.perf_counter() - began)


def fill(port: int, protocol: WireProtocol, records: int) -> None:
    """Append records, and wait until a subscriber has received all of them."""
    writer = Load(port, protocol)
    writer.connect(1)
    for start in range(0, records, 1000):
        writer.publish(start, 1000)
        while writer.received <= start:
            _wait_for_records(writer)
    while writer.received < records:
        _wait_for_records(writer)
    writer.close()


def _wait_for_records(load: Load) -> None:
    before = load.received
    load.drain(30.0)
    if load.received == before:
        load.drain(30.0)  # the first wait may have received an answer to the publisher
    if load.received == before:
        raise TimeoutError("no record was received within 30 s")


class CatchUpClients(Load):
    """Clients of one stream, counted separately until each has received `records` records."""

    def __init__(self, port: int, protocol: WireProtocol, records: int) -> None:
        super().__init__(port, protocol)
        self._records = records
        self._counts: dict[int, int] = {}
        self.caught_up = 0

    def subscribe(self, frame: bytes) -> None:
        """Send the same frame on all connections."""
        self._counts = dict.fromkeys(self._sockets, 0)
        for opened in self._sockets.values():
            opened.send(frame)

    def drain(self, timeout_s: float) -> None:
        """Receive available bytes."""
        for number, _ in self._poll.poll(timeout_s):
            if number not in self._counts:
                continue  # the publisher, which is not used here
            before = self._counts[number]
            count = receive_some(self._sockets[number]).count(MARKER)
            self._counts[number] = before + count
            self.received += count
            self.caught_up += before < self._records <= before + count


def _many_clients(clients: int) -> CatchUpRun:
    with running(BY_NAME[HERE_FULL]) as (port, _, protocol):
        fill(port, protocol, OLDER)
        place = _position(port, protocol)
        fill(port, protocol, BEHIND)
        hello_only = replace(protocol, greeting=protocol.greeting[:1], ready=b'"welcome"')
        behind = CatchUpClients(port, hello_only, BEHIND)
        behind.connect(clients)
        with live_readers(port, protocol) as (begin, end):
            begin()
            time.sleep(BASELINE_S)
            baseline_ms = end()
            begin()
            began, cpu = time.perf_counter(), time.process_time()
            behind.subscribe(_subscribe_frame(protocol, {"position": place}))
            received_at = began
            while behind.caught_up < clients:
                before = behind.received
                behind.drain(1.0)
                if behind.received > before:
                    received_at = time.perf_counter()
                elif time.perf_counter() - received_at > 30:
                    raise TimeoutError(
                        f"{behind.caught_up} of {clients} caught up, then none for 30 s"
                    )
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            latencies_ms = end()
        behind.close()
    return CatchUpRun(clients * BEHIND / seconds, seconds, cpu / seconds, baseline_ms, latencies_ms)


def _subscribe_frame(protocol: WireProtocol, start: object) -> bytes:
    return text_frame(json.dumps({**json.loads(protocol.greeting[1]), "start": start}).encode())


def _position(port: int, protocol: WireProtocol) -> str:
    """Return the position of the stream's end."""
    subscribe = json.loads(protocol.greeting[1])

    async def asked() -> str:
        async with as_worker(port) as store:
            head = await store.head(StreamKey(subscribe["run"], subscribe["stream"]))
            return str(head.position)

    return asyncio.run(asked())


@contextmanager
def live_readers(
    port: int, protocol: WireProtocol
) -> Iterator[tuple[Callable[[], None], Callable[[], list[float]]]]:
    """Run the live readers in their own process, so that the load of the clients does not delay it.

    Yields two functions: one begins an interval, the other ends it and returns its latencies.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_live, args=(port, protocol, there), daemon=True
    )
    process.start()
    assert here.recv() == "ready"

    def begin() -> None:
        here.send("begin")

    def end() -> list[float]:
        here.send("end")
        latencies: list[float] = here.recv()
        return latencies

    try:
        yield begin, end
    finally:
        here.send("stop")
        process.join(5)
        process.kill()


def _live(port: int, protocol: WireProtocol, commands: Connection) -> None:
    try:
        os.nice(-10)  # it needs little CPU, and must not wait for its core behind the clients
    except PermissionError:
        pass
    load = Load(port, protocol)
    load.connect(LIVE)
    commands.send("ready")
    sent, due_at = 0, time.perf_counter()
    while True:
        while commands.poll():
            match commands.recv():
                case "begin":
                    load.taken_latencies_ms()
                case "end":
                    commands.send(load.taken_latencies_ms())
                case _:
                    load.close()
                    return
        if time.perf_counter() >= due_at:
            load.publish(sent)
            sent, due_at = sent + 1, due_at + 1 / LIVE_PER_S
        load.drain(max(0.0, min(0.005, due_at - time.perf_counter())))
