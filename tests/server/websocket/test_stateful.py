"""Any order of appends, subscribes, trims, deletes, stalls and resumes, against a model.

The model knows what was appended; every client checks each frame as it comes: no gap that was not
told, no repeat, no other order, a reset only where its position was void, an end only where there
is one; and when all is quiet everyone has everything.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
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

from gateway.errors import StreamEnded, WriterFenced, WriterGap
from gateway.fanout import group, page_cache, tail
from gateway.fanout.hub import Hub
from gateway.model.log import Appended, Head
from gateway.model.records import Position, StreamKey
from gateway.model.retention import Retention
from gateway.stores import change_notifier
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.topology import bucket_of
from tests.support.gateways import new_run
from tests.support.log_model import Author, Follower, Log
from tests.support.redis.servers import fresh_url, shared_server
from tests.support.stepped_loop import CountedRedis, CountedSqlite, SteppedLoop, Wired

KEPT_RECORDS = 8
STREAMS = 2
MAX_THROTTLE_S = 2.0
THROTTLES_MS = (0, 0, 50, 2000)
OTHER_EPOCH = "0123456789abcdef"


class Streams(RuleBasedStateMachine):
    """The rules; a subclass says which store."""

    followers: Bundle[tuple[Wired, int]] = Bundle("followers")
    piece_records: int | None = None  # at most so many are laid down, and go, as one

    @initialize(ring=st.integers(1, 2000), frame=st.integers(1, 400), watch=st.integers(1, 2000))
    def begin(self, ring: int, frame: int, watch: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(tail, "RING_BYTES", ring)
        self.patch.setattr(page_cache, "FRAME_BYTES", frame)
        self.patch.setattr(group, "FLUSH_BYTES", frame)
        self.patch.setattr(change_notifier, "WATCH_BYTES", watch)
        self.loop = SteppedLoop()
        self.store = self.make_store()
        self.do(self.store.open())
        run = self.do(self.store.create_run(new_run()))
        self.hub = self.do(self._make_hub())
        self.run_id = run.id
        self.logs = [
            Log(StreamKey(run.id, f"s{n}"), [Author("a", "records"), Author("b", "appends")])
            for n in range(STREAMS + 1)  # to the last one nothing is ever appended
        ]
        self.clients: dict[Wired, dict[int, Follower]] = {}
        self.gone: list[Follower] = []
        self.is_canceled = False
        self.appending: list[tuple[asyncio.Task[Any], Callable[[Appended], None]]] = []
        for c in range(2):
            self.connect(is_direct=c > 0)
            for n in range(STREAMS):
                self._subscribe(c, Follower(self.logs[n], None), "beginning", 50 * n)

    def make_store(self) -> Any:
        raise NotImplementedError

    def keeps_records_of(self, key: StreamKey) -> bool:
        """Whether any are there still, where the store lays them down."""
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
            self._append(log, log.grow(count, size), lambda done: self._is_at(done, first, count))
            if is_awaited:
                self.settle_appends()

    def _append(
        self, log: Log, data: list[bytes], check: Callable[[Appended], None], **more: Any
    ) -> None:
        work = self.store.append(log.key, data, **more)
        self.appending.append((self.loop.create_task(work), check))

    def _is_at(self, done: Appended, first: int, count: int) -> None:
        assert not done.duplicate
        assert done.offset == (first if count else None)
        assert done.position.offset >= first + count

    def settle_appends(self) -> None:
        while self.appending:
            task, check = self.appending.pop(0)
            check(self.do(task))

    @rule(
        n=st.integers(0, STREAMS - 1),
        w=st.integers(0, 1),
        count=st.integers(1, 4),
        overlaps=st.booleans(),
        is_awaited=st.booleans(),
    )
    def write(self, n: int, w: int, count: int, overlaps: bool, is_awaited: bool) -> None:
        """Append as a writer; its records may come along once more with those that follow them."""
        log = self.logs[n]
        author = log.authors[w]
        if log.end is not None:
            return
        first, last = len(log.values), author.last
        data = log.grow(count, 10)
        sent = author.send(data, first)
        more = {"writer": sent.writer}
        if overlaps and last is not None and author.counts == "records":
            data, more["writer"] = last.data + data, last.writer
        self._append(log, data, lambda done: self._is_at(done, first, count), **more)
        if is_awaited:
            self.settle_appends()

    @rule(n=st.integers(0, STREAMS - 1), w=st.integers(0, 1))
    def repeat(self, n: int, w: int) -> None:
        """Send again what was perhaps not answered, also after the end."""
        log, sent = self.logs[n], self.logs[n].authors[w].last
        if sent is None or log.end == "deleted":
            return
        self.settle_appends()
        done = self.do(self.store.append(log.key, sent.data, writer=sent.writer, end=sent.end))
        assert done.duplicate
        assert done.position.offset == len(log.values)
        if sent.writer.counts == "appends":
            assert done.next_sequence == log.authors[w].sequence
        else:
            assert done.offset == sent.offset

    @rule(n=st.integers(0, STREAMS - 1), w=st.integers(0, 1))
    def take_over(self, n: int, w: int) -> None:
        """Begin anew as another process under a writer's name; the one before is refused."""
        log, author = self.logs[n], self.logs[n].authors[w]
        if log.end is None:
            author.take_over()
            self.write(n, w, 1, False, True)
            self._refuse(WriterFenced, log, author.writer(epoch=author.epoch - 1, sequence=0))

    @rule(n=st.integers(0, STREAMS - 1), w=st.integers(0, 1))
    def skip_ahead(self, n: int, w: int) -> None:
        """Leave out an append, which nobody may do."""
        log, author = self.logs[n], self.logs[n].authors[w]
        self.settle_appends()
        if log.end != "deleted":
            self._refuse(WriterGap, log, author.writer(sequence=author.sequence + 1))

    @rule(n=st.integers(0, STREAMS - 1), w=st.integers(-1, 1))
    def come_too_late(self, n: int, w: int) -> None:
        """Append to what has ended."""
        log = self.logs[n]
        if log.end is not None:
            self._refuse(StreamEnded, log, log.authors[w].writer() if w >= 0 else None)

    def _refuse(self, error: type[Exception], log: Log, writer: Any) -> None:
        with pytest.raises(error):
            self.do(self.store.append(log.key, [b'"never"'], writer=writer))

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

    @precondition(lambda self: sum(map(len, self.logs_values())) > 30)
    @rule(
        n=st.integers(0, STREAMS - 1),
        reason=st.sampled_from(["completed", "failed"]),
        count=st.integers(0, 3),
        w=st.integers(-1, 1),
    )
    def end(self, n: int, reason: str, count: int, w: int) -> None:
        """End a stream, perhaps with its last records, perhaps as a writer."""
        self.settle_appends()
        log = self.logs[n]
        if log.end is None:
            first = len(log.values)
            data = log.grow(count, 10)
            writer = log.authors[w].send(data, first, reason).writer if w >= 0 else None
            log.finish(reason)
            append = self.store.append(log.key, data, writer=writer, end=reason)
            self._is_at(self.do(append), first, count)

    @precondition(lambda self: sum(map(len, self.logs_values())) > 40)
    @rule(n=st.integers(0, STREAMS - 1))
    def delete(self, n: int) -> None:
        """Delete a stream that somebody reads."""
        self.settle_appends()
        self._subscribe(n, Follower(self.logs[n], None), "latest", 0)
        self.loop.pass_time()
        self.logs[n].finish("deleted")
        self.do(self.store.delete(self.logs[n].key))
        assert not self.keeps_records_of(self.logs[n].key)

    @precondition(lambda self: sum(map(len, self.logs_values())) > 60)
    @rule(c=st.integers(0, 3))
    def cancel(self, c: int) -> None:
        """End the run, and with it every stream that has not ended yet or was never begun."""
        self.settle_appends()
        self._subscribe(c, Follower(self.logs[-1], None), "beginning", 0)
        self.loop.pass_time()
        if any(log.end is None for log in self.logs) and not self.is_canceled:
            self.is_canceled = True
            self.do(self.store.patch_run(self.run_id, {"status": "canceled"}))
            for log in self.logs:
                if log.end is None:
                    log.finish("canceled")

    @rule(n=st.integers(0, STREAMS - 1), back=st.integers(0, 12), size=st.integers(1, 400))
    def look(self, n: int, back: int, size: int) -> None:
        """Read a page, from a position near the end."""
        self.settle_appends()
        log = self.logs[n]
        head = self.do(self.store.head(log.key))
        assert (head.position.offset, head.end) == (len(log.values), log.end)
        start = max(0, len(log.values) - back)
        page = self.do(self.store.read(log.key, Position(head.position.epoch, start), size))
        assert page.reset is None
        if log.end == "deleted":
            assert page.records == []
            assert page.end == "deleted"
            return
        if start < head.earliest.offset:
            assert page.gap is not None
            assert (page.gap.start.offset, page.gap.stop) == (start, head.earliest)
            start = head.earliest.offset
        else:
            assert page.gap is None
        log.check(page.records, start)
        assert page.records or start == len(log.values)
        assert page.position.offset == start + len(page.records)
        assert page.end == (log.end if page.position == head.position else None)

    def logs_values(self) -> list[list[str]]:
        return [log.values for log in self.logs] if hasattr(self, "logs") else []

    @rule(n=st.integers(0, STREAMS - 1))
    def grow_slowly(self, n: int) -> None:
        """Have records that are laid down one by one, and are trimmed one by one."""
        for _ in range(KEPT_RECORDS + 1):
            self.append(n, 1, 5, True)
        self.sweep()

    @rule()
    def sweep(self) -> None:
        self.settle_appends()
        while self.do(self.store.sweep()).has_more:
            pass
        for log in self.logs:
            head = self.do(self.store.head(log.key))
            if log.end != "deleted":
                self._check_kept(log, head)
            log.earliest = head.earliest.offset

    def _check_kept(self, log: Log, head: Head) -> None:
        """Nothing went that is inside the limits, and about all that is beyond them."""
        earliest = head.earliest.offset
        assert head.position.offset == len(log.values)
        assert log.earliest <= earliest <= max(0, len(log.values) - KEPT_RECORDS)
        if self.piece_records is not None:
            assert len(log.values) - earliest < KEPT_RECORDS + self.piece_records
        page = self.do(self.store.read(log.key, head.earliest, 1 << 20))
        log.check(page.records, earliest)
        assert (page.gap, page.position) == (None, head.position)

    @precondition(lambda self: len(self.clients) < 4)
    @rule(is_direct=st.booleans())
    def connect(self, is_direct: bool) -> None:
        self.clients[Wired(self.loop, self.store, self.hub, is_direct=is_direct)] = {}

    @rule(
        target=followers,
        c=st.integers(0, 3),
        n=st.integers(0, STREAMS),
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
        start = {"position": before.position}
        return self._subscribe(c, before.resumed(), start, throttle_ms)

    @rule(
        target=followers,
        c=st.integers(0, 3),
        n=st.integers(0, STREAMS - 1),
        is_far=st.booleans(),
        back=st.integers(0, 12),
    )
    def resume_from_nowhere(self, c: int, n: int, is_far: bool, back: int) -> Any:
        """Give a position of another store, or one that lies ahead of all there is."""
        self.settle_appends()
        log = self.logs[n]
        head = self.do(self.store.head(log.key))
        if head.position.offset == 0 or log.end == "deleted":
            return None
        near = max(1, head.position.offset - back)
        epoch, offset = (OTHER_EPOCH, near) if not is_far else (head.position.epoch, 1000)
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
                    at = Position.parse(follower.position)
                    head = self.do(self.store.head(follower.log.key))
                    assert at.offset == 0 or at == head.position

    def teardown(self) -> None:
        if not hasattr(self, "clients"):
            return
        try:
            self.everyone_has_everything_when_all_is_quiet()
            self.cancel(0)
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
    piece_records = 1

    def make_store(self) -> Any:
        return Fetching(clock_ms=self.clock_ms, retention=Retention(records=KEPT_RECORDS))

    def keeps_records_of(self, key: StreamKey) -> bool:
        return bool(self.store._streams[key].records)


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

    def keeps_records_of(self, key: StreamKey) -> bool:
        with closing(sqlite3.connect(Path(self.folder.name) / "test.db")) as db:
            sql = (
                "SELECT EXISTS (SELECT 1 FROM blocks JOIN streams ON stream = streams.no"
                " WHERE run_id = ? AND stream_id = ?)"
            )
            return bool(db.execute(sql, key).fetchone()[0])

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


class Lagging(CountedRedis):
    """Takes every other answer to a read late, when what was published meanwhile is heard."""

    reads = 0

    async def _read(self, *args: Any) -> Any:
        answer = await super()._read(*args)
        self.reads += 1
        for _ in range(100 * (self.reads % 2)):
            if self.under_way == 0:
                break
            await asyncio.sleep(0)
        return answer


class InRedis(Streams):
    piece_records = 6  # an append

    def make_store(self) -> Any:
        store = Lagging(fresh_url(), self.loop, retention=Retention(records=KEPT_RECORDS))
        self.loop.is_busy = lambda: store.under_way > 0
        return store

    def keeps_records_of(self, key: StreamKey) -> bool:
        bucket = bucket_of(key.run_id)
        name = f"{self.store._servers.base(bucket)}{key.run_id}/{key.stream_id}:log"
        with shared_server().client() as client:
            return bool(client.exists(name))

    @rule()
    def live_anew(self) -> None:
        """Be another server to the store, as after a restart: every stream gets another epoch."""
        self.settle_appends()
        self.do(self._forget_server())
        for n, log in enumerate(self.logs):
            before = self.do(self.store.head(log.key)).position
            if log.end is None and before.offset > 0:
                log.renewals += 1
                self.append(n, 1, 5, True)
                assert self.do(self.store.head(log.key)).position.epoch != before.epoch

    async def _forget_server(self) -> None:
        servers, bucket = self.store._servers, bucket_of(self.run_id)
        await servers.command(bucket, "HSET", servers.base(bucket) + "incarnation", "id", "x")


QUICK = settings(
    max_examples=int(os.environ.get("STATEFUL_EXAMPLES", "200")),
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
pytestmark = pytest.mark.slow

InMemory.TestCase.settings = QUICK
InSqlite.TestCase.settings = settings(QUICK, max_examples=40)
InRedis.TestCase.settings = settings(QUICK, max_examples=40)
TestInMemory = InMemory.TestCase
TestInSqlite = InSqlite.TestCase
TestInRedis = InRedis.TestCase
