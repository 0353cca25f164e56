"""Any order of appends, subscribes, trims, deletes, stalls and resumes, against a model.

The model knows what was appended; every client checks each frame as it comes: no gap that was not
told, no repeat, no other order, a reset only where its position was void, an end only where there
is one; and when all is quiet everyone has everything.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from redis_serving import fresh_url
from serving import new_run
from stepping import CountedRedis, CountedSqlite, SteppedLoop, Wired

from gateway import cohorts, hub
from gateway.hub import Hub
from gateway.records import Position, StreamKey
from gateway.stores import growth
from gateway.stores.memory import MemoryStore
from gateway.stores.retention import Retention

KEPT_RECORDS = 8
STREAMS = 2
MAX_THROTTLE_S = 2.0
THROTTLES_MS = (0, 0, 50, 2000)
OTHER_EPOCH = "0123456789abcdef"


@dataclass
class Log:
    """What a stream must be."""

    key: StreamKey
    values: list[str] = field(default_factory=list)
    earliest: int = 0
    end: str | None = None
    ends: list[str] = field(default_factory=list)  # one that completed may be deleted later


@dataclass
class Follower:
    """A client's view of one subscription; `take` checks every frame."""

    log: Log
    expected: int | None  # offset of the next record; None until `subscribed` says
    reset: str | None = None  # the one that must come first
    position: str = ""
    is_over: bool = False
    is_subscribed: bool = False

    def take(self, frame: dict[str, Any]) -> None:
        if self.is_over and frame.get("code") == "unknown_subscription":
            return  # it ended while `unsubscribe` was on its way
        assert not self.is_over, f"after the end: {frame}"
        if frame["type"] == "subscribed":
            assert not self.is_subscribed
            self.is_subscribed = True
            self.position = frame["position"]
            stands_at = Position.parse(self.position).offset
            if self.expected is None:
                self.expected = stands_at
            elif self.reset is None:
                assert stands_at == self.expected
            return
        assert self.is_subscribed, f"before `subscribed`: {frame}"
        getattr(self, f"_{frame['type']}")(frame)

    def _records(self, frame: dict[str, Any]) -> None:
        assert self.reset is None, f"records where a reset was due: {frame}"
        for record in frame["records"]:
            assert record["offset"] == self.expected
            assert record["data"] == self.log.values[record["offset"]]
            self.expected += 1
        self._stand(frame["position"])

    def _gap(self, frame: dict[str, Any]) -> None:
        start, stop = (Position.parse(frame[name]).offset for name in ("from", "to"))
        assert start == self.expected < stop <= self.log.earliest
        assert frame["reason"] == "trimmed"
        self.expected = stop
        self._stand(frame["to"])

    def _reset(self, frame: dict[str, Any]) -> None:
        assert frame["reason"] == self.reset
        self.reset, self.expected = None, 0
        self._stand(frame["position"])

    def _end(self, frame: dict[str, Any]) -> None:
        assert frame["reason"] in self.log.ends
        if frame["reason"] != "deleted":
            self.expect_everything()
        self.is_over = True

    def _stand(self, position: str) -> None:
        assert Position.parse(position).offset == self.expected
        self.position = position

    def expect_everything(self) -> None:
        assert self.reset is None and self.expected == len(self.log.values)


