"""The Redis store behind sentinels, on a cluster and through TLS: real servers of each."""

import asyncio
import functools
import ipaddress
import json
import signal
import ssl
from contextlib import ExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio.sentinel import Sentinel

from gateway.errors import StoreUnavailable, WriterGap
from gateway.model.log import RunQuery
from gateway.model.records import Position, RunSet, StreamKey, Writer
from gateway.stores.redis.topology import Topology, bucket_of
from gateway.stores.redis.url import RedisUrl
from tests.support.gateways import DEADLINE_S, new_run, until
from tests.support.redis.servers import VALKEY, free_port, fresh_url, redis_62, redis_server
from tests.support.redis.stores import follow, new_key, opened, take, whole
from tests.support.redis.topologies import cluster, is_up_to_date, node_id, sentinels

SERVERS = pytest.mark.parametrize(
    "binary", [VALKEY, redis_62()], ids=["newest server", "oldest server"]
)


# Sentinel.


@SERVERS
async def test_a_store_follows_the_master_that_sentinels_name(binary):
    with sentinels(binary, 3 if binary == VALKEY else 1) as made:
        await until(made.is_joined)
        master, replica = made.master, made.replica
        async with opened(made.url, deaf_s=2, patience_s=DEADLINE_S) as store:
            key = await new_key(store)
            for number in range(5):
                await store.append(key, [b"%d" % number], writer=Writer("w", 0, number))
            held = []
            following = asyncio.create_task(follow(store, key, held))
            await until(lambda: len(held) == 5)
            await until(lambda: is_up_to_date(master, replica))
            master.kill()
            for number in range(5, 30):
                done = await store.append(key, [b"%d" % number], writer=Writer("w", 0, number))
            assert done.offset == 29
            assert replica.info("replication")["role"] == "master"
            await until(lambda: store.is_ready)
            await store.append(key, [], end="completed")
            resets, _ = await asyncio.wait_for(following, DEADLINE_S)
            assert held == list(range(30))
            assert resets == ["epoch_changed"]  # it could not know that nothing was lost


async def test_sentinels_are_asked_by_one_connection_at_a_time(monkeypatch):
    """The list of a `Sentinel` loses some of them when several change its order at once."""
    asking = []
    ask = Sentinel.discover_master

    async def discover_master(sentinel, service):
        asking.append(service)
        assert asking == ["mine"]
        try:
            return await ask(sentinel, service)
        finally:
            asking.clear()

    monkeypatch.setattr(Sentinel, "discover_master", discover_master)
    with sentinels() as made:
        await until(made.is_joined)
        servers = Topology(RedisUrl.parse(made.url), lambda info: None)
        made.watching[0].kill()
        try:
            ports = await asyncio.gather(*(_master_of(servers) for _ in range(5)))
        finally:
            await servers.close()
        assert ports == [made.master.port] * 5
        asked = {
            each.connection_pool.connection_kwargs["port"] for each in servers._sentinel.sentinels
        }
        assert asked == {each.port for each in made.watching}


async def _master_of(servers):
    return (await servers.connection()).port


# Cluster.


@pytest.fixture(scope="module")
def clusters():
    """Clusters by binary, each made when it is first asked for."""
    with ExitStack() as stack:
        yield functools.cache(
            lambda binary: stack.enter_context(cluster(binary, with_replica=True))
        )


@asynccontextmanager
async def on(made):
    """Open a store on a cluster."""
    await until(made.is_joined)
    async with opened(fresh_url(made), deaf_s=2, patience_s=DEADLINE_S) as store:
        yield store


async def test_a_cluster_holds_streams_runs_and_sets_on_all_its_servers(clusters):
    async with on(made := clusters(VALKEY)) as store:
        assert len(store._servers.one_bucket_each()) == 3
        lot = [new_run(tags=["x"], batch_id="b") for _ in range(30)]
        await asyncio.gather(*(store.create_run(run) for run in lot))
        keys = [StreamKey(run.id, "progress") for run in lot]
        following = [asyncio.create_task(follow(store, key)) for key in keys]
        for number in range(10):
            await asyncio.gather(*(store.append(key, [b"%d" % number]) for key in keys))
        assert [run.id for run in await store.list_runs(RunQuery(tag="x"))] == [
            run.id for run in reversed(lot)
        ]
        assert len(await store.list_runs(RunQuery(status=("queued",)))) == 30
        for run in lot:
            await store.patch_run(run.id, {"status": "canceled"})
        for resets, held in await asyncio.wait_for(asyncio.gather(*following), DEADLINE_S):
            assert (resets, held) == ([], list(range(10)))
        found = await store.list_set_runs([RunSet("tag", "x"), RunSet("batch", "b")], 100)
        assert {run.status for run in found.runs} == {"canceled"}
        assert len(await whole(store, RunSet("tag", "x").log)) == 60
        for node in made.masters:
            assert node.info("keyspace")["db0"]["keys"] > 30
        assert store.is_ready


