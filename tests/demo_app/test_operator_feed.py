"""The operator page shows the gateway's metrics, and only operators may read them."""

import json

import pytest

from demo_app import operator_feed
from demo_app.operator_feed import SAMPLES_PER_MINUTE, RateTracker
from gateway import runs
from gateway._internal.counters import Counters
from gateway.errors import RunNotFound
from gateway.fanout.lag import LaggingReader
from gateway.model.records import StreamKey
from gateway.server.ops.snapshot import LiveStream, Snapshot
from tests.support.gateways import SECRET, new_run, serving, token_for, until

KEY = StreamKey("run_0123456789", "progress")


@pytest.fixture(autouse=True)
def _no_feed(monkeypatch):
    monkeypatch.setattr(operator_feed, "_gateway", None)
    monkeypatch.setattr(operator_feed, "_feed_run_id", None)


def figures_of(counters, streams=(), lagging=(), **fields):
    given = {
        "connections": 3,
        "subscriptions": 5,
        "memory_bytes": 90_000_000,
        "not_ready_reason": None,
    }
    return Snapshot(counters, streams=list(streams), lagging=list(lagging), **(given | fields))


def test_rates_cover_the_time_between_two_snapshots():
    counters = Counters()
    rates = RateTracker(figures_of(counters, [LiveStream(KEY, 10, 1)]), 100.0)
    counters.records_appended += 20
    counters.records_sent += 400
    counters.bytes_sent += 8000
    counters.delivery_s.observe(0.004)
    sample = rates.update(figures_of(counters, [LiveStream(KEY, 30, 2)]), 102.0, "12:00:00")
    assert (sample.appended_per_s, sample.sent_per_s, sample.sent_kb_per_s) == (10, 200, 4)
    assert (sample.connections, sample.subscriptions, sample.live_streams) == (3, 5, 1)
    assert (sample.memory_mb, sample.state, sample.delivery_ms) == (90, "ready", "≤ 5 ms")
    (row,) = sample.rates
    assert (row.run, row.stream, row.per_s, row.readers) == ("…456789", "progress", 10, 2)
    quiet = rates.update(figures_of(counters, [LiveStream(KEY, 30, 2)]), 103.0, "12:00:01")
    assert (quiet.sent_per_s, quiet.delivery_ms, quiet.rates[0].per_s) == (0, "none", 0)
    assert quiet.sent_levels[-2:] == [100, 0] and len(quiet.sent_levels) == SAMPLES_PER_MINUTE
    assert quiet.peak_per_s == 200


def test_rate_of_new_stream_is_zero():
    rates = RateTracker(figures_of(Counters()), 0.0)
    sample = rates.update(figures_of(Counters(), [LiveStream(KEY, 1000, 1)]), 1.0, "")
    assert sample.rates[0].per_s == 0


def test_refusals_are_counted_for_last_minute_and_in_total():
    counters = Counters()
    counters.refusals["forbidden"] = 7
    rates = RateTracker(figures_of(counters), 0.0)
    counters.refusals.update(forbidden=1, invalid_token=2)
    sample = rates.update(figures_of(counters), 1.0, "")
    rows = [(row.code, row.last_minute, row.total) for row in sample.refusals]
    assert rows == [("invalid_token", 2, 2), ("forbidden", 1, 8)]
    for second in range(SAMPLES_PER_MINUTE):
        sample = rates.update(figures_of(counters), 2.0 + second, "")
    rows = [(row.code, row.last_minute, row.total) for row in sample.refusals]
    assert rows == [("forbidden", 0, 8), ("invalid_token", 0, 2)]


def test_tables_list_slowest_readers_first_and_are_cut():
    lagging = [LaggingReader(f"c_{n}", KEY, n) for n in range(1, 51)]
    rates = RateTracker(figures_of(Counters()), 0.0)
    sample = rates.update(figures_of(Counters(), lagging=lagging), 1.0, "")
    assert [row.behind for row in sample.lagging] == list(range(50, 40, -1))
    assert sample.lagging[0].stream == "…456789/progress"


