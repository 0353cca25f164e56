"""Writers and readers of one gateway, and the history of what they received."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.model.records import StreamKey
from gateway.model.records import Writer as WriterId
from gateway.stores.remote.store import RemoteStore
from tests.support.faults.clients import Reader, Writer
from tests.support.faults.history import History, Key, Verdict, View, check
from tests.support.faults.process import Child
from tests.support.gateways import new_run, worker_token

THROTTLES_MS = (0, 0, 20, 100)
CATCH_UP_S = 60.0  # for readers to reach the end after the writers have stopped


@dataclass
class Load:
    """The writers and readers of a gateway.

    Attributes:
        may_reset: Whether the fault may cause a `reset` of readers.
    """

    url: str
    keys: list[Key]
    folder: Path
    rng: random.Random
    history: History = field(default_factory=History)
    readers: list[Reader] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)
    sdk: Child | None = None
    padding: int = 0
    may_reset: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _unchecked: dict[Reader, asyncio.Task[None]] = field(default_factory=dict)

    def add_reader(self, key: Key, *, url: str | None = None, throttle_ms: int = 0) -> Reader:
        """Start a reader of a stream."""
        view = self.history.view(f"reader {len(self.readers)}", key)
        seed = self.rng.random()
        reader = Reader(
            url or self.url,
            worker_token,
            view,
            rng=random.Random(seed),
            throttle_ms=throttle_ms,
        )
        self.readers.append(reader)
        self.tasks.append(asyncio.create_task(reader.run(), name=view.reader))
        return reader

    def add_writer(self, key: Key, *, url: str | None = None, pause_s: float = 0.02) -> Writer:
        """Start a writer to a stream."""
        name = f"raw{len(self.writers)}"
        rng = random.Random(self.rng.random())
        writer = Writer(
            url or self.url,
            worker_token,
            self.history,
            key,
            name,
            rng=rng,
            pause_s=pause_s,
            padding=self.padding,
        )
        self.writers.append(writer)
        self.tasks.append(asyncio.create_task(writer.run(), name=name))
        return writer

    async def add_sdk_writers(self, keys: list[Key]) -> None:
        """Start a process with one SDK writer for each of the streams."""
        names = [f"{run}/{stream}" for run, stream in keys]
        self.sdk = Child("sdk_writers", self.url, str(self.folder / "sdk.jsonl"), *names)
        assert await self.sdk.line() == "ready\n"

    def acknowledged(self) -> int:
        """Return the number of records acknowledged to the raw writers so far."""
        return sum(map(len, self.history.acknowledged.values()))

    def check_alive(self) -> None:
        """Raise the error of a writer or reader that has failed."""
        for task in self.tasks:
            if task.done() and task.exception() is not None:
                task.result()
        assert self.sdk is None or self.sdk.process.poll() is None, (
            "the process of the SDK writers has ended"
        )

    def add_unchecked_reader(self, key: Key, *, url: str) -> Reader:
        """Start a reader whose records are not checked; end it with `abort_readers`."""
        reader = Reader(url, worker_token, View("unchecked", key), rng=random.Random(1))
        self._unchecked[reader] = asyncio.create_task(reader.run(), name="unchecked")
        return reader

    async def abort_readers(self, readers: list[Reader]) -> None:
        """Abort readers without closing their connections."""
        tasks = [self._unchecked.pop(reader) for reader in readers]
        for reader, task in zip(readers, tasks, strict=True):
            reader.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self) -> Verdict:
        """Stop the writers, end the streams, wait for the readers, and check the history."""
        await self.stop_writers()
        return await self.check_history()

    async def stop_writers(self) -> None:
        """Stop the writers and end the streams."""
        self.check_alive()
        for writer in self.writers:
            writer.stopping.set()
        if self.sdk is not None:
            await self.sdk.finish(CATCH_UP_S)
            for line in (self.folder / "sdk.jsonl").read_text().splitlines():
                run, stream, value, offset = json.loads(line)
                self.history.acknowledge((run, stream), value, offset)
        writing = [task for task in self.tasks if task.get_name().startswith("raw")]
        async with asyncio.timeout(CATCH_UP_S):
            await asyncio.gather(*writing)
        async with store_at(self.url) as store:
            for key in self.keys:
                await _end(store, key)

    async def check_history(self) -> Verdict:
        """Wait until the readers have reached the end, and check the history."""
        await asyncio.wait(self.tasks, timeout=CATCH_UP_S)
        for task in self.tasks:
            if task.done():
                task.result()
        return check(self.history, may_reset=self.may_reset)


async def _end(store: RemoteStore, key: Key) -> None:
    await store.append(StreamKey(*key), [], writer=WriterId("end", 0, 0), end="completed")


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[RemoteStore]:
    """Open a remote store over a gateway."""
    store = RemoteStore(url, worker_token)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def load(
    url: str,
    folder: Path,
    *,
    streams: int = 10,
    raw_writers: int = 10,
    sdk_writers: int = 10,
    readers: int = 50,
    pause_s: float = 0.02,
    seed: int = 1,
    padding: int = 0,
    proxied_url: str | None = None,
) -> AsyncIterator[Load]:
    """Start writers and readers of a gateway.

    Args:
        url: The gateway's URL.
        folder: Folder for the files of child processes.
        streams: Number of streams, two per run; writers and readers are spread over them.
        raw_writers: Number of writers over raw WebSockets, in this process.
        sdk_writers: Number of writers of the SDK, in one child process; at most one per stream.
        readers: Number of readers over raw WebSockets, in this process; some are throttled.
        pause_s: Mean pause of a raw writer between an acknowledgement and its next append.
        seed: Seed of the random numbers.
        padding: Bytes added to each record of the raw writers.
        proxied_url: URL for the raw readers and writers, if it differs from the gateway's.
    """
    keys: list[Key] = []
    async with store_at(url) as store:
        for _ in range((streams + 1) // 2):
            run = await store.create_run(new_run())
            keys += [(run.id, "first"), (run.id, "second")]
    it = Load(url, keys[:streams], folder, random.Random(seed), padding=padding)
    try:
        for number in range(readers):
            throttle_ms = THROTTLES_MS[number % len(THROTTLES_MS)]
            it.add_reader(it.keys[number % streams], url=proxied_url, throttle_ms=throttle_ms)
        for number in range(raw_writers):
            it.add_writer(it.keys[number % streams], url=proxied_url, pause_s=pause_s)
        if sdk_writers:
            await it.add_sdk_writers(it.keys[:sdk_writers])
        yield it
    finally:
        tasks = [*it.tasks, *it._unchecked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if it.sdk is not None:
            it.sdk.close()
