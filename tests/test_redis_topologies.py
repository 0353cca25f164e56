"""The Redis store behind sentinels, on a cluster and through TLS: real servers of each."""

import asyncio
import ipaddress
import json
import ssl
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis_serving import RedisServer, free_port, redis_server

from gateway.errors import StoreUnavailable
from gateway.records import RunSet, StreamKey, Writer
from gateway.stores.base import RunQuery
from gateway.stores.redis_servers import bucket_of
from tests.serving import DEADLINE_S, new_run, until
from tests.test_redis import _follow, new_key, opened, take, whole

SLOTS = 16384


# Sentinel.


@contextmanager
def sentinels():
    """A master, its replica, and three sentinels that name it `mine`."""
    with ExitStack() as stack:
        options = {"repl-diskless-sync-delay": "0"}
        master = stack.enter_context(redis_server(**options))
        replica = stack.enter_context(redis_server(replicaof=f"127.0.0.1 {master.port}", **options))
        watching = [stack.enter_context(_sentinel(master.port)) for _ in range(3)]
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{each.port}" for each in watching)
        yield f"{url}/mine", master, replica, watching


class Sentinel(RedisServer):
    """A sentinel that watches a master."""

    def __init__(self, master_port):
        super().__init__()
        self.folder.joinpath("sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor mine 127.0.0.1 {master_port} 2\n"
            "sentinel down-after-milliseconds mine 500\n"
            "sentinel failover-timeout mine 5000\n"
        )

    def command(self):
        return [self.binary, str(self.folder / "sentinel.conf"), "--sentinel"]


@contextmanager
def _sentinel(master_port):
    server = Sentinel(master_port).start()
    try:
        yield server
    finally:
        server.stop()


def _sees(sentinel):
    with sentinel.client() as client:
        master = client.sentinel_master("mine")
        return master["num-slaves"] == 1 and master["num-other-sentinels"] == 2


async def test_a_store_follows_the_master_that_sentinels_name():
    with sentinels() as (url, master, replica, watching):
        await until(lambda: all(map(_sees, watching)))
        await until(lambda: replica.info("replication")["master_link_status"] == "up")
        async with opened(url, deaf_s=2, patience_s=DEADLINE_S) as store:
            key = await new_key(store)
            for number in range(5):
                await store.append(key, [b"%d" % number], writer=Writer("w", 0, number))
            held = []
            following = asyncio.create_task(_follow(store, key, held))
            await until(lambda: len(held) == 5)
            await until(
                lambda: (
                    replica.info("replication")["slave_repl_offset"]
                    == master.info("replication")["master_repl_offset"]
                )
            )
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


# Cluster.


@contextmanager
def cluster(count=3):
    """Servers that share the slots; and the URL of a store on them."""
    with ExitStack() as stack:
        options = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
        nodes = [
            stack.enter_context(redis_server(**options, **{"cluster-port": free_port()}))
            for _ in range(count)
        ]
        for at, node in enumerate(nodes):
            with node.client() as client:
                first, last = SLOTS * at // count, SLOTS * (at + 1) // count - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        with nodes[0].client() as client:
            for other in nodes[1:]:
                bus = other.options["cluster-port"]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        yield f"redis+cluster://127.0.0.1:{nodes[0].port}", nodes


def _is_whole(node):
    with node.client() as client:
        info, slots = client.cluster("INFO"), client.cluster("SLOTS")
    return info["cluster_state"] == "ok" and len(slots) == 3


@asynccontextmanager
async def on_cluster():
    with cluster() as (url, nodes):
        await until(lambda: all(map(_is_whole, nodes)))
        async with opened(url) as store:
            yield store, nodes


async def test_a_cluster_holds_streams_runs_and_sets_on_all_its_servers():
    async with on_cluster() as (store, nodes):
        assert len(store._servers.one_bucket_each()) == 3
        lot = [new_run(tags=["x"], batch_id="b") for _ in range(30)]
        await asyncio.gather(*(store.create_run(run) for run in lot))
        keys = [StreamKey(run.id, "progress") for run in lot]
        following = [asyncio.create_task(_follow(store, key)) for key in keys]
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
        found = await store.get_set([RunSet("tag", "x"), RunSet("batch", "b")], 100)
        assert {run.status for run in found.runs} == {"canceled"}
        assert len(await whole(store, RunSet("tag", "x").log)) == 60
        for node in nodes:
            assert node.info("keyspace")["db0"]["keys"] > 30
        assert store.is_ready


async def test_a_slot_that_moves_takes_its_streams_along():
    async with on_cluster() as (store, nodes):
        key = await new_key(store)
        slot = store._servers._slots[bucket_of(key.run_id)]
        source = next(node for node in nodes if _count(node, slot))
        target = next(node for node in nodes if node is not source)
        following = asyncio.create_task(_follow(store, key))
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


async def _append(store, key, count):
    for number in range(count):
        await store.append(key, [b"%d" % number], writer=Writer("w", 0, number))


def _count(node, slot):
    with node.client() as client:
        return client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)


def _id(node):
    with node.client() as client:
        return client.execute_command("CLUSTER", "MYID")


def _migrate(source, target, slot, nodes):
    """Move a slot as `redis-cli --cluster reshard` does, key by key."""
    with source.client() as leaving, target.client() as entering:
        entering.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        leaving.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))
        while names := leaving.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            leaving.execute_command("MIGRATE", "127.0.0.1", target.port, names[0], 0, 5000)
        for node in (target, source, *nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", _id(target))


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
