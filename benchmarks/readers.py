"""Many WebSocket readers of one stream, and what they saw."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from pathlib import Path

from websockets.asyncio.client import connect


async def read_all(
    url: str, pid: int, run_id: str, token: str, readers: int, records: int
) -> tuple[float, float, float, float]:
    """Follow a run's stream with many readers until its end.

    Returns:
        Median and 99th percentile of append to receive in ms, deliveries a second of the server's
        CPU time, and deliveries a second.
    """
    delays_s: list[float] = []
    before_s = cpu_s(pid)
    began = time.perf_counter()
    counts = await asyncio.gather(*(_read(url, run_id, token, delays_s) for _ in range(readers)))
    took_s = time.perf_counter() - began
    assert counts == [records] * readers, "a reader missed or repeated a record"
    used_s = cpu_s(pid) - before_s
    cuts = statistics.quantiles(delays_s, n=100)
    total = readers * records
    return cuts[49] * 1000, cuts[98] * 1000, total / used_s, total / took_s


async def _read(url: str, run_id: str, token: str, delays_s: list[float]) -> int:
    count = 0
    async with connect(f"{url}/v1/ws", compression=None, max_queue=None) as socket:
        await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": token}))
        subscribe = {"type": "subscribe", "id": 1, "run": run_id, "stream": "lines"}
        await socket.send(json.dumps(subscribe))
        async for text in socket:
            now_s = time.time()
            frame = json.loads(text)
            for record in frame.get("records", ()):
                delays_s.append(now_s - float(record["data"].split()[0]))
                count += 1
            if frame["type"] == "end":
                return count
            assert frame["type"] != "error", frame
    raise AssertionError("the connection closed before the end of the stream")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
