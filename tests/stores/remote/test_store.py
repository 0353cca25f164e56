"""A worker's store over a gateway that is killed, restarted, or was never there."""

import asyncio
import json
import socket
import subprocess
import sys

import pytest

from gateway import connect, runs, streams, task
from gateway.cli._target import check_reachable
from gateway.errors import (
    ConfigurationError,
    ConnectionLost,
    Forbidden,
    InvalidToken,
    StoreUnavailable,
)
from gateway.model.records import StreamKey, Writer
from gateway.stores.remote import connection
from gateway.stores.remote import store as remote_store
from gateway.stores.remote.store import RemoteStore, gateway_url
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    environment,
    free_socket,
    gateway_process,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)
from tests.support.records import records_of
from tests.support.remote_stores import follow, opened

numbers = streams.define("numbers", int)


async def test_gateway_kill_during_appends_is_exactly_once(tmp_path):
    url = f"sqlite:{tmp_path}/a.db?durability=normal"
    with gateway_process(url, tmp_path) as process:
        async with opened(process.url) as store:
            run = await store.create_run(new_run())
            key = StreamKey(run.id, "s")
            followed, offsets = [], []
            following = asyncio.create_task(follow(store, key, followed))

            async def append(lane):
                for i in range(150):
                    writer = Writer(f"w{lane}", 0, i)
                    done = await store.append(key, [b"[%d,%d]" % (lane, i)], writer=writer)
                    offsets.append((done.offset, [lane, i]))

            appending = asyncio.gather(*(append(lane) for lane in range(4)))
            for acknowledged in (100, 300):
                await until(lambda acknowledged=acknowledged: len(offsets) > acknowledged)
                await asyncio.to_thread(process.kill)
                assert not appending.done()
                await asyncio.to_thread(process.start)
            await asyncio.wait_for(appending, 60)
            await store.patch_run(run.id, {"status": "canceled"})
            await asyncio.wait_for(following, 60)
            records = await records_of(store, key)
        values = [json.loads(record.data) for record in records]
        assert len(values) == 600
        for lane in range(4):
            assert [i for who, i in values if who == lane] == list(range(150))
        assert [record.offset for record in followed] == list(range(600))
        assert followed == records
        for offset, value in offsets:
            assert offset is None or values[offset] == value


async def test_worker_run_continues_across_gateway_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "MAX_BACKOFF_S", 0.2)
    url = f"sqlite:{tmp_path}/a.db?durability=normal"

    @task
    async def work() -> int:
        for i in range(400):
            numbers.append(i)
            if i == 200:
                await asyncio.to_thread(process.kill)
                await asyncio.to_thread(process.start)
        return 400

    with gateway_process(url, tmp_path) as process:
        async with connect(process.url, secret_key=SECRET):
            result = await asyncio.wait_for(work.trigger_and_wait(), 60)
            assert result.output == 400
            values = [value async for value in numbers.read(result.run_id, timeout_s=20)]
            assert values == list(range(400))
            assert (await runs.retrieve(result.run_id)).status == "completed"


WORKER = """
import asyncio, sys
from gateway import connect, streams, task

numbers = streams.define("numbers", int)

@task
async def count(n: int) -> int:
    for i in range(n):
        numbers.append(i)
    return n

async def main():
    async with connect():
        handle = await count.trigger(500)
        print(handle.id, handle.access_token, flush=True)
        await handle.wait()

asyncio.run(main())
"""


