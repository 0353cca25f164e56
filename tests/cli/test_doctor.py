"""`realtime doctor` and `bench`, as processes."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from gateway.cli._target import Target
from gateway.cli.bench import Deliveries, percentiles
from gateway.cli.doctor import network_checks
from gateway.cli.doctor.network_checks import check_clock
from gateway.model.log import RunQuery
from gateway.model.records import StreamKey
from gateway.settings import Settings
from tests.support.cli import realtime, running
from tests.support.gateways import DEADLINE_S, SECRET, gateway_process, serving


@pytest.fixture
async def gateway():
    async with serving() as gateway:
        yield gateway


def verdicts(done):
    return {(check["subject"], check["verdict"]) for check in done.json}


def wrong(done):
    return [check for check in done.json if check["verdict"] == "wrong"]


async def test_doctor_reports_no_problem_for_healthy_deployment(tmp_path):
    path = tmp_path / "test.db"
    with gateway_process(f"sqlite:{path}", tmp_path) as process:
        # With the gateway's own address as the public one.
        address = process.url
        done = await realtime("doctor", "--json", "--url", address, "--public", address)
        assert (done.code, wrong(done)) == (0, []), done.err
        assert {
            *{("gateway", "ok"), ("tokens", "ok"), ("clock", "ok"), ("public", "ok")},
            ("public", "note"),  # no TLS
        } <= verdicts(done)
        said = " ".join(check["what"] for check in done.json)
        for part in ("round trip", "arrive as WebSocket within", "server-sent events within"):
            assert part in said
        beside = await realtime("doctor", "--json", "--store", f"sqlite:{path}")
        assert beside.code == 0
        (store,) = (check for check in beside.json if check["subject"] == "store")
        assert "as its only owner" in store["what"]
        listed = await realtime("runs", "list", "--url", address)
        assert listed.out == ""  # the run made for the check has been deleted
    alone = await realtime("doctor", "--store", f"sqlite:{path}")
    assert (alone.code, alone.lines[-1]) == (0, "no problems")
    assert "is writable" in alone.out


async def test_doctor_does_not_create_missing_store(tmp_path):
    done = await realtime("doctor", "--store", f"sqlite:{tmp_path}/sub/test.db")
    assert (done.code, "the first gateway will create" in done.out) == (0, True)
    assert list(tmp_path.iterdir()) == []


async def test_doctor_reports_invalid_configuration(tmp_path):
    store = ("--store", f"sqlite:{tmp_path}/test.db", "--json")
    bad = await realtime("doctor", *store, REALTIME_RETENTION_AGE_S="soon")
    assert (bad.code, "REALTIME_RETENTION_AGE_S" in wrong(bad)[0]["what"]) == (1, True)
    short = await realtime("doctor", *store, REALTIME_SECRET_KEY="short")
    assert (short.code, wrong(short)[0]["subject"]) == (1, "tokens")
    none = await realtime(
        *("doctor", *store), without=("REALTIME_SECRET_KEY",), REALTIME_ENV="production"
    )
    assert (none.code, "REALTIME_SECRET_KEY is not set" in wrong(none)[0]["what"]) == (1, True)
    (tmp_path / "secret_key").write_text(SECRET)
    (tmp_path / "secret_key").chmod(0o644)
    read = await realtime("doctor", *store, without=("REALTIME_SECRET_KEY",))
    assert (read.code, wrong(read)[0]["advice"]) == (1, f"chmod 600 {tmp_path}/secret_key")


async def test_doctor_detects_damaged_store(tmp_path):
    path = tmp_path / "test.db"
    path.write_bytes(b"this is no database at all" * 100)
    done = await realtime("doctor", "--store", f"sqlite:{path}", "--json")
    assert (done.code, wrong(done)[0]["subject"]) == (1, "store")


async def test_doctor_detects_different_secret(gateway):
    done = await realtime("doctor", "--url", gateway.url, "--json", REALTIME_SECRET_KEY="o" * 40)
    (found,) = wrong(done)
    assert (done.code, found["subject"]) == (1, "tokens")
    assert "same REALTIME_SECRET_KEY" in found["advice"]


async def test_doctor_reports_unreachable_gateway():
    done = await realtime("doctor", "--url", "ws://127.0.0.1:9", "--json")
    assert (done.code, wrong(done)[0]["subject"]) == (1, "gateway")


async def test_doctor_detects_forbidden_origin(gateway):
    where = ("--url", gateway.url, "--public", gateway.url, "--json")
    done = await realtime("doctor", *where, "--origin", "https://evil.example")
    (found,) = wrong(done)
    assert "add https://evil.example to the gateway's REALTIME_ORIGINS" in found["advice"]


@asynccontextmanager
async def proxy_that(answers):
    """Serve on a free port; call `answers` with each connection."""
    connections = set()

    async def take(reader, writer):
        connections.add(asyncio.current_task())
        try:
            await answers(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@pytest.mark.parametrize(
    "status, advice",
    [
        ("400 Bad Request", "proxy_set_header Upgrade"),
        ("404 Not Found", "forward /v1/ to the gateway"),
        ("502 Bad Gateway", "cannot reach the gateway"),
        ("401 Unauthorized", "without the proxy's authentication"),
        ("301 Moved", "the address that the redirect names"),
    ],
)
async def test_doctor_detects_proxy_without_upgrade(gateway, status, advice):
    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()

    async with proxy_that(refuse) as url:
        done = await realtime("doctor", "--url", gateway.url, "--public", url, "--json")
    assert (done.code, advice in wrong(done)[0]["advice"]) == (1, True), done.out


async def test_doctor_detects_buffering_proxy(gateway, monkeypatch):
    monkeypatch.setattr(network_checks, "TIMEOUT_S", 0.5)

    async def gather(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            up_writer.write(head)
            if b"upgrade: websocket" in head.lower():
                await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
            else:
                await up_reader.read()  # buffer the whole response
        finally:
            up_writer.close()

    target = Target(Settings(url=gateway.url, secret_key=SECRET))
    async with proxy_that(gather) as url:
        checks = await network_checks.check_public(target, url, None)
    (found,) = [check for check in checks if check.verdict == "wrong"]
    assert "server-sent events" in found.what
    assert "proxy_buffering off" in found.advice
    assert [check for check in checks if "arrive as WebSocket within" in check.what]
    assert await gateway.store.list_runs(RunQuery()) == []


async def _pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_doctor_detects_clock_skew(tmp_path):
    with gateway_process("memory:", tmp_path) as process:
        target = Target(Settings(url=process.url, secret_key=SECRET))
        for skew_s, verdict in ((0, "ok"), (60, "note"), (-600, "wrong")):
            (check,) = await check_clock(target, lambda ahead_s=skew_s: time.time() + ahead_s)
            assert check.verdict == verdict, check.what
            assert skew_s == 0 or ("behind" if skew_s > 0 else "ahead") in check.what


# Bench.


async def test_bench_reports_deliveries_and_deletes_its_run(gateway):
    asked = ("--subscribers", 120, "--rate", 40, "--seconds", 0.5, "--json")
    done = await realtime("bench", *asked, "--url", gateway.url)
    assert done.code == 0, done.err
    (found,) = done.json
    assert (found["records"], found["deliveries"], found["missing"]) == (20, 2400, 0)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] < 20_000
    assert await gateway.store.list_runs(RunQuery()) == []
    assert gateway.hub.live_streams == 0


async def test_bench_deletes_its_run_when_interrupted(gateway):
    async with running("bench", "--seconds", 60, "--url", gateway.url) as bench:
        async with asyncio.timeout(DEADLINE_S):
            while not (runs := await gateway.store.list_runs(RunQuery())):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            key = StreamKey(runs[0].id, "bench")
            await anext(gateway.store.follow(key))
        bench.interrupt()
        assert (await bench.done()).code == 130
    assert await gateway.store.list_runs(RunQuery()) == []


async def test_bench_reports_connection_limit():
    async with serving(limits=_few()) as gateway:
        done = await realtime("bench", "--subscribers", 20, "--url", gateway.url)
    assert done.code == 1
    assert len(done.err.splitlines()) >= 1
    assert "Traceback" not in done.err


def _few():
    from gateway.model.limits import Limits

    return Limits(address_connections=5)


def test_bench_counts_every_record_of_a_frame():
    deliveries = Deliveries()
    deliveries.add('{"records":[{"data":["1000000","x"]},{"data":["2000000","x"]}]}', 5_000_000)
    assert (deliveries.received, deliveries.latencies_ms) == (2, [4.0, 3.0])
    assert percentiles(list(range(101)))["p99"] == 99
    assert percentiles([7.0])["p50"] == 7.0
    assert percentiles([])["max"] == 0.0
