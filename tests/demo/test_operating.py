"""The figures of the operator's page are the gateway's, and only operators get them."""

import json

import pytest
from serving import SECRET, new_run, serving, token_for, until

from demo_app import operator_feed
from demo_app.operator_feed import MINUTE, Observer
from gateway import runs
from gateway.counters import Counters
from gateway.errors import RunNotFound
from gateway.records import StreamKey
from gateway.web.figures import Figures, LaggingReader, LiveStream

KEY = StreamKey("run_0123456789", "progress")


@pytest.fixture(autouse=True)
def _nobody_watches(monkeypatch):
    monkeypatch.setattr(operator_feed, "_gateway", None)
    monkeypatch.setattr(operator_feed, "_watch_id", None)


def figures_of(counters, streams=(), lagging=(), **fields):
    given = {"connections": 3, "subscriptions": 5, "memory_bytes": 90_000_000, "unready": None}
    return Figures(counters, streams=list(streams), lagging=list(lagging), **(given | fields))


def test_rates_are_of_the_time_between_two_looks():
    counters = Counters()
    observer = Observer(figures_of(counters, [LiveStream(KEY, 10, 1)]), 100.0)
    counters.records_appended += 20
    counters.records_sent += 400
    counters.bytes_sent += 8000
    counters.delivery_s.observe(0.004)
    look = observer.look(figures_of(counters, [LiveStream(KEY, 30, 2)]), 102.0, "12:00:00")
    assert (look.appended_per_s, look.sent_per_s, look.sent_kb_per_s) == (10, 200, 4)
    assert (look.connections, look.subscriptions, look.live_streams) == (3, 5, 1)
    assert (look.memory_mb, look.state, look.delivery_ms) == (90, "ready", "≤ 5 ms")
    (row,) = look.rates
    assert (row.run, row.stream, row.per_s, row.readers) == ("…456789", "progress", 10, 2)
    quiet = observer.look(figures_of(counters, [LiveStream(KEY, 30, 2)]), 103.0, "12:00:01")
    assert (quiet.sent_per_s, quiet.delivery_ms, quiet.rates[0].per_s) == (0, "none", 0)
    assert quiet.sent_levels[-2:] == [100, 0] and len(quiet.sent_levels) == MINUTE
    assert quiet.peak_per_s == 200


def test_a_stream_that_is_new_has_no_rate_yet():
    observer = Observer(figures_of(Counters()), 0.0)
    look = observer.look(figures_of(Counters(), [LiveStream(KEY, 1000, 1)]), 1.0, "")
    assert look.rates[0].per_s == 0


def test_refusals_are_those_of_the_last_minute_and_of_all_time():
    counters = Counters()
    counters.refusals["forbidden"] = 7
    observer = Observer(figures_of(counters), 0.0)
    counters.refusals.update(forbidden=1, invalid_token=2)
    look = observer.look(figures_of(counters), 1.0, "")
    rows = [(row.code, row.last_minute, row.total) for row in look.refusals]
    assert rows == [("invalid_token", 2, 2), ("forbidden", 1, 8)]
    for second in range(MINUTE):
        look = observer.look(figures_of(counters), 2.0 + second, "")
    rows = [(row.code, row.last_minute, row.total) for row in look.refusals]
    assert rows == [("forbidden", 0, 8), ("invalid_token", 0, 2)]


def test_the_slowest_readers_come_first_and_no_table_grows():
    lagging = [LaggingReader(f"c_{n}", KEY, n) for n in range(1, 51)]
    observer = Observer(figures_of(Counters()), 0.0)
    look = observer.look(figures_of(Counters(), lagging=lagging), 1.0, "")
    assert [row.behind for row in look.lagging] == list(range(50, 40, -1))
    assert look.lagging[0].stream == "…456789/progress"


def test_a_gateway_that_is_not_ready_says_why():
    observer = Observer(figures_of(Counters()), 0.0)
    look = observer.look(figures_of(Counters(), unready="store unavailable"), 1.0, "")
    assert look.state == "store unavailable"


async def test_the_figures_are_the_gateways():
    async with serving() as gateway:
        run = await gateway.gateway._store.create_run(new_run())
        key = StreamKey(run.id, "s")
        await gateway.gateway._store.append(key, [b"1", b"2"])
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            await client.receive()
            found = gateway.gateway.figures()
            assert (found.connections, found.subscriptions) == (1, 1)
            assert found.streams == [LiveStream(key, 2, 1)]
            assert found.lagging == []
            assert found.memory_bytes > 10_000_000
            assert found.unready is None


async def test_a_reader_that_lags_is_named_by_its_connection():
    async with serving() as gateway:
        run = await gateway.gateway._store.create_run(new_run())
        key = StreamKey(run.id, "s")
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            record = json.dumps("x" * (1 << 17)).encode()
            for _ in range(80):
                await gateway.gateway._store.append(key, [record])
            await until(lambda: gateway.gateway.figures().lagging)
            (reader,) = gateway.gateway.figures().lagging
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
async def test_who_may_see_inside(env, address, headers, bearer, may):
    async with serving(env=env) as gateway:
        operator_feed.attend(gateway.gateway)
        assert operator_feed.may_operate(address, headers, bearer) == may


@pytest.mark.parametrize(
    ("scope", "age_s", "may"),
    [("read:metrics:*", 0, True), ("read:runs:*", 0, False), ("read:metrics:*", 700, False)],
)
async def test_whose_token_lets_him_see_inside(scope, age_s, may):
    async with serving(env="production") as gateway:
        operator_feed.attend(gateway.gateway)
        token = token_for(scope, age_s=age_s)
        assert operator_feed.may_operate("10.0.0.7", {}, token) == may


async def test_without_a_gateway_in_the_process_nobody_sees_inside():
    assert not operator_feed.may_operate("127.0.0.1", {"host": "localhost"}, SECRET)
    assert await operator_feed.watched() is None


async def test_one_run_looks_for_all_and_another_follows_it(monkeypatch):
    from gateway.sdk import tasks

    tasks._tasks[operator_feed.watch_gateway.id] = operator_feed.watch_gateway
    monkeypatch.setattr(operator_feed, "EVERY_S", 0.01)
    async with serving() as gateway:
        operator_feed.attend(gateway.gateway)
        first = await operator_feed.watched()
        assert await operator_feed.watched() == first
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=first, stream="gateway-figures")
            look = (await client.receive())["records"][0]["data"]
            assert look["state"] == "ready"
        monkeypatch.setattr(operator_feed, "UNWATCHED_S", 0.0)  # nobody is there any more
        await until(lambda: gateway.store._runs[first].is_final)
        assert (await runs.retrieve(first)).status == "completed"
        second = await operator_feed.watched()
        assert second != first
        await gateway.gateway._store.delete_run(second)
        with pytest.raises(RunNotFound):
            await runs.retrieve(second)
        assert await operator_feed.watched() not in (first, second)
