"""The published clients of Durable Streams, unmodified, against a gateway."""

from __future__ import annotations

import asyncio
import json

import pytest
from durable_streams import AsyncDurableStream, StreamNotFoundError, astream

from gateway.model.records import StreamKey
from tests.support.clients.npm import CONFORMANCE, install, tool
from tests.support.gateways import new_run, serving, token_for

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(400)]

SCOPES = ("read:paths:clients/*", "write:paths:clients/*", "read:runs:*")


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request, tmp_path):
    store = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/test.db"
    async with serving(store) as running:
        yield running


@pytest.fixture
async def key(gateway):
    return StreamKey((await gateway.store.create_run(new_run())).id, "progress")


async def write(gateway, key, count):
    for n in range(count):
        await gateway.store.append(key, [b'{"n": %d}' % n])
        await asyncio.sleep(0.005)
    await gateway.store.append(key, [], end="completed")


async def test_npm_client_writes_and_follows(gateway, key):
    await asyncio.to_thread(install)
    base = f"http://127.0.0.1:{gateway.port}/v1/stream"
    arguments = [f"{base}/clients/a", f"{base}/{key}", token_for(*SCOPES)]
    writing = asyncio.create_task(write(gateway, key, 100))
    process = await asyncio.create_subprocess_exec(
        tool("node"),
        str(CONFORMANCE / "client.mjs"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
        await writing
    assert process.returncode == 0, errors.decode()
    seen = json.loads(output)
    appended = [{"n": n} for n in range(200)]
    assert (seen["followed"], seen["caughtUp"], seen["head"]) == (appended, appended, True)
    assert seen["ways"] == [[{"n": n} for n in range(100)]] * 2


async def test_pypi_client_writes_and_follows(gateway, key):
    base = f"http://127.0.0.1:{gateway.port}/v1/stream"
    headers = {"Authorization": f"Bearer {token_for(*SCOPES)}"}
    with pytest.raises(StreamNotFoundError):
        await AsyncDurableStream.connect(f"{base}/clients/a", headers=headers)
    async with await AsyncDurableStream.create(
        f"{base}/clients/a", headers=headers, content_type="application/json"
    ) as handle:
        for n in range(50):
            await handle.append({"n": n})
    async with astream(f"{base}/clients/a", headers=headers, live=False) as response:
        assert await response.read_json() == [{"n": n} for n in range(50)]

    async def follow(live):
        seen = []
        # The protocol requires an offset here; with this client, the caller sets it.
        async with astream(f"{base}/{key}", headers=headers, live=live, offset="-1") as response:
            async for item in response.iter_json():
                seen.append(item)
                if len(seen) == 100:
                    return seen

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(write(gateway, key, 100))
        following = [group.create_task(follow(live)) for live in ("long-poll", "sse")]
    assert [task.result() for task in following] == [[{"n": n} for n in range(100)]] * 2
