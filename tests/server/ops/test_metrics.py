import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from gateway._internal.counters import Histogram
from gateway.errors import StoreUnavailable
from gateway.fanout.tail import RING_BYTES
from gateway.model.records import StreamKey
from gateway.server.ops.loop_lag import measure_loop_lag
from tests.support.gateways import SECRET, new_run, serving, token_for, until, worker_token


class Scrape:
    """The samples of one scrape, by name and labels."""

    def __init__(self, text):
        self.families = list(text_string_to_metric_families(text))
        self.samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name, **labels):
        return self.samples[(f"realtime_{name}", *sorted(labels.items()))]


def url_of(gateway, path="/metrics"):
    return f"http://127.0.0.1:{gateway.port}{path}"


async def get(gateway, path="/metrics", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient() as http:
        return await http.get(url_of(gateway, path), headers=headers)


async def scrape(gateway):
    answer = await get(gateway)
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)


async def new_key(gateway):
    return StreamKey((await gateway.gateway._store.create_run(new_run())).id, "s")


async def append(gateway, key, *records):
    return await gateway.gateway._store.append(key, list(records))


async def test_what_happens_is_counted():
    async with serving() as gateway:
        key = await new_key(gateway)
        begun = await scrape(gateway)
        async with (
            gateway.client(token=token_for("read:runs:*")) as first,
            gateway.client(token=token_for("read:runs:*")) as second,
        ):
            for client in (first, second):
                await client.ask(type="subscribe", id=1, run=key.run_id, stream="s")
            await append(gateway, key, b"1", b'"two"')
            for client in (first, second):
                assert len((await client.receive())["records"]) == 2
            await first.ask(type="head", id=2, run="run_1", stream="not a stream")
            await first.ask(type="append", id=3, run=key.run_id, stream="s", records=[1])
            now = await scrape(gateway)
            assert now("connections") == 2
            assert now("connections_opened_total") == 2
            assert now("subscriptions") == 2
            assert now("live_streams") == 1
            assert now("records_appended_total") - begun("records_appended_total") == 2
            assert now("appended_bytes_total") - begun("appended_bytes_total") == 6
            assert now("records_sent_total") == 4
            assert now("ring_bytes") > 6
            assert now("append_seconds_count") - begun("append_seconds_count") == 1
            assert now("delivery_seconds_count") == 1
            assert now("slowest_reader_lag_records") == 0
            assert now("refusals_total", code="invalid_id") == 1
            assert now("refusals_total", code="forbidden") == 1
            assert now("refusals_total", code="silent") == 0
            assert now("store_ready") == 1
        await until(lambda: not gateway.gateway._sessions)
        ended = await scrape(gateway)
        assert ended("connections") == 0
        assert ended("live_streams") == 0
        assert ended("connections_closed_total", by="client") == 2


async def test_byte_counters_equal_frame_sizes():
    async with serving() as gateway, gateway.client(greet=False) as client:
        sent = ['{"type":"hello","protocol":1}', '{"type":"unsubscribe","id":1}']
        got = []
        for text in sent:
            await client.socket.send(text)
            got.append(await client.socket.recv())
        counters = gateway.gateway.counters
        assert counters.bytes_received == sum(map(len, sent))
        sizes = [len(text.encode()) for text in got]
        assert counters.bytes_sent == sum(size + (4 if size > 125 else 2) for size in sizes)


async def test_bytes_to_readers_that_get_the_same_are_counted_for_each():
    async with serving() as gateway:
        key = await new_key(gateway)
        token = token_for("read:runs:*")
        async with gateway.client(token=token) as first, gateway.client(token=token) as second:
            for client in (first, second):
                await client.ask(type="subscribe", id=1, run=key.run_id, stream="s")
            (tail,) = [tail for tail in gateway.hub.tails if tail.key == key]
            await until(lambda: tail.reader_count == 2 and not tail._solo)
            before = gateway.gateway.counters.bytes_sent
            await append(gateway, key, '"ü"'.encode())
            texts = [await client.socket.recv() for client in (first, second)]
            size = len(texts[0].encode())
            assert texts[0] == texts[1] and size > 125
            assert gateway.gateway.counters.bytes_sent - before == 2 * (size + 4)