async def test_a_slot_that_moves_takes_its_streams_along(clusters):
    async with on(made := clusters(VALKEY)) as store:
        nodes = made.masters
        key = await new_key(store)
        slot = store._servers._slots[bucket_of(key.run_id)]
        source = next(node for node in nodes if _count(node, slot))
        target = next(node for node in nodes if node is not source)
        following = asyncio.create_task(follow(store, key))
        appending = asyncio.create_task(_append(store, key, 300))
        await until(lambda: _count(source, slot) > 5)
        await asyncio.to_thread(_migrate, source, target, slot, nodes)
        await asyncio.wait_for(appending, DEADLINE_S)
        records = await whole(store, key)
        assert [json.loads(record.data) for record in records] == list(range(300))
        await store.append(key, [], end="completed")
        resets, held = await asyncio.wait_for(following, DEADLINE_S)
        assert held == list(range(300))
        assert set(resets) <= {"epoch_changed"}
        assert _count(source, slot) == 0
        assert store._servers._owners[bucket_of(key.run_id)] == ("127.0.0.1", target.port)


async def _append(store, key, count, *, start=0, writer="w"):
    for number in range(start, start + count):
        of = Writer(writer, 0, number) if writer else None
        done = await store.append(key, [b"%d" % number], writer=of)
    return done


def _count(node, slot):
    with node.client() as client:
        return client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)


def _migrate(source, target, slot, nodes):
    """Move a slot as `redis-cli --cluster reshard` does, key by key."""
    with source.client() as leaving, target.client() as entering:
        entering.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
        leaving.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))
        while names := leaving.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            leaving.execute_command("MIGRATE", "127.0.0.1", target.port, names[0], 0, 5000)
        for node in (target, source, *nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", node_id(target))


@SERVERS
async def test_failover_of_one_shard_resets_only_its_streams(binary, clusters):
    async with on(made := clusters(binary)) as store:
        key, other = (
            await _key_at(store, made.masters[0]),
            await _key_at(store, made.masters[1]),
        )
        seen, unharmed = Seen(store, key), Seen(store, other)
        await _append(store, key, 5)
        before = await store.append(other, [b"0"])
        master, replica = made.masters[0], made.replica
        await until(lambda: is_up_to_date(master, replica))
        _keep_from_replica(master, replica)
        lost = await _append(store, key, 5, start=5)
        await until(lambda: seen.values == list(range(10)))
        master.kill()
        replica.signal(signal.SIGCONT)
        await until(lambda: seen.resets == ["tail_lost"])
        await until(lambda: seen.values == list(range(5)))
        with pytest.raises(WriterGap, match="sequence 10; 5 is expected"):
            await store.append(key, [b"10"], writer=Writer("w", 0, 10))
        after = await _append(store, key, 5, start=20, writer=None)
        assert after.position.offset == lost.position.offset
        assert after.position.epoch > lost.position.epoch
        await until(lambda: seen.values == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24])
        assert seen.resets == ["tail_lost", "epoch_changed"]
        for offset in (3, 10):  # a client that was away, with what it knows
            page = await store.read(key, Position(lost.position.epoch, offset))
            assert (page.reset, page.records[0].offset) == ("epoch_changed", 0)
        assert (await store.append(other, [b"1"])).position.epoch == before.position.epoch
        await until(lambda: unharmed.values == [0, 1])
        assert unharmed.resets == []
        assert (await store.patch_run(key.run_id, {"status": "canceled"})).is_finished
        await until(lambda: seen.following.done() and store.is_ready)
        assert replica.info("replication")["role"] == "master"
        await unharmed.close()


class Seen:
    """What a follower of a stream holds, and why it was sent back."""

    def __init__(self, store, key):
        self.values, self.resets = [], []
        self.following = asyncio.create_task(self._follow(store, key))

    async def _follow(self, store, key):
        async with aclosing(store.follow(key)) as pages:
            async for page in pages:
                if page.reset is not None:
                    self.resets.append(page.reset)
                    self.values.clear()
                self.values += [json.loads(record.data) for record in page.records]

    async def close(self):
        self.following.cancel()
        await asyncio.wait([self.following])


async def _key_at(store, node):
    """Return the key of a stream that lies on this server."""
    while True:
        key = await new_key(store)
        if store._servers._owners[bucket_of(key.run_id)] == ("127.0.0.1", node.port):
            return key


def _keep_from_replica(master, replica):
    """Have what is written from now on reach the master alone."""
    replica.signal(signal.SIGSTOP)
    with master.client() as client:  # or its kernel would take it for the replica
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")


# TLS.


@asynccontextmanager
async def tls_front(server, folder):
    """Speak TLS in front of a server; gives the port and the file of the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, secret)
    tasks = set()

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)

    async def accept(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        tasks.add(asyncio.current_task())
        pumps = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (back, writer):
                each.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    port = free_port()
    listening = await asyncio.start_server(accept, "127.0.0.1", port, ssl=context)
    try:
        yield port, pem
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_store_speaks_tls_and_checks_the_server(tmp_path):
    with redis_server() as server:
        async with tls_front(server, tmp_path) as (port, authority):
            url = f"rediss://127.0.0.1:{port}/0"
            async with opened(f"{url}?ssl_ca_certs={authority}") as store:
                key = await new_key(store)
                following = asyncio.create_task(take(store.follow(key), 1))
                await store.append(key, [b"1"])
                assert await following == [1]
            with pytest.raises(StoreUnavailable, match="certificate"):
                async with opened(url, patience_s=0.2):
                    pass
