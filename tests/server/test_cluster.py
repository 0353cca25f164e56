"""Several gateways on one Valkey, as processes: what one does the others know of."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from gateway import tokens
from gateway.model.records import StreamKey
from gateway.stores.redis.store import RedisStore
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    Client,
    Process,
    environment,
    new_run,
    token_for,
    worker_token,
)
from tests.support.redis.servers import redis_server
from tests.support.tcp_proxy import Proxy

ROOT = Path(__file__).parents[2]
LEASE_S = 3.0  # short, so that the tests are; a beat is a sixth of it
HEARD_S = 20.0  # in which every gateway knows of a revocation

pytestmark = pytest.mark.timeout(180)


class Node(Process):
    """A gateway with tasks."""

    def __init__(self, store, folder, **env):
        super().__init__(store, folder)
        self._command[2] = "tests.support.processes.cluster_node"
        self._env = {"REALTIME_LEASE_S": str(LEASE_S), "PYTHONPATH": paths()} | env

    @property
    def http(self):
        return self.url.replace("ws:", "http:")

    def post(self, path, bearer=SECRET, **body):
        headers = {"Authorization": f"Bearer {bearer}"}
        return httpx.post(f"{self.http}{path}", json=body, headers=headers)

    def signal(self, number):
        self._process.send_signal(number)

    def trigger(self, task="count-up", **payload):
        answer = self.post(f"/v1/tasks/{task}/trigger", payload=payload)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]


def paths():
    return os.pathsep.join([str(ROOT), *filter(None, sys.path)])


class Cluster:
    """Two gateways and their store."""

    def __init__(self, server, folder, stack):
        self.server, self.folder, self._stack = server, folder, stack
        self.nodes = []

    def add(self, **env):
        folder = self.folder / f"node{len(self.nodes)}"
        folder.mkdir()
        node = Node(self.server.url, folder, **env)
        node.start()
        self._stack.callback(node.kill)
        self.nodes.append(node)
        return node

    def worker(self, upto, **env):
        """Start a process that executes one run, and return it and the run's id."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes.cluster_worker", str(upto)],
            env=environment(REALTIME_LEASE_S=str(LEASE_S), PYTHONPATH=paths(), **env),
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(process.stdout.close)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process, process.stdout.readline().strip()