async def test_a_reader_that_lags_is_seen_and_so_are_its_reads_of_the_store():
    async with serving() as gateway:
        key = await new_key(gateway)
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=key.run_id, stream="s", start="latest")
            record = json.dumps("x" * (RING_BYTES // 8)).encode()
            for _ in range(80):  # more than the kernel's buffers take
                await append(gateway, key, record)
            await until(lambda: any(each.lag > 8 for each in gateway.gateway.snapshot().lagging))
            lagging = await scrape(gateway)
            assert lagging("slowest_reader_lag_records") > 8
            assert lagging("lagging_readers") == 1
            got = 0
            while got < 80:
                got += len((await client.receive())["records"])
            caught_up = await scrape(gateway)
            assert caught_up("slowest_reader_lag_records") == 0
            assert caught_up("lagging_readers") == 0
            assert caught_up("catch_up_reads_total") > 0
            assert caught_up("records_sent_total") == 80


async def test_only_prompt_deliveries_are_timed():
    async with serving() as gateway:
        key = await new_key(gateway)
        await append(gateway, key, b"1")
        histogram = gateway.gateway.counters.delivery_s
        async with gateway.client(token=token_for("read:runs:*")) as client:
            subscribe = {"type": "subscribe", "run": key.run_id, "stream": "s"}
            await client.ask(**subscribe, id=1, throttle_ms=51)
            await client.receive()
            assert histogram.count == 0  # what was there before, and is not new
            await append(gateway, key, b"2")
            await client.receive()
            assert histogram.count == 0  # a throttle was asked for
            await client.ask(type="unsubscribe", id=1)
            await client.ask(**subscribe, id=2, start="latest")
            (tail,) = [tail for tail in gateway.hub.tails if tail.key == key]
            await until(lambda: not tail._solo)
            await append(gateway, key, b"3")
            await client.receive()
            assert histogram.count == 1
            assert 0 <= histogram.sum < 20


async def test_a_server_without_direct_writes_is_timed_too():
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    async with serving(protocol=WebSocketsSansIOProtocol) as gateway:
        key = await new_key(gateway)
        token = token_for("read:runs:*")
        async with gateway.client(token=token) as first, gateway.client(token=token) as second:
            for client in (first, second):
                await client.ask(type="subscribe", id=1, run=key.run_id, stream="s")
            (tail,) = [tail for tail in gateway.hub.tails if tail.key == key]
            await until(lambda: all(cursor._has_caught_up for cursor in tail._solo))
            await append(gateway, key, b"1")
            for client in (first, second):
                await client.receive()
            assert gateway.gateway.counters.delivery_s.count == 1  # once for what is new
            assert gateway.gateway.counters.records_sent == 2


async def test_store_failures_are_counted(monkeypatch):
    async with serving() as gateway:
        key = await new_key(gateway)

        def full(key, records, done, **options):
            done(StoreUnavailable("the disk is full"))

        monkeypatch.setattr(gateway.store, "begin_append", full)
        async with gateway.client(token=worker_token()) as client:
            answer = await client.ask(type="append", id=1, run=key.run_id, stream="s", records=[1])
            assert answer["code"] == "store_unavailable"
        now = await scrape(gateway)
        assert now("store_errors_total", method="append") == 1
        assert now("refusals_total", code="store_unavailable") == 1


async def test_refusals_before_hello_are_counted():
    async with serving() as gateway:
        async with connect(f"{gateway.url}/v1/ws?token=x", compression=None) as socket_:
            assert json.loads(await socket_.recv())["code"] == "token_in_url"
        assert (await get(gateway, "/v1/runs")).status_code == 401
        now = await scrape(gateway)
        assert now("refusals_total", code="token_in_url") == 1
        assert now("refusals_total", code="invalid_token") == 1
        assert now("connections_opened_total") == 0


async def test_connection_close_reasons_are_counted():
    async with serving() as gateway:
        async with gateway.client(token="no token", greet=False) as client:
            await client.send(type="hello", protocol=99)
            await client.close_code()
        await until(lambda: not gateway.gateway._sessions)
        assert (await scrape(gateway))("connections_closed_total", by="protocol_version") == 1


# Readers over HTTP.


def reader_over_http(**settings):
    headers = {"Authorization": f"Bearer {token_for('read:runs:*', 'write:runs:*')}"}
    return httpx.AsyncClient(headers=headers, timeout=20, **settings)


async def arrival_of(lines, text):
    """Read on until a line has the text; give the bytes that were read."""
    size = 0
    async for line in lines:
        size += len(line.encode()) + 1
        if text in line:
            return size + len((await anext(lines)).encode()) + 1  # the empty line after it
    raise EOFError


async def test_a_reader_of_server_sent_events_is_counted():
    async with serving() as gateway, reader_over_http() as http:
        key = await new_key(gateway)
        await append(gateway, key, b"1", b"2")
        query = {"offset": "-1", "live": "sse"}
        before = gateway.gateway.counters.bytes_sent
        async with http.stream("GET", url_of(gateway, f"/v1/stream/{key}"), params=query) as it:
            lines = it.aiter_lines()
            size = await arrival_of(lines, "upToDate")
            now = await scrape(gateway)
            assert now("records_sent_total") == 2
            assert now("sent_bytes_total") - before == size
            assert now("delivery_seconds_count") == 0  # what was there before, and is not new
            assert (now("http_readers"), now("connections")) == (1, 0)
            (tail,) = [tail for tail in gateway.hub.tails if tail.key == key]
            await until(lambda: all(cursor._has_caught_up for cursor in tail._solo))
            await append(gateway, key, b"3")
            size += await arrival_of(lines, "upToDate")
            now = await scrape(gateway)
            assert now("records_sent_total") == 3
            assert now("sent_bytes_total") - before == size
            assert now("delivery_seconds_count") == 1
            assert now("slowest_reader_lag_records") == 0
        await until(lambda: gateway.gateway._streams.live_readers == 0)
        assert (await scrape(gateway))("http_readers") == 0


async def test_a_long_poll_and_a_page_are_counted():
    async with serving() as gateway, reader_over_http() as http:
        key = await new_key(gateway)
        await append(gateway, key, b"1", b"2")
        url, counters = url_of(gateway, f"/v1/stream/{key}"), gateway.gateway.counters
        page = await http.get(url)
        assert (counters.records_sent, counters.bytes_sent) == (2, len(page.content))
        assert counters.delivery_s.count == 0
        query = {"offset": page.headers["Stream-Next-Offset"], "live": "long-poll"}
        waiting = asyncio.create_task(http.get(url, params=query))
        await until(lambda: any(c._has_caught_up for tail in gateway.hub.tails for c in tail._solo))
        assert (await scrape(gateway))("http_readers") == 1
        await append(gateway, key, b"3")
        size = len(page.content) + len((await waiting).content)
        assert (counters.records_sent, counters.bytes_sent) == (3, size)
        assert counters.delivery_s.count == 1


async def test_http_appends_and_refusals_are_counted():
    async with serving() as gateway, reader_over_http() as http:
        key = await new_key(gateway)
        url = url_of(gateway, f"/v1/stream/{key}")
        as_json = {"Content-Type": "application/json"}
        await http.post(url, headers=as_json, content=b"[1, 2]")
        assert gateway.gateway.counters.bytes_received == 6
        assert (await http.get(url, params={"live": "sse"})).status_code == 400
        assert (await http.get(url, headers={"Authorization": "Bearer x"})).status_code == 401
        now = await scrape(gateway)
        assert now("refusals_total", code="malformed_request") == 1
        assert now("refusals_total", code="invalid_token") == 1


async def test_a_reader_over_http_that_lags_is_seen():
    async with serving() as gateway, reader_over_http() as http:
        key = await new_key(gateway)
        query = {"offset": "now", "live": "sse"}
        async with http.stream("GET", url_of(gateway, f"/v1/stream/{key}"), params=query) as it:
            lines = it.aiter_lines()
            await arrival_of(lines, "upToDate")
            record = json.dumps("x" * (RING_BYTES // 8)).encode()
            for _ in range(80):  # more than the kernel's buffers take
                await append(gateway, key, record)
            await until(lambda: any(each.lag > 8 for each in gateway.gateway.snapshot().lagging))
            (reader,) = gateway.gateway.snapshot().lagging
            assert (reader.connection, reader.key) == ("http", key)
            lagging = await scrape(gateway)
            assert lagging("slowest_reader_lag_records") > 8
            assert lagging("lagging_readers") == 1
            await arrival_of(lines, "upToDate")
            caught_up = await scrape(gateway)
            assert caught_up("lagging_readers") == 0
            assert caught_up("catch_up_reads_total") > 0
            assert caught_up("records_sent_total") == 80


async def test_lag_of_fork_reader_includes_inherited_records():
    async with serving(http_open=True) as gateway, httpx.AsyncClient(timeout=20) as http:
        text = {"Content-Type": "text/plain"}
        base, fork = url_of(gateway, "/v1/stream/base"), url_of(gateway, "/v1/stream/fork")
        await http.put(base, headers=text)
        for _ in range(3):
            await http.post(base, headers=text, content=b"x")
        await http.put(fork, headers={**text, "Stream-Forked-From": "/v1/stream/base"})
        await http.post(fork, headers=text, content=b"y")
        query = {"offset": "-1", "live": "sse"}
        async with http.stream("GET", fork, params=query) as it:
            await arrival_of(it.aiter_lines(), "upToDate")
            (reader,) = gateway.gateway._streams._readers
            assert (reader.position.offset, reader.lag) == (4, 0)
            reader.position = reader.position._replace(offset=1)
            assert reader.lag == 3


async def test_frames_over_http_are_counted_as_on_a_websocket():
    async with serving() as gateway, reader_over_http() as http:
        key = await new_key(gateway)
        subscribe = {"type": "subscribe", "id": 1, "run": key.run_id, "stream": "s"}
        frames = ({"type": "hello", "protocol": 1}, subscribe | {"token": token_for("read:runs:*")})
        body = "\n".join(map(json.dumps, frames)).encode()
        async with http.stream("POST", url_of(gateway, "/v1/events"), content=body) as it:
            lines = it.aiter_lines()
            size = await arrival_of(lines, '"welcome"') + await arrival_of(lines, '"subscribed"')
            (tail,) = [tail for tail in gateway.hub.tails if tail.key == key]
            await until(lambda: all(cursor._has_caught_up for cursor in tail._solo))
            await append(gateway, key, '"ü"'.encode())
            size += await arrival_of(lines, '"records"')
            now = await scrape(gateway)
            assert now("records_sent_total") == now("connections") == now("subscriptions") == 1
            assert now("delivery_seconds_count") == 1
            counters = gateway.gateway.counters
            assert counters.bytes_received == len(body)
            pong = len('data: {"type":"pong"}\n\n')  # it comes when the frames have been read
            assert counters.bytes_sent in (size, size + pong)


# Names and forms.


async def test_names_and_units_are_as_prometheus_asks():
    async with serving() as gateway:
        now = await scrape(gateway)
        own = [family for family in now.families if family.name.startswith("realtime_")]
        assert len(own) >= 20
        for family in own:
            assert family.documentation.endswith(".")
            for sample in family.samples:
                is_total = sample.name.endswith(("_total", "_bucket", "_sum", "_count", "_info"))
                assert is_total == (family.type in ("counter", "histogram", "info")) or (
                    family.type == "gauge"
                )
                assert "_ms" not in sample.name and "_kib" not in sample.name
        names = {sample.name for family in now.families for sample in family.samples}
        assert {"process_resident_memory_bytes", "python_gc_collections_total"} <= names


async def test_the_operators_document_lists_every_metric():
    document = Path(__file__).parents[3] / "docs" / "operating.md"
    listed = re.findall(r"^\| `(realtime_\w+)[`{]", document.read_text(), flags=re.M)
    assert len(listed) == len(set(listed))
    async with serving() as gateway:
        now = await scrape(gateway)
    suffix = {"counter": "_total", "info": "_info"}
    own = [family for family in now.families if family.name.startswith("realtime_")]
    exported = {family.name + suffix.get(family.type, "") for family in own}
    assert set(listed) == exported | {"realtime_store_lag_seconds"}  # of redis: alone


async def test_openmetrics_format_is_served_when_accepted():
    async with serving() as gateway:
        answer = await get(gateway, accept="application/openmetrics-text; version=1.0.0")
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        plain = await get(gateway)
        assert plain.headers["content-type"].startswith("text/plain")
        assert plain.headers["cache-control"] == "no-store"


async def test_two_gateways_of_one_process_count_apart():
    from gateway.server.gateway import Gateway
    from gateway.settings import Settings

    first, second = Gateway(Settings(store="memory:")), Gateway(Settings(store="memory:"))
    first.counters.connections_opened += 1
    texts = [gateway._metrics.scrape("")[0].decode() for gateway in (first, second)]
    counts = [Scrape(text)("connections_opened_total") for text in texts]
    assert counts == [1, 0]


async def test_no_run_stream_or_secret_is_in_the_metrics():
    async with serving() as gateway:
        key = await new_key(gateway)
        token = token_for("read:runs:*")
        async with gateway.client(token=token) as client:
            await client.ask(type="subscribe", id=1, run=key.run_id, stream="s")
            text = (await get(gateway)).text
        for secret in (key.run_id, token, SECRET):
            assert secret not in text


# Who may.


@pytest.mark.parametrize(
    ("allowed", "headers", "status"),
    [
        ("local", {}, 200),
        ("local", {"host": "localhost"}, 200),
        ("local", {"x_forwarded_for": "203.0.113.9"}, 401),
        ("local", {"x_forwarded_for": "127.0.0.1"}, 401),
        ("local", {"forwarded": "for=203.0.113.9"}, 401),
        ("local", {"x_real_ip": "203.0.113.9"}, 401),
        ("local", {"via": "1.1 proxy"}, 401),
        ("local", {"host": "evil.example"}, 401),
        ("local", {"authorization": f"Bearer {SECRET}", "host": "evil.example"}, 200),
        ("local", {"authorization": "Bearer nonsense"}, 401),
        ("token", {}, 401),
        ("token", {"authorization": f"Bearer {SECRET}"}, 200),
        ("token", {"authorization": "Bearer nonsense"}, 401),
        ("open", {"x_forwarded_for": "203.0.113.9", "host": "any.example"}, 200),
        ("open", {"authorization": "Bearer nonsense"}, 401),
    ],
)
async def test_metrics_endpoint_enforces_access(allowed, headers, status):
    async with serving(metrics=allowed) as gateway:
        assert (await get(gateway, **headers)).status_code == status


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("read:metrics:*", 200),
        ("read:runs:*", 403),
        ("write:runs:*", 403),
        ("read:tags:*", 403),
        ("read:metrics:other", 403),
    ],
)
async def test_which_scope_allows_to_read_metrics(scope, status):
    async with serving(metrics="token") as gateway:
        answer = await get(gateway, authorization=f"Bearer {token_for(scope)}")
        assert answer.status_code == status, answer.text


# Life and readiness.


async def test_a_gateway_that_serves_is_ready():
    async with serving() as gateway:
        answer = await get(gateway, "/readyz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


async def test_gateway_without_store_is_healthy_but_unready(monkeypatch):
    async with serving() as gateway:
        monkeypatch.setattr(type(gateway.store), "is_ready", False)
        answer = await get(gateway, "/readyz", x_forwarded_for="203.0.113.9")
        assert (answer.status_code, answer.json()) == (503, {"status": "store unavailable"})
        assert (await get(gateway, "/healthz")).status_code == 200
        assert (await scrape(gateway))("store_ready") == 0


async def test_draining_gateway_is_unready():
    async with serving() as gateway:
        await gateway.gateway.drain()
        for path, words in (("/readyz", "down"), ("/healthz", "down")):
            answer = await get(gateway, path)
            assert (answer.status_code, answer.json()) == (503, {"status": words})


# The event loop.


async def test_event_loop_lag_is_the_delay_of_its_timer():
    now_s, steps = 0.0, iter([0.25, 0.35, 1.25])
    histogram = Histogram()

    async def sleep(seconds):
        nonlocal now_s
        step = next(steps, None)
        if step is None:
            await asyncio.Event().wait()
        now_s += step

    async with measure_loop_lag(histogram, sleep=sleep, monotonic_s=lambda: now_s):
        await until(lambda: histogram.count == 3)
    assert histogram.sum == pytest.approx(0 + 0.1 + 1.0)