def test_sample_has_reason_when_gateway_is_not_ready():
    rates = RateTracker(figures_of(Counters()), 0.0)
    sample = rates.update(figures_of(Counters(), not_ready_reason="store unavailable"), 1.0, "")
    assert sample.state == "store unavailable"


async def test_snapshot_counts_connections_and_streams():
    async with serving() as gateway:
        run = await gateway.gateway._store.create_run(new_run())
        key = StreamKey(run.id, "s")
        await gateway.gateway._store.append(key, [b"1", b"2"])
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            await client.receive()
            found = gateway.gateway.snapshot()
            assert (found.connections, found.subscriptions) == (1, 1)
            assert found.streams == [LiveStream(key, 2, 1)]
            assert found.lagging == []
            assert found.memory_bytes > 10_000_000
            assert found.not_ready_reason is None


async def test_snapshot_lists_lagging_reader_by_connection():
    async with serving() as gateway:
        run = await gateway.gateway._store.create_run(new_run())
        key = StreamKey(run.id, "s")
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            record = json.dumps("x" * (1 << 17)).encode()
            for _ in range(80):
                await gateway.gateway._store.append(key, [record])
            await until(lambda: gateway.gateway.snapshot().lagging)
            (reader,) = gateway.gateway.snapshot().lagging
            assert reader.connection.startswith("c_") and reader.key == key
            assert 0 < reader.lag <= 80


@pytest.mark.parametrize(
    ("env", "address", "headers", "bearer", "may"),
    [
        ("development", "127.0.0.1", {"host": "localhost:8000"}, "", True),
        ("development", "10.0.0.7", {"host": "localhost:8000"}, "", False),
        ("development", "127.0.0.1", {"host": "evil.example"}, "", False),
        (
            "development",
            "127.0.0.1",
            {"host": "localhost", "x-forwarded-for": "1.2.3.4"},
            "",
            False,
        ),
        ("production", "127.0.0.1", {"host": "localhost:8000"}, "", False),
        ("production", "127.0.0.1", {}, SECRET, True),
        ("development", "127.0.0.1", {"host": "localhost"}, "nonsense", False),
    ],
)
async def test_access_depends_on_environment_and_address(env, address, headers, bearer, may):
    async with serving(env=env) as gateway:
        operator_feed.set_gateway(gateway.gateway)
        assert operator_feed.may_operate(address, headers, bearer) == may


@pytest.mark.parametrize(
    ("scope", "age_s", "may"),
    [("read:metrics:*", 0, True), ("read:runs:*", 0, False), ("read:metrics:*", 700, False)],
)
async def test_access_requires_valid_token_for_metrics(scope, age_s, may):
    async with serving(env="production") as gateway:
        operator_feed.set_gateway(gateway.gateway)
        token = token_for(scope, age_s=age_s)
        assert operator_feed.may_operate("10.0.0.7", {}, token) == may


async def test_access_is_refused_without_gateway_in_process():
    assert not operator_feed.may_operate("127.0.0.1", {"host": "localhost"}, SECRET)
    assert await operator_feed.ensure_feed() is None


async def test_visitors_share_one_feed_run_until_it_ends(monkeypatch):
    from gateway.sdk import task_registry

    task_registry._tasks[operator_feed.watch_gateway.id] = operator_feed.watch_gateway
    monkeypatch.setattr(operator_feed, "SAMPLE_INTERVAL_S", 0.01)
    async with serving() as gateway:
        operator_feed.set_gateway(gateway.gateway)
        first = await operator_feed.ensure_feed()
        assert await operator_feed.ensure_feed() == first
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=first, stream="gateway-metrics")
            sample = (await client.receive())["records"][0]["data"]
            assert sample["state"] == "ready"
        monkeypatch.setattr(operator_feed, "IDLE_TIMEOUT_S", 0.0)
        await until(lambda: gateway.store._runs[first].is_finished)
        assert (await runs.retrieve(first)).status == "completed"
        second = await operator_feed.ensure_feed()
        assert second != first
        await gateway.gateway._store.delete_run(second)
        with pytest.raises(RunNotFound):
            await runs.retrieve(second)
        assert await operator_feed.ensure_feed() not in (first, second)
