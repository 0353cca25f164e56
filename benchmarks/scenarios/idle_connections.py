"""Idle connections: memory per connection with one subscription, on every server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.load_generator import Load, resident_kib
from benchmarks.peers.servers import (
    BY_NAME,
    HERE_FULL,
    HERE_MEMORY,
    SERVERS,
    STARLETTE,
    Server,
    running,
)
from benchmarks.report import Effort, Result, interleaved
from benchmarks.scenarios.fan_out import available

NAME = "idle-connections"
CONNECTIONS = 5000
FIRST = 200  # connections that are not counted: they include one-time costs
SETTLING_S = 0.5


def measure(effort: Effort) -> Iterator[Result]:
    """Measure 5,000 connections on every server; in one run only where connecting is slow."""
    quick = [BY_NAME[name] for name in (HERE_FULL, STARLETTE)]
    yield from measure_at(effort, available(quick), CONNECTIONS)
    slow = [each for each in SERVERS if each not in quick and each.name != HERE_MEMORY]
    yield from measure_at(replace(effort, runs=1), available(slow), CONNECTIONS)


def measure_at(effort: Effort, servers: Sequence[Server], connections: int) -> Iterator[Result]:
    """Measure servers with a number of connections."""
    measures = {each.name: partial(_once, each, effort.records(connections)) for each in servers}
    what = f"{connections:,} connections with a subscription each"
    taken, failed = interleaved(what, effort, measures)
    for name, values in taken.items():
        label = f"{what}: KiB per connection"
        yield Result(NAME, label, name, tuple(values), None, connections, failed.get(name, ""))


def _once(server: Server, connections: int) -> float:
    with running(server) as (port, pids, protocol):
        first, rest = Load(port, protocol), Load(port, protocol)
        try:
            first.connect(FIRST)
            time.sleep(SETTLING_S)
            before = resident_kib(pids)
            rest.connect(connections)
            time.sleep(SETTLING_S)
            return (resident_kib(pids) - before) / connections
        finally:
            first.close()
            rest.close()