@pytest.fixture
def cluster(tmp_path):
    with redis_server() as server, ExitStack() as stack:
        yield Cluster(server, tmp_path, stack)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two gateways that no test harms."""
    with redis_server() as server, ExitStack() as stack:
        cluster = Cluster(server, tmp_path_factory.mktemp("pair"), stack)
        cluster.add()
        cluster.add()
        yield cluster


@pytest.fixture
async def store(request):
    chosen = "pair" if "pair" in request.fixturenames else "cluster"
    store = RedisStore(request.getfixturevalue(chosen).server.url)
    await store.open()
    yield store
    await store.close()


async def until_status(store, id, status):
    async def look():
        while (run := (await store.get_run(id)).run).status != status:
            assert not run.is_finished, run
            await asyncio.sleep(0.02)
        return run

    return await asyncio.wait_for(look(), DEADLINE_S)


async def until_records(store, id, count):
    async with asyncio.timeout(DEADLINE_S):
        while (await store.head(StreamKey(id, "numbers"))).position.offset < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def values(store, id):
    page = await store.read(StreamKey(id, "numbers"))
    return [int(record.data) for record in page.records]


async def test_gateway_start_or_death_does_not_affect_others_runs(cluster, store):
    one, other = cluster.add(), cluster.add()
    kept = await asyncio.to_thread(one.trigger, upto=100_000)
    lost = await asyncio.to_thread(other.trigger, upto=100_000)
    for id in (kept, lost):
        await until_records(store, id, 3)
    third = await asyncio.to_thread(cluster.add)
    third.kill()
    other.kill()
    killed_s = time.monotonic()
    run = await until_status(store, lost, "crashed")
    assert run.error.type == "ProcessDied" and "gateway" in run.error.message
    assert time.monotonic() - killed_s < 8 * LEASE_S
    before = (await store.head(StreamKey(kept, "numbers"))).position.offset
    await until_records(store, kept, before + 3)
    assert await status(store, kept) == "executing"


async def status(store, id):
    return (await store.get_run(id)).run.status


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_run_continues_elsewhere_when_gateway_dies_or_freezes(cluster, store, how):
    one = cluster.add()
    cluster.add()
    id = await asyncio.to_thread(one.trigger, "count-again", upto=100, pause_s=0.02)
    await until_records(store, id, 3)
    first_owner = (await store.get_run(id)).run.owner
    one.signal(how)
    async with asyncio.timeout(DEADLINE_S):
        while (run := (await store.get_run(id)).run).attempt == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert run.last_error.type == "ProcessDied" and run.owner != first_owner
    if how == signal.SIGSTOP:
        one.signal(signal.SIGCONT)
    run = await until_status(store, id, "completed")
    assert (run.attempt, run.output) == (2, 100)
    page = await store.read(StreamKey(id, "numbers"))
    written = {attempt: [] for attempt in (1, 2)}
    for record in page.records:
        written[record.written_by[1]].append(int(record.data))
    assert written[2] == list(range(100))  # whole, and by one process
    assert written[1] == list(range(len(written[1])))
    if how == signal.SIGSTOP:
        assert len(written[1]) < 100
        assert "another process has taken the run over" in one.log


async def test_queued_runs_of_dead_gateway_execute_elsewhere(cluster, store):
    one = cluster.add(REALTIME_CONCURRENCY="1")
    first = await asyncio.to_thread(one.trigger, upto=100_000)
    queued = [await asyncio.to_thread(one.trigger, upto=3) for _ in range(5)]
    await until_records(store, first, 1)
    cluster.add()
    cluster.add()
    assert [await status(store, id) for id in queued] == ["queued"] * 5
    one.kill()
    await until_status(store, first, "crashed")
    for id in queued:
        run = await until_status(store, id, "completed")
        assert run.output == 3
        assert await values(store, id) == [0, 1, 2]  # once


async def test_rolling_restart_hands_over_queued_runs_immediately(cluster, store):
    one = cluster.add(REALTIME_CONCURRENCY="1", REALTIME_LEASE_S="600")
    first = await asyncio.to_thread(one.trigger, upto=100_000)
    queued = await asyncio.to_thread(one.trigger, upto=3)
    await until_records(store, first, 1)
    one.stop()
    assert (await store.get_run(first)).run.error.type == "ProcessStopped"
    assert await status(store, queued) == "queued"
    cluster.add(REALTIME_LEASE_S="600")
    assert (await until_status(store, queued, "completed")).output == 3


async def test_worker_reconnects_through_another_gateway(cluster, store):
    one, other = cluster.add(), cluster.add()
    proxy = Proxy(one.port)
    async with proxy.listen() as url:
        process, id = await asyncio.to_thread(cluster.worker, 200, REALTIME_URL=url)
        await until_records(store, id, 3)
        await asyncio.sleep(LEASE_S)  # long enough for the other to take it for dead, if it did
        assert await status(store, id) == "executing"
        proxy.set_target(other.port)
        one.kill()
        run = await until_status(store, id, "completed")
        assert run.output == 200
        assert await values(store, id) == list(range(200))
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "completed"
    process, lost = await asyncio.to_thread(cluster.worker, 100_000, REALTIME_URL=other.url)
    await until_records(store, lost, 3)
    process.kill()
    assert "worker" in (await until_status(store, lost, "crashed")).error.message


async def test_a_worker_straight_on_the_store_is_seen_and_missed_when_it_dies(pair, store):
    node = pair.nodes[0]
    process, id = await asyncio.to_thread(pair.worker, 100_000, REALTIME_STORE=pair.server.url)
    async with page(node, id) as client:
        frame = await client.receive()
        assert frame["records"][0]["data"] == 0
        process.kill()
        while frame["type"] != "end":
            frame = await client.receive()
        assert frame["reason"] == "crashed"
    assert (await store.get_run(id)).run.owner.startswith("worker_")


@asynccontextmanager
async def page(node, id):
    async with connect(f"{node.url}/v1/ws", compression=None) as opened:
        client = Client(opened)
        token = token_for(f"read:runs:{id}")
        assert (await client.ask(type="hello", protocol=1, token=token))["type"] == "welcome"
        wanted = {"run": id, "stream": "numbers", "start": "beginning"}
        assert (await client.ask(type="subscribe", id=1, **wanted))["type"] == "subscribed"
        yield client


async def test_reader_receives_appends_of_another_gateway(pair):
    one, other = pair.nodes
    stores = [RemoteStore(node.url, worker_token) for node in (one, other)]
    for each in stores:
        await each.open()
    try:
        run = await stores[0].create_run(new_run())
        key = StreamKey(run.id, "s")
        async with aclosing(stores[1].follow(key)) as pages:
            for number in range(20):
                await stores[0].append(key, [b"%d" % number])
                page = await asyncio.wait_for(anext(pages), DEADLINE_S)
                assert [int(record.data) for record in page.records] == [number]
            await stores[0].patch_run(run.id, {"status": "canceled"})
            assert (await asyncio.wait_for(anext(pages), DEADLINE_S)).end == "canceled"
    finally:
        for each in stores:
            await each.close()


async def test_a_run_of_one_gateway_is_canceled_through_the_other(pair, store):
    one, other = pair.nodes
    id = await asyncio.to_thread(one.trigger, upto=100_000)
    await until_records(store, id, 1)
    answer = await asyncio.to_thread(other.post, f"/v1/runs/{id}/cancel")
    assert answer.status_code == 200
    await until_status(store, id, "canceled")


async def test_a_token_for_one_trigger_is_good_once_whichever_gateway_is_asked(pair):
    nodes = pair.nodes
    token = tokens.mint_trigger("count-up", secret_key=SECRET)
    answers = await asyncio.gather(
        *(
            asyncio.to_thread(
                nodes[n % 2].post, "/v1/tasks/count-up/trigger", token, payload={"upto": 1}
            )
            for n in range(8)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [403] * 7


async def test_revocation_reaches_every_gateway_in_time(pair, store):
    nodes = pair.nodes
    run = await store.create_run(new_run())
    token = token_for(f"read:runs:{run.id}")
    sockets = []
    try:
        for node in nodes:
            client = Client(await connect(f"{node.url}/v1/ws", compression=None))
            sockets.append(client)
            assert (await client.ask(type="hello", protocol=1, token=token))["type"] == "welcome"
        began_s = time.monotonic()
        answer = await asyncio.to_thread(
            nodes[0].post, "/v1/tokens/revoke", token_id=tokens.id_of(token)
        )
        assert answer.status_code == 200
        for client in sockets:
            assert (await client.receive(HEARD_S))["code"] == "token_revoked"
        assert time.monotonic() - began_s < HEARD_S
    finally:
        for client in sockets:
            await client.socket.close()
