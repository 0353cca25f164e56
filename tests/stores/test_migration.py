"""Copies of stores keep positions: what `gateway.stores.migration` promises, for every pair."""

import asyncio
import functools
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager

import pytest

from gateway.errors import ConfigurationError, StoreUnavailable, WriterFenced
from gateway.model.log import RunQuery, run_log
from gateway.model.records import (
    REVOCATIONS,
    Position,
    Record,
    RunSet,
    StreamKey,
    Writer,
    path_config,
    path_data,
)
from gateway.model.retention import Retention
from gateway.sdk.session import opened
from gateway.stores.factory import open_movable_store
from gateway.stores.idempotency import WriterState
from gateway.stores.migration import CopyableStore, StreamExtras, TokenUsage, copy_store
from gateway.stores.sqlite.store import SqliteStore
from tests.support.cli import realtime, running
from tests.support.gateways import environment, gateway_process, new_run, token_for, until
from tests.support.redis.servers import fresh_url, shared_server
from tests.support.redis.topologies import cluster, sentinels

KINDS = ["sqlite", "redis"]
FAR_MS = 4_000_000_000_000


@pytest.fixture(scope="module")
def servers():
    """Gives the servers of a kind, which are started when they are first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def of(kind):
            if kind == "redis":
                return shared_server()
            return stack.enter_context(sentinels(count=1) if kind == "sentinel" else cluster())

        yield of


@pytest.fixture
async def url_of(servers, tmp_path):
    """Gives the URL of a store of a kind with nothing in it."""

    async def of(kind, name):
        if kind == "sqlite":
            return f"sqlite:{tmp_path}/{name}.db?durability=normal"
        made = servers(kind)
        if kind != "redis":
            await until(made.is_joined)
        return fresh_url(made)

    return of


@asynccontextmanager
async def both(source, target):
    async with opened(open_movable_store(source)) as one, opened(open_movable_store(target)) as two:
        yield one, two


@pytest.fixture(params=[*KINDS, "cluster"])
async def store(request, url_of):
    async with opened(open_movable_store(await url_of(request.param, "one"))) as store:
        yield store


PAIRS = [(a, b) for a in KINDS for b in KINDS]
PAIRS += [("sqlite", "cluster"), ("cluster", "sentinel"), ("sentinel", "sqlite")]


@pytest.fixture(params=PAIRS, ids=lambda pair: " to ".join(pair))
async def urls(request, url_of):
    source, target = request.param
    return await url_of(source, "source"), await url_of(target, "target")


async def values(store, key, after=None):
    page = await store.read(key, after, 64 << 20)
    return [(each.offset, each.time_ms, each.source, each.data) for each in page.records], page


async def import_run(store, run):
    at = Position("00000000000000ab", 0)
    record = Record(0, 1, run.id, json.dumps(run.to_wire()).encode())
    if await store.stream_head(run_log(run.id)) is None:
        await store.import_records(run_log(run.id), at, [record], StreamExtras(None, None, {}))
    await store.import_run(run)


# The contract.


def test_the_stores_that_are_movable_say_so(store):
    assert isinstance(store, CopyableStore)


async def test_records_are_put_with_the_offsets_times_and_sources_that_they_have(store):
    key = StreamKey(new_run().id, "s")
    at = Position("00000000000000ab", 7)
    records = [Record(7 + n, 1000 + n // 2, (None, "run_a")[n // 3], b"%d" % n) for n in range(5)]
    await store.import_records(key, at, records[:3], None)
    assert (await store.stream_head(key)).position == Position(at.epoch, 10)
    rest = StreamExtras("failed", "b", {"w": WriterState(3, 9, 11)})
    await store.import_records(key, Position(at.epoch, 10), records[3:], rest)
    head = await store.stream_head(key)
    assert (head.position, head.earliest, head.end) == (Position(at.epoch, 12), at, "failed")
    await import_run(store, new_run(id=key.run_id))
    page = await store.read(key)
    assert page.records == records
    assert page.end == "failed"
    assert await store.stream_extras(key) == rest


async def test_records_are_put_only_where_the_stream_ends(store):
    key = StreamKey(new_run().id, "s")
    at = Position("00000000000000ab", 0)
    await store.import_records(key, at, [Record(0, 1, None, b"1")], None)
    for wrong in (at, Position(at.epoch, 2), Position("00000000000000ac", 1)):
        with pytest.raises(StoreUnavailable, match="and not at"):
            await store.import_records(key, wrong, [Record(wrong.offset, 1, None, b"2")], None)
    assert (await store.stream_head(key)).position == Position(at.epoch, 1)


async def test_a_stream_that_is_not_there_has_no_head_and_keeps_nothing(store):
    key = StreamKey("run_absent", "s")
    assert await store.stream_head(key) is None
    assert await store.stream_extras(key) == StreamExtras(None, None, {})
    assert await store.stream_ids("run_absent") == []


async def test_uses_of_tokens_are_put_and_never_become_fewer(store):
    await store.import_token_uses(TokenUsage("one", 2, FAR_MS))
    await store.import_token_uses(TokenUsage("one", 1, FAR_MS))
    (kept,) = [each async for each in store.iter_token_uses()]
    assert (kept.token_id, kept.uses) == ("one", 2)
    assert abs(kept.expires_at_ms - FAR_MS) < 60_000
    assert not await store.consume_token_use("one", 2, FAR_MS)
    assert await store.consume_token_use("one", 3, FAR_MS)


async def test_a_run_that_is_put_twice_is_in_its_lists_once(store):
    run = new_run(tags=["x"])
    await import_run(store, run)
    await import_run(store, run)
    assert (await store.get_run(run.id)).position == Position("00000000000000ab", 1)
    assert [each.id for each in await store.list_runs(RunQuery(tag="x"))] == [run.id]
    assert [each.id for each in await store.list_runs(RunQuery(status=("queued",)))] == [run.id]
    assert (await store.list_set_runs([RunSet("tag", "x")], 5)).runs == [run]


# The copy.


async def fill(store):
    """Have all that a store can have; return what readers hold."""
    run = await store.create_run(new_run(tags=["x"], idempotency_key="once", batch_id="b"))
    done = await store.create_run(new_run(parent_id=run.id, root_id=run.id))
    progress, answer = StreamKey(run.id, "progress"), StreamKey(done.id, "answer")
    gone = StreamKey(run.id, "gone")
    for number in range(40):
        writer = Writer("w", 1, number)
        await store.append(progress, [b'{"n":%d}' % number], source=done.id, writer=writer)
    held = (await store.append(progress, [b"x" * 5000] * 40, order="k")).position
    await store.append(answer, [b"1", b"1e400"], end="canceled")
    await store.append(gone, [b"1"])
    await store.delete(gone)
    await store.patch_run(run.id, {"status": "executing", "metadata": {"a": 1}})
    await store.patch_run(done.id, {"status": "executing"})
    await store.patch_run(done.id, {"status": "completed", "output": [1]})
    await store.append(REVOCATIONS, [b'{"token_id":"t"}'])
    await store.append(path_config("docs/a"), [b"{}"])
    await store.append(path_data("docs/a", "1"), [b"text"])
    await store.consume_token_use("token", 1, FAR_MS)
    return run, done, progress, answer, gone, held


async def test_all_that_a_store_has_arrives_with_its_positions(urls):
    async with both(*urls) as (source, target):
        run, done, progress, answer, gone, held = await fill(source)
        steps = []
        moved = await copy_store(source, target, lambda *step: steps.append(step))
        assert moved.runs == 2
        assert steps[-1] == (10, 10)  # two runs and three logs, copied and compared
        logs = [progress, answer, gone, run_log(run.id), run_log(done.id), REVOCATIONS]
        logs += [path_config("docs/a"), path_data("docs/a", "1")]
        for key in logs:
            assert await values(target, key) == await values(source, key), key
        for each in (run, done):
            assert await target.get_run(each.id) == await source.get_run(each.id)
        assert await target.list_path_logs(None, 10) == await source.list_path_logs(None, 10)
        assert (await values(target, progress, held))[1].is_empty  # its reader is not reset
        for query in (RunQuery(tag="x"), RunQuery(batch_id="b"), RunQuery(parent_id=run.id)):
            assert await target.list_runs(query) == await source.list_runs(query)
        assert (await target.list_set_runs([RunSet("tag", "x")], 5)).runs == [
            (await source.get_run(run.id)).run
        ]
        assert not await target.consume_token_use("token", 1, FAR_MS)


async def test_copied_store_retains_writers_keys_and_run_sets(urls):
    async with both(*urls) as (source, target):
        run, done, progress, _, _, held = await fill(source)
        await copy_store(source, target)
        with pytest.raises(WriterFenced):
            await target.append(progress, [b"0"], writer=Writer("w", 0, 40))
        repeat = await target.append(progress, [b'{"n":39}'], writer=Writer("w", 1, 39))
        assert repeat.duplicate
        new = await target.append(progress, [b"new"], writer=Writer("w", 1, 40), order="l")
        assert new.offset == 80
        assert new.position.epoch == held.epoch
        again = await target.create_run(new_run(idempotency_key="once"))
        assert again.id == run.id
        changed = await target.patch_run(run.id, {"status": "waiting"})
        assert changed.status == "waiting"
        assert (await target.list_set_runs([RunSet("tag", "x")], 5)).runs == [changed]
        assert await target.delete_run(done.id)
        assert await target.list_runs(RunQuery(parent_id=run.id)) == []


async def test_interrupted_copy_resumes_to_the_same_result(urls):
    class Cut(Exception):
        pass

    async with both(*urls) as (source, target):
        _, _, progress, *_ = await fill(source)
        put, count = target.import_records, 0

        async def cut(*arguments):
            nonlocal count
            count += 1
            if count % 3 == 0:
                raise Cut
            await put(*arguments)

        target.import_records = cut
        for _ in range(40):
            try:
                moved = await copy_store(source, target)
                break
            except Cut:
                pass
        assert count > 9
        assert moved.runs == 2
        assert await values(target, progress) == await values(source, progress)


async def test_copy_preserves_trimming(tmp_path):
    path = tmp_path / "source.db"
    async with opened(SqliteStore(path, retention=Retention(records=2))) as store:
        key = StreamKey((await store.create_run(new_run())).id, "s")
        for number in range(6):
            await store.append(key, [b"%d" % number])
        while (await store.sweep()).has_more:
            pass
    async with both(f"sqlite:{path}", fresh_url()) as (source, target):
        await copy_store(source, target)
        ours, theirs = await source.head(key), await target.head(key)
        assert ours == theirs
        assert ours.earliest.offset > 0
        assert await values(target, key) == await values(source, key)


async def test_another_target_is_never_written_over(urls):
    async with both(*urls) as (source, target):
        _, _, progress, *_ = await fill(source)
        await target.create_run(new_run(id=progress.run_id))
        before = await target.append(progress, [b"mine"])
        with pytest.raises(ConfigurationError, match="the target has another stream"):
            await copy_store(source, target)
        assert (await target.head(progress)).position == before.position


async def test_changes_after_copy_are_detected(urls):
    async with both(*urls) as (source, target):
        _, _, progress, *_ = await fill(source)
        put = target.import_token_uses

        async def late(spent):  # all streams are copied, and none is compared
            await put(spent)
            await source.append(progress, [b"late"])

        target.import_token_uses = late
        with pytest.raises(StoreUnavailable, match=f"stream {progress} differs"):
            await copy_store(source, target)


# The command.


async def test_clients_go_on_in_the_copy_where_they_were(tmp_path):
    path, target = tmp_path / "one.db", fresh_url()
    async with opened(SqliteStore(path, durability="normal")) as store:
        run = await store.create_run(new_run(owner="somebody"))
        key = StreamKey(run.id, "s")
        await store.append(key, [b"1"])
    with gateway_process(f"sqlite:{path}", tmp_path) as process:
        done = await realtime("copy", f"sqlite:{path}", target)
        assert (done.code, "in use by a gateway" in done.err) == (1, True)
        tail = await realtime("tail", *key, "--no-follow", "--json", "--url", process.url)
        held = tail.json[0]["position"]
    done = await realtime("copy", f"sqlite:{path}", target, "--json")
    assert done.code == 0, done.err
    assert done.json[0]["runs"] == 1
    again = await realtime("copy", f"sqlite:{path}", target)
    assert (again.code, "copied and compared" in again.out) == (0, True)
    token = token_for("read:runs:*", "write:runs:*")
    with gateway_process(target, tmp_path) as process:
        where = ("--url", process.url, "--token", token)
        async with running("tail", *key, "--raw", "--from", held, *where) as tail:
            assert (await realtime("append", *key, "2", "--end", *where)).code == 0
            assert await tail.line() == "2"  # and not 1 once more
            assert (await tail.done()).code == 0


async def test_the_command_copies_from_a_cluster_to_where_sentinels_lead(url_of):
    source, target = await url_of("cluster", "one"), await url_of("sentinel", "two")
    target = target.replace("://", "://default:hidden@")  # a server without a password takes any
    async with opened(open_movable_store(source)) as store:
        await fill(store)
    code, said = await asyncio.to_thread(on_a_terminal, "copy", source, target, "--json")
    assert code == 0, said
    assert '{"runs":2,"streams":10,"records":93}' in said
    assert "100%" in said
    assert "hidden" not in said


def on_a_terminal(*arguments):
    """Run a command on a terminal of its own; returns its exit code and what was to be seen."""
    ours, its = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            stdin=its,
            stdout=its,
            stderr=its,
            env=environment(),
        )
        os.close(its)
        said = b""
        try:
            while part := screen.read(4096):
                said += part
        except OSError:
            pass  # Linux says so that the other side has closed
        return process.wait(), said.decode()


async def test_killed_copy_command_resumes(tmp_path):
    source, target = (f"sqlite:{tmp_path}/{name}.db?durability=normal" for name in ("one", "two"))
    async with opened(open_movable_store(source)) as store:
        for _ in range(150):
            run = await store.create_run(new_run())
            await store.append(StreamKey(run.id, "s"), [b"x" * 1000] * 100)
    async with running("copy", source, target) as copy:
        written = tmp_path / "two.db-wal"
        while not (written.exists() and written.stat().st_size > 2_000_000):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        copy.process.send_signal(signal.SIGKILL)
        await copy.done()
    async with opened(open_movable_store(target)) as half:
        count = len(await half.list_runs(RunQuery(limit=1000)))
        assert 0 < count < 150
    done = await realtime("copy", source, target, "--json")
    assert done.code == 0, done.err
    assert done.json[0] == {"runs": 150, "streams": 450, "records": 150 * 102}


@pytest.mark.parametrize(
    "source, target, said",
    [
        ("sqlite:absent.db", "sqlite:b.db", "there is no store"),
        ("memory:", "sqlite:b.db", "memory:"),
        ("sqlite:a.db", "sqlite:a.db", "the same store"),
    ],
)
async def test_copy_reports_uncopyable_stores(source, target, said):
    done = await realtime("copy", source, target)
    assert (done.code, said in done.err) == (1, True), done.err