async def test_records_of_remote_worker_are_readable_locally():
    async with serving() as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WORKER,
            env=environment(REALTIME_URL=gateway.url),
            stdout=subprocess.PIPE,
        )
        run_id, token = (
            (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode().split()
        )
        values = [value async for value in numbers.read(run_id, timeout_s=20)]
        assert values == list(range(500))
        assert (await runs.retrieve(run_id)).output == 500
        assert await process.wait() == 0
        process._transport.close()
        async with gateway.client(token=token) as client:
            answer = await client.ask(type="subscribe", id=1, run=run_id)
            assert answer["run"]["owner"].startswith("worker_")


async def test_open_fails_immediately_with_wrong_secret():
    async with serving() as gateway:
        store = RemoteStore(gateway.url, lambda: token_for("read:runs:*")[:-6] + "AAAAAA")
        with pytest.raises(InvalidToken, match=rf"gateway {gateway.url}.*not valid here"):
            await store.open()


async def test_token_without_required_scopes_is_reported():
    async with serving() as gateway:
        store = RemoteStore(gateway.url, lambda: token_for("read:runs:*"), owner="worker_1")
        with pytest.raises(Forbidden, match="execute runs as worker_1"):
            await store.open()


async def test_unreachable_gateway_is_reported(monkeypatch):
    monkeypatch.setattr(remote_store, "OPEN_TIMEOUT_S", 0.3)
    with free_socket() as unused:
        port = unused.getsockname()[1]
    store = RemoteStore(f"ws://127.0.0.1:{port}", worker_token)
    with pytest.raises(StoreUnavailable, match=rf"no gateway answered at ws://127\.0\.0\.1:{port}"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.get_run("run_a")
    await store.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://host:8400", "ws://host:8400/v1/ws"),
        ("ws://host:8400/", "ws://host:8400/v1/ws"),
        ("wss://host/behind/a/proxy/v1/ws", "wss://host/behind/a/proxy/v1/ws"),
        ("http://host:8400", "ws://host:8400/v1/ws"),
        ("https://host", "wss://host/v1/ws"),
        ("https://host/live", "wss://host/live/v1/ws"),
        ("ws://host/behind/a/proxy/", "ws://host/behind/a/proxy/v1/ws"),
    ],
)
def test_a_gateways_address_is_completed(url, expected):
    assert gateway_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "host:8400", "ftp://host", "ws://", "ws://host?token=x", "ws://host:99999", "ws://[::1"],
)
def test_gateway_url_rejects_invalid_address(url):
    with pytest.raises(ConfigurationError, match="looks like ws://host:port"):
        gateway_url(url)


@pytest.mark.parametrize(
    "url", ["http+ws://me:hidden@host", "ws://host?token=hidden", "//hidden@host"]
)
def test_gateway_url_error_hides_password_and_token(url):
    with pytest.raises(ConfigurationError, match=r"'.*host'") as refused:
        gateway_url(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["ws://me:hid/den@host", "ws://me:hidden@[host"])
def test_a_refused_host_or_port_tells_nothing_of_the_password(url):
    with pytest.raises(ConfigurationError, match="the host or the port") as refused:
        gateway_url(url)
    assert "hid" not in str(refused.value)


@pytest.mark.network
async def test_unreachable_gateway_error_hides_password(caplog):
    with socket.socket() as closed:  # bound and not listening: nobody answers there
        closed.bind(("127.0.0.1", 0))
        url = f"ws://me:hidden@127.0.0.1:{closed.getsockname()[1]}"
        store = RemoteStore(url, lambda: "", open_s=0)
        await store.open()
        async with asyncio.timeout(DEADLINE_S):
            while "trying again" not in caplog.text:  # noqa: ASYNC110 - nothing sets an event
                await asyncio.sleep(0.01)
        await store.close()
        with pytest.raises(StoreUnavailable, match="no gateway at ws://127") as refused:
            await check_reachable(url)
    assert "gateway ws://127.0.0.1:" in caplog.text
    assert "hidden" not in caplog.text + str(refused.value)


async def test_a_call_waits_so_long_for_a_gateway_that_is_away_and_no_longer(tmp_path):
    with gateway_process("memory:", tmp_path) as process:
        async with opened(process.url, patience_s=0.3) as store:
            run = await store.create_run(new_run())
            await asyncio.to_thread(process.kill)
            with pytest.raises(ConnectionLost, match=r"did not answer within 0\.3 s"):
                await store.get_run(run.id)


async def test_close_ends_pending_calls(tmp_path):
    with gateway_process("memory:", tmp_path) as process:
        async with opened(process.url) as store:
            run = await store.create_run(new_run())
            key = StreamKey(run.id, "s")
            following = asyncio.create_task(anext(store.follow(key)))
            await store.head(key)
            await asyncio.to_thread(process.kill)
            calling = asyncio.create_task(store.get_run(run.id))
            await asyncio.sleep(0)
        for task_ in (following, calling):
            with pytest.raises(StoreUnavailable, match="was closed"):
                await asyncio.wait_for(task_, DEADLINE_S)
