"""Retention in a Redis store: each step sweeps a few buckets, in rotation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.model.retention import EMPTY_SET_S, Retention, SweepResult
from gateway.stores.redis.runs import RedisRuns
from gateway.stores.redis.topology import BUCKETS, Topology

STEP_BUCKETS = 16  # buckets swept in one step
STEP_RUNS = 50  # runs deleted from one bucket in one step
STEP_STREAMS = 200  # streams of one bucket checked in one step
STEP_BLOCKS = 500  # blocks removed from one stream in one step


class RedisSweep:
    """Deletes runs, empty sets and records that retention no longer keeps.

    Args:
        servers: The servers of the store.
        runs: Deletes runs.
        retention: The limits.
        clock_ms: Returns the time in milliseconds.
    """

    def __init__(
        self, servers: Topology, runs: RedisRuns, retention: Retention, clock_ms: Callable[[], int]
    ) -> None:
        self._servers = servers
        self._runs = runs
        self._retention = retention
        self._clock_ms = clock_ms
        self._bucket = 0
        # By bucket: the last stream that its previous step checked.
        self._streams: dict[int, bytes] = {}

    async def step(self) -> SweepResult:
        """See `Store.sweep`."""
        buckets = range(self._bucket, min(self._bucket + STEP_BUCKETS, BUCKETS))
        parts = await asyncio.gather(*(self._sweep(bucket) for bucket in buckets))
        has_more = any(part.has_more for part in parts)
        if not has_more:
            self._bucket = 0 if buckets.stop == BUCKETS else buckets.stop
        records, runs = (sum(column) for column in list(zip(*parts, strict=True))[:2])
        return SweepResult(records, runs, has_more or self._bucket > 0)

    async def _sweep(self, bucket: int) -> SweepResult:
        now_ms = self._clock_ms()
        runs, more_runs = await self._delete_runs(bucket, now_ms)
        await self._forget_sets(bucket, now_ms)
        records, more_records = await self._trim_streams(bucket, now_ms)
        return SweepResult(records, runs, more_runs or more_records)

    async def _delete_runs(self, bucket: int, now_ms: int) -> tuple[int, bool]:
        if self._retention.run_ttl_s is None:
            return 0, False
        until_ms = now_ms - round(self._retention.run_ttl_s * 1000)
        ids = await self._oldest(bucket, "finished", until_ms)
        deleted = [await self._runs.delete(id.decode()) for id in ids]
        return sum(deleted), len(ids) == STEP_RUNS

    async def _forget_sets(self, bucket: int, now_ms: int) -> None:
        since_ms = now_ms - EMPTY_SET_S * 1000
        for name in await self._oldest(bucket, "sets", since_ms):
            runs = name.decode()
            await self._servers.write(
                "forget_set", bucket, (f"{runs}/$runs:meta",), runs, since_ms, repeatable=True
            )

    async def _oldest(self, bucket: int, index: str, until_ms: int) -> list[bytes]:
        key = self._servers.base(bucket) + index
        arguments = (key, "-inf", until_ms, "LIMIT", 0, STEP_RUNS)
        found: list[bytes] = await self._servers.command(
            bucket, "ZRANGEBYSCORE", *arguments, kind="read"
        )
        return found

    async def _trim_streams(self, bucket: int, now_ms: int) -> tuple[int, bool]:
        if not self._retention.trims:
            return 0, False
        after = self._streams.pop(bucket, b"")
        key = self._servers.base(bucket) + "streams"
        arguments = (key, b"(" + after if after else "-", "+", "LIMIT", 0, STEP_STREAMS)
        names: list[bytes] = await self._servers.command(
            bucket, "ZRANGEBYLEX", *arguments, kind="read"
        )
        parts = await asyncio.gather(*(self._trim(bucket, name, now_ms) for name in names))
        has_more = any(more for _, more in parts)
        if has_more:
            self._streams[bucket] = after  # check the same streams again
        elif len(names) == STEP_STREAMS:
            self._streams[bucket] = names[-1]
        return sum(removed for removed, _ in parts), has_more or len(names) == STEP_STREAMS

    async def _trim(self, bucket: int, name: bytes, now_ms: int) -> tuple[int, bool]:
        owner, _, id = name.decode().partition("\0")
        kept = self._retention
        removed, more = await self._servers.write(
            "trim",
            bucket,
            (f"{owner}/{id}:meta", f"{owner}/{id}:log"),
            owner,
            id,
            -1 if kept.records is None else kept.records,
            kept.records_since_ms(now_ms),
            -1 if kept.bytes is None else kept.bytes,
            STEP_BLOCKS,
            repeatable=True,
        )
        return removed, bool(more)