class Streams(RuleBasedStateMachine):
    """The rules; a subclass says which store."""

    followers: Bundle[tuple[Wired, int]] = Bundle("followers")

    @initialize(ring=st.integers(1, 2000), frame=st.integers(1, 400), watch=st.integers(1, 2000))
    def begin(self, ring: int, frame: int, watch: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(hub, "RING_BYTES", ring)
        self.patch.setattr(hub, "FRAME_BYTES", frame)
        self.patch.setattr(cohorts, "FLUSH_BYTES", frame)
        self.patch.setattr(growth, "WATCH_BYTES", watch)
        self.loop = SteppedLoop()
        self.store = self.make_store()
        self.do(self.store.open())
        run = self.do(self.store.create_run(new_run()))
        self.hub = self.do(self._make_hub())
        self.logs = [Log(StreamKey(run.id, f"s{n}")) for n in range(STREAMS)]
        self.clients: dict[Wired, dict[int, Follower]] = {}
        self.gone: list[Follower] = []
        self.appending: list[asyncio.Task[Any]] = []
        self.connect(True)
        self.connect(False)

    def make_store(self) -> Any:
        raise NotImplementedError

    async def _make_hub(self) -> Hub:
        return Hub(self.store)

    def clock_ms(self) -> int:
        return round(self.loop.clock_s() * 1000)

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    # ---- what happens ----

    @rule(
        n=st.integers(0, STREAMS - 1),
        count=st.integers(1, 6),
        size=st.integers(0, 90),
        is_awaited=st.booleans(),
    )
    def append(self, n: int, count: int, size: int, is_awaited: bool) -> None:
        log = self.logs[n]
        if log.end is None:
            first = len(log.values)
            values = [f"{first + i} {'x' * size}" for i in range(count)]
            log.values += values
            data = [f'"{value}"'.encode() for value in values]
            self.appending.append(self.loop.create_task(self.store.append(log.key, data)))
            if is_awaited:
                self.settle_appends()

    def settle_appends(self) -> None:
        while self.appending:
            self.do(self.appending.pop(0))

    @precondition(lambda self: bool(self.clients))
    @rule(
        c=st.integers(0, 3),
        n=st.integers(0, STREAMS - 1),
        waits=st.lists(st.sampled_from([0.0, 0.05, 2.0]), min_size=1, max_size=5),
    )
    def fall_behind(self, c: int, n: int, waits: list[float]) -> None:
        """A client takes nothing while a stream grows and grows, and then everything."""
        self.stall(c)
        for seconds in waits:
            self.append(n, 5, 60, False)
            self.wait(seconds)
        self.go_on(c)

    @precondition(lambda self: sum(map(len, self.logs_values())) > 20)
    @rule(n=st.integers(0, STREAMS - 1), reason=st.sampled_from(["completed", "failed"]))
    def end(self, n: int, reason: str) -> None:
        self.settle_appends()
        log = self.logs[n]
        if log.end is None:
            log.end = reason
            log.ends.append(reason)
            self.do(self.store.append(log.key, [], end=reason))

    @precondition(lambda self: sum(map(len, self.logs_values())) > 20)
    @rule(n=st.integers(0, STREAMS - 1))
    def delete(self, n: int) -> None:
        self.settle_appends()
        self.logs[n].end = "deleted"
        self.logs[n].ends.append("deleted")
        self.do(self.store.delete(self.logs[n].key))

    def logs_values(self) -> list[list[str]]:
        return [log.values for log in self.logs] if hasattr(self, "logs") else []

    @rule()
    def sweep(self) -> None:
        self.settle_appends()
        while self.do(self.store.sweep()).has_more:
            pass
        for log in self.logs:
            head = self.do(self.store.head(log.key))
            if log.end != "deleted":
                assert head.position.offset == len(log.values)
                assert log.earliest <= head.earliest.offset
                assert head.earliest.offset <= max(0, len(log.values) - KEPT_RECORDS)
            log.earliest = head.earliest.offset

    @precondition(lambda self: len(self.clients) < 4)
    @rule(is_direct=st.booleans())
    def connect(self, is_direct: bool) -> None:
        self.clients[Wired(self.loop, self.store, self.hub, is_direct=is_direct)] = {}

    @rule(
        target=followers,
        c=st.integers(0, 3),
        n=st.integers(0, STREAMS - 1),
        start=st.one_of(
            st.sampled_from(["beginning", "latest"]),
            st.integers(1, 10).map(lambda last: {"last": last}),
        ),
        throttle_ms=st.sampled_from(THROTTLES_MS),
    )
    def subscribe(self, c: int, n: int, start: Any, throttle_ms: int) -> Any:
        return self._subscribe(c, Follower(self.logs[n], None), start, throttle_ms)

    @rule(
        target=followers,
        c=st.integers(0, 3),
        n=st.integers(0, 20),
        throttle_ms=st.sampled_from(THROTTLES_MS),
    )
    def resume(self, c: int, n: int, throttle_ms: int) -> Any:
        """Go on, on whichever connection, where a subscription that is gone had come to."""
        left = [one for one in self.gone if one.position and not one.is_over and not one.reset]
        if not left:
            return None
        before = left[n % len(left)]
        expected = Position.parse(before.position).offset
        start = {"position": before.position}
        return self._subscribe(c, Follower(before.log, expected), start, throttle_ms)

    @rule(
        target=followers, c=st.integers(0, 3), n=st.integers(0, STREAMS - 1), is_far=st.booleans()
    )
    def resume_from_nowhere(self, c: int, n: int, is_far: bool) -> Any:
        """Give a position of another store, or one that lies ahead of all there is."""
        self.settle_appends()
        log = self.logs[n]
        head = self.do(self.store.head(log.key))
        if head.position.offset == 0 or log.end == "deleted":
            return None
        epoch, offset = (OTHER_EPOCH, 1) if not is_far else (head.position.epoch, 1000)
        reason = "tail_lost" if is_far else "epoch_changed"
        start = {"position": str(Position(epoch, offset))}
        return self._subscribe(c, Follower(log, offset, reset=reason), start, 0)

    def _subscribe(self, c: int, follower: Follower, start: Any, throttle_ms: int) -> Any:
        if not self.clients:
            return None
        client = list(self.clients)[c % len(self.clients)]
        id = next(id for id in range(100) if id not in self.clients[client])
        self.clients[client][id] = follower
        run, stream = follower.log.key
        client.send(
            type="subscribe", id=id, run=run, stream=stream, start=start, throttle_ms=throttle_ms
        )
        return client, id

    @rule(which=consumes(followers))
    def unsubscribe(self, which: tuple[Wired, int] | None) -> None:
        if which is None or which[0] not in self.clients:
            return
        client, id = which
        self.take()
        follower = self.clients[client].get(id)
        if follower is not None and not follower.is_over and not client.sink.is_stalled:
            client.send(type="unsubscribe", id=id)
            self.loop.pass_time()
            self.take()
            if not follower.is_over:
                self.gone.append(self.clients[client].pop(id))

    @rule(c=st.integers(0, 3))
    def stall(self, c: int) -> None:
        if self.clients:
            list(self.clients)[c % len(self.clients)].sink.stall()

    @rule(c=st.integers(0, 3))
    def go_on(self, c: int) -> None:
        if self.clients:
            list(self.clients)[c % len(self.clients)].sink.go_on()

    @rule(c=st.integers(0, 3))
    def leave(self, c: int) -> None:
        if self.clients:
            self.take()
            client = list(self.clients)[c % len(self.clients)]
            self.gone += self.clients.pop(client).values()
            client.leave()

    @rule()
    def breathe(self) -> None:
        """Let everything run that needs no time; other rules may come in its middle."""
        self.loop.pass_time()

    @rule(seconds=st.sampled_from([0.01, 0.05, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.ping()
        self.loop.pass_time(max(seconds, 1e-6))

    def ping(self) -> None:
        for client in self.clients:
            client.send(type="ping")

    # ---- what has to hold ----

    @invariant()
    def take(self) -> None:
        for client, followers in getattr(self, "clients", {}).items():
            for frame in client.sink.frames:
                if "id" not in frame:
                    assert frame["type"] == "pong", frame
                elif frame["type"] != "unsubscribed":
                    followers[frame["id"]].take(frame)
            client.sink.frames.clear()

    @rule()
    def everyone_has_everything_when_all_is_quiet(self) -> None:
        self.settle_appends()
        for client in self.clients:
            client.sink.go_on()
        self.ping()
        self.loop.pass_time(2 * MAX_THROTTLE_S + 0.1)  # a window may have just begun
        self.take()
        for followers in self.clients.values():
            for follower in followers.values():
                assert follower.is_subscribed
                if follower.log.end is not None:
                    assert follower.is_over
                else:
                    follower.expect_everything()

    def teardown(self) -> None:
        if not hasattr(self, "clients"):
            return
        try:
            self.everyone_has_everything_when_all_is_quiet()
            for client in self.clients:
                client.leave()
            self.loop.pass_time()
            assert self.hub.live_streams == 0
        finally:
            self.patch.undo()
            self.do(self.store.close())
            self.do(self.loop.shutdown_asyncgens())
            self.loop.is_busy = lambda: True  # the threads of the default executor end
            self.do(self.loop.shutdown_default_executor())
            self.loop.close()


class Fetching(MemoryStore):
    """Takes some turns of the loop to read, as a store does that has to fetch."""

    async def read(self, *args: Any) -> Any:
        for _ in range(3):
            await asyncio.sleep(0)
        return await super().read(*args)


class InMemory(Streams):
    def make_store(self) -> Any:
        return Fetching(clock_ms=self.clock_ms, retention=Retention(records=KEPT_RECORDS))


class InSqlite(Streams):
    def make_store(self) -> Any:
        self.folder = tempfile.TemporaryDirectory()
        store = CountedSqlite(
            Path(self.folder.name) / "test.db",
            durability="normal",
            clock_ms=self.clock_ms,
            retention=Retention(records=KEPT_RECORDS),
        )
        self.loop.is_busy = lambda: store.under_way > 0
        return store

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


class InRedis(Streams):
    def make_store(self) -> Any:
        store = CountedRedis(fresh_url(), self.loop, retention=Retention(records=KEPT_RECORDS))
        self.loop.is_busy = lambda: store.under_way > 0
        return store


QUICK = settings(
    max_examples=int(os.environ.get("STATEFUL_EXAMPLES", "500")),
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
InMemory.TestCase.settings = QUICK
InSqlite.TestCase.settings = settings(QUICK, max_examples=60)
InRedis.TestCase.settings = settings(QUICK, max_examples=60)
TestInMemory = InMemory.TestCase
TestInSqlite = InSqlite.TestCase
TestInRedis = InRedis.TestCase
