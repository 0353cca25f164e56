"""Catch-up: one client through a long stream; 1,000 at once, while others follow the same live."""

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

from benchmarks.load_generator import MARKER, Load, Speaking, some, text_frame
from benchmarks.peers.servers import BY_NAME, HERE_FULL, as_worker, running
from benchmarks.report import Effort, Figure, interleaved
from gateway.records import StreamKey

NAME = "catch-up"
CLIENTS = 1000
BEHIND = 10_000  # records
BEFORE = 20_000  # older ones, which nobody asks for
ALONE = 200_000  # records that one client reads from the beginning
LIVE = 100  # who follow the stream meanwhile
LIVE_PER_S = 50.0
QUIET_S = 2.0  # in which live readers are measured before
WHAT = f"{CLIENTS:,} clients resume {BEHIND:,} behind"


@dataclass(frozen=True)
class Crowd:
    """What a crowd that catches up came to.

    Attributes:
        per_s: Records a second to all of them together.
        seconds: Until the last had all.
        load_share: Of a core that the load took.
        quiet_ms: Latencies of live readers before.
        meanwhile_ms: Latencies of live readers while the crowd caught up.
    """

    per_s: float
    seconds: float
    load_share: float
    quiet_ms: list[float]
    meanwhile_ms: list[float]


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure one client alone, then the crowd."""
    yield alone(effort)
    yield from crowd(effort)


def alone(effort: Effort) -> Figure:
    """Measure one client that reads a stream from its beginning."""
    records = effort.records(ALONE)
    what = f"one client, {records:,} records from the beginning"
    taken, failed = interleaved(what, effort, {HERE_FULL: partial(_alone, records)})
    note = failed.get(HERE_FULL, "")
    rates = tuple(taken[HERE_FULL])
    return Figure(NAME, f"{what}: records/s", HERE_FULL, rates, None, None, note)


def crowd(effort: Effort) -> Iterator[Figure]:
    """Measure many clients at once, and the live readers beside them."""
    clients = effort.records(CLIENTS)
    taken, failed = interleaved(WHAT, effort, {HERE_FULL: partial(_crowd, clients)})
    runs, note = taken[HERE_FULL], failed.get(HERE_FULL, "")
    share = max((each.load_share for each in runs), default=None)
    for label, values in (
        ("records/s to all", [each.per_s for each in runs]),
        ("seconds until all had all", [each.seconds for each in runs]),
        ("live readers' p99 in ms, before", [percentile(each.quiet_ms, 99) for each in runs]),
        ("live readers' p50 in ms", [percentile(each.meanwhile_ms, 50) for each in runs]),
        ("live readers' p99 in ms", [percentile(each.meanwhile_ms, 99) for each in runs]),
    ):
        yield Figure(NAME, f"{WHAT}: {label}", HERE_FULL, tuple(values), share, None, note)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile; of nothing, nan."""
    ordered = sorted(values)
    place = min(len(ordered) - 1, int(len(ordered) * percent / 100))
    return ordered[place] if ordered else float("nan")


def _alone(records: int) -> float:
    with running(BY_NAME[HERE_FULL]) as (port, _, speaking):
        fill(port, speaking, records)
        behind = [each.replace(b'"latest"', b'"beginning"') for each in speaking.greeting]
        reader = Load(port, replace(speaking, greeting=behind))
        began = time.perf_counter()
        reader.connect(1)
        while reader.received < records - 1000:  # the first come with the answer
            _heard(reader)
        reader.close()
        return records / (time.perf_counter() - began)


def fill(port: int, speaking: Speaking, records: int) -> None:
    """Append records, and return when they are durable and have been heard."""
    writer = Load(port, speaking)
    writer.connect(1)
    for start in range(0, records, 1000):
        writer.publish(start, 1000)
        while writer.received <= start:
            _heard(writer)
    while writer.received < records:
        _heard(writer)
    writer.close()


def _heard(load: Load) -> None:
    before = load.received
    load.drain(30.0)
    if load.received == before:
        load.drain(30.0)  # an answer to the publisher may have come first
    if load.received == before:
        raise TimeoutError("no record came within 30 s")


class Behind(Load):
    """Clients of one stream that are counted each for itself, until each has so many records."""

    def __init__(self, port: int, speaking: Speaking, records: int) -> None:
        super().__init__(port, speaking)
        self._records = records
        self._counts: dict[int, int] = {}
        self.caught_up = 0

    def ask(self, subscribe: bytes) -> None:
        """Send the same payload on all."""
        self._counts = dict.fromkeys(self._sockets, 0)
        for opened in self._sockets.values():
            opened.send(subscribe)

    def drain(self, timeout_s: float) -> None:
        """Receive what is there."""
        for number, _ in self._poll.poll(timeout_s):
            if number not in self._counts:
                continue  # the publisher, to which nothing is said here
            before = self._counts[number]
            count = some(self._sockets[number]).count(MARKER)
            self._counts[number] = before + count
            self.received += count
            self.caught_up += before < self._records <= before + count


def _crowd(clients: int) -> Crowd:
    with running(BY_NAME[HERE_FULL]) as (port, _, speaking):
        fill(port, speaking, BEFORE)
        place = _position(port, speaking)
        fill(port, speaking, BEHIND)
        asleep = replace(speaking, greeting=speaking.greeting[:1], ready=b'"welcome"')
        behind = Behind(port, asleep, BEHIND)
        behind.connect(clients)
        with live_readers(port, speaking) as (begin, end):
            begin()
            time.sleep(QUIET_S)
            quiet_ms = end()
            begin()
            began, cpu = time.perf_counter(), time.process_time()
            behind.ask(_subscribe(speaking, {"position": place}))
            heard_at = began
            while behind.caught_up < clients:
                before = behind.received
                behind.drain(1.0)
                if behind.received > before:
                    heard_at = time.perf_counter()
                elif time.perf_counter() - heard_at > 30:
                    raise TimeoutError(f"{behind.caught_up} of {clients} caught up, then none")
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            meanwhile_ms = end()
        behind.close()
    return Crowd(clients * BEHIND / seconds, seconds, cpu / seconds, quiet_ms, meanwhile_ms)


def _subscribe(speaking: Speaking, start: object) -> bytes:
    return text_frame(json.dumps({**json.loads(speaking.greeting[1]), "start": start}).encode())


def _position(port: int, speaking: Speaking) -> str:
    """Ask where the stream's end is."""
    subscribe = json.loads(speaking.greeting[1])

    async def asked() -> str:
        async with as_worker(port) as store:
            head = await store.head(StreamKey(subscribe["run"], subscribe["stream"]))
            return str(head.position)

    return asyncio.run(asked())


@contextmanager
def live_readers(
    port: int, speaking: Speaking
) -> Iterator[tuple[Callable[[], None], Callable[[], list[float]]]]:
    """Follow and publish in a process of their own, so that the crowd's load does not delay them.

    Gives two functions: one begins a time of measuring, the other ends it and gives the latencies.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_live, args=(port, speaking, there), daemon=True
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


def _live(port: int, speaking: Speaking, commands: Connection) -> None:
    try:
        os.nice(-10)  # it does little, and what it has to wait for its core is not the server's
    except PermissionError:
        pass
    load = Load(port, speaking)
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
