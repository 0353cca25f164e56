"""What the Redis store promises beyond the contract: several processes, and servers that fail."""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlsplit

import pytest

from gateway.errors import ConfigurationError, StoreUnavailable, WriterGap
from gateway.model.log import RunQuery, run_log
from gateway.model.patches import Operation, fold_change
from gateway.model.records import Position, RunSet, StreamKey, Writer
from tests.support.gateways import DEADLINE_S, new_run, until
from tests.support.redis.servers import fresh_url, redis_62, redis_server, shared_server
from tests.support.redis.stores import follow, new_key, opened, take, whole
from tests.support.tcp_proxy import Proxy


@asynccontextmanager
async def pair():
    """Two stores as two processes would have them."""
    url = fresh_url()
    async with opened(url, url) as stores:
        yield stores


def connections(server, command):
    """The ids of clients whose last command was this one."""
    with server.client() as client:
        return [each["id"] for each in client.client_list() if each["cmd"] == command]


# Several processes.


async def test_cross_process_append_and_end_are_notified():
    async with pair() as (one, other):
        key = await new_key(one)
        async with aclosing(other.follow(key)) as pages:
            following = asyncio.create_task(take(pages, 1))
            await until(lambda: other._follows)
            began = time.perf_counter()
            await one.append(key, [b"1"])
            assert await following == [1]
            assert time.perf_counter() - began < 5  # and not by the audit
            await one.append(key, [b"2"])
            assert await take(pages, 1) == [2]
            await one.patch_run(key.run_id, {"status": "canceled"})
            assert (await asyncio.wait_for(anext(pages), DEADLINE_S)).end == "canceled"


async def test_concurrent_increments_of_two_processes_add_up():
    async with pair() as stores:
        run = await stores[0].create_run(new_run())

        async def work(store, name):
            for number in range(25):
                await store.patch_run(
                    run.id,
                    {},
                    operations=[Operation("increment", "n", 1)],
                    writer=Writer(name, 0, number),
                )

        await asyncio.gather(
            *(work(store, f"{at}{n}") for at, store in enumerate(stores) for n in range(4))
        )
        state = await stores[0].get_run(run.id)
        assert (state.run.metadata, state.position.offset) == ({"n": 200}, 201)


async def test_a_key_makes_one_run_whichever_process_asks():
    async with pair() as stores:
        kept = await asyncio.gather(
            *(stores[n % 2].create_run(new_run(idempotency_key="k")) for n in range(20))
        )
        assert len({run.id for run in kept}) == 1
        assert len(await stores[0].list_runs(RunQuery())) == 1


async def test_stale_idempotency_claim_is_taken_over_and_fenced():
    async with opened(fresh_url()) as store:
        dead = new_run(idempotency_key="k")
        assert await store._runs._claim(dead, "") == dead.id  # and here its process is killed
        alive = [new_run(idempotency_key="k") for _ in range(5)]
        kept = await asyncio.gather(*(store.create_run(run) for run in alive))
        assert len({run.id for run in kept}) == 1
        assert kept[0].id != dead.id
        assert (await store.create_run(dead)).id == kept[0].id  # it was only slow
        assert len(await store.list_runs(RunQuery())) == 1


async def test_uses_of_a_token_are_counted_for_all_processes():
    async with pair() as stores:
        taken = await asyncio.gather(
            *(stores[n % 2].consume_token_use("t", 5, 2**50) for n in range(20))
        )
        assert sum(taken) == 5


async def test_thousands_of_streams_are_followed_over_one_connection():
    count = 2000
    async with pair() as (one, other):
        before = len(connections(shared_server(), "subscribe"))
        lot = [new_run() for _ in range(count)]
        await asyncio.gather(*(one.create_run(run) for run in lot))
        keys = [StreamKey(run.id, "progress") for run in lot]
        heard = []

        async def follow(key):
            async with aclosing(other.follow(key)) as pages:
                page = await anext(pages)
                heard.append(page.records[0].data)

        following = [asyncio.create_task(follow(key)) for key in keys]
        await until(lambda: len(other._follows) == count)
        assert len(connections(shared_server(), "subscribe")) == before
        await asyncio.gather(*(one.append(key, [b"%d" % n]) for n, key in enumerate(keys)))
        await asyncio.wait_for(asyncio.gather(*following), DEADLINE_S)
        assert sorted(map(int, heard)) == list(range(count))
        assert other._follows == {}


async def test_acknowledged_records_survive_kill_of_appending_process():
    url = fresh_url()
    async with opened(url) as store:
        key = await new_key(store)
        child = await _child("append", url, key.run_id)
        acknowledged = [int(await child.stdout.readline()) for _ in range(200)]
        child.kill()
        rest, _ = await child.communicate()
        acknowledged += map(int, rest.split())
        values = [json.loads(record.data) for record in await whole(store, key)]
        assert acknowledged == list(range(len(acknowledged)))
        assert values == list(range(len(values)))
        assert len(values) in (len(acknowledged), len(acknowledged) + 1)
        # Another takes over under its name and repeats what it may have lost.
        again = await store.append(key, [b"%d" % (len(values) - 1)], writer=Writer("child", 1, 0))
        assert not again.duplicate


async def test_run_sets_get_pending_changes_of_a_killed_process():
    url = fresh_url()
    async with opened(url) as store:
        for round in range(4):
            child = await _child("runs", url, f"tag{round}")
            for _ in range(5 + round * 7):
                await child.stdout.readline()
            child.kill()
            await child.wait()
        for _ in range(2):  # left there at two looks in a row
            await store._runs.sets.sweep()
        runs = await store.list_runs(RunQuery(limit=10_000))
        assert len(runs) > 40
        for name in sorted({tag for run in runs for tag in run.tags}):
            members = {run.id: run for run in runs if name in run.tags}
            found = await store.list_set_runs([RunSet("tag", name)], 10_000)
            assert {run.id: run for run in found.runs} == members
            told, versions = {}, {}
            for record in await whole(store, RunSet("tag", name).log):
                change = json.loads(record.data)
                assert change["version"] == versions.get(change["id"], -1) + 1
                versions[change["id"]] = change["version"]
                told[change["id"]] = change.get("run") or fold_change(
                    told[change["id"]], change["patch"]
                )
            assert {id: wire["metadata"] for id, wire in told.items()} == {
                id: run.metadata for id, run in members.items()
            }
        assert not any([await store._runs.sets._outbox(bucket) for bucket in range(64)])


async def _child(work, url, argument):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.processes.redis_child", work, url, argument),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ,
    )


# A listener that goes deaf.


async def test_follower_misses_nothing_when_its_connection_is_killed():
    async with pair() as (one, other):
        key = await new_key(one)
        async with aclosing(other.follow(key)) as pages:
            await one.append(key, [b"0"])
            assert await take(pages, 1) == [0]
            for number in range(1, 6):
                with shared_server().client() as client:
                    client.client_kill_filter(_type="pubsub")
                await one.append(key, [b"%d" % number])
                assert await take(pages, 1) == [number]
        await until(lambda: one.is_ready and other.is_ready)


async def test_silent_listener_is_detected_and_reconnected():
    server = shared_server()
    proxy = Proxy(server.port)
    url = fresh_url()
    async with proxy.listen() as front, opened(url) as one:
        through = url.replace(str(server.port), str(urlsplit(front).port))
        async with opened(through, deaf_s=0.5) as other:
            key = await new_key(one)
            async with aclosing(other.follow(key)) as pages:
                await one.append(key, [b"1"])
                assert await take(pages, 1) == [1]
                assert other.is_ready
                assert other.lag_s < 0.5
                proxy.stop_forwarding()
                await until(lambda: not other.is_ready)
                assert 0.5 <= other.lag_s < 10
                await one.append(key, [b"2"])
                proxy.cut()
                proxy.resume_forwarding()
                assert await take(pages, 1) == [2]
                await until(lambda: other.is_ready)


async def test_store_detects_a_frozen_server_and_recovers():
    with redis_server() as server:
        async with opened(server.url, deaf_s=0.5) as store:
            key = await new_key(store)
            server.signal(signal.SIGSTOP)
            appending = asyncio.create_task(store.append(key, [b"1"], writer=Writer("w", 0, 0)))
            await until(lambda: not store.is_ready)
            assert not appending.done()
            server.signal(signal.SIGCONT)
            assert (await asyncio.wait_for(appending, DEADLINE_S)).offset == 0
            await until(lambda: store.is_ready)
            assert store.lag_s < 0.5


# Servers that fail.


async def test_acknowledged_records_survive_server_kill_under_load():
    with redis_server(appendonly="yes", appendfsync="always") as server:
        async with opened(server.url) as store:
            keys = [await new_key(store) for _ in range(5)]
            acknowledged = {key: [] for key in keys}
            following = asyncio.create_task(follow(store, keys[0]))

            async def append(key):
                for number in range(400):
                    writer = Writer("w", 0, number)
                    done = await store.append(key, [b"%d" % number], writer=writer)
                    acknowledged[key].append(done.offset)

            appending = [asyncio.create_task(append(key)) for key in keys]
            for count in (100, 200):
                await until(lambda: all(len(each) > count for each in acknowledged.values()))  # noqa: B023
                server.kill()
                server.start()
            await asyncio.wait_for(asyncio.gather(*appending), 60)
            for key in keys:
                values = [json.loads(record.data) for record in await whole(store, key)]
                assert values == list(range(400))  # each once, though many were sent again
                assert [offset for offset in acknowledged[key] if offset is not None] == sorted(
                    set(acknowledged[key]) - {None}
                )
            await store.patch_run(keys[0].run_id, {"status": "canceled"})
            resets, last = await asyncio.wait_for(following, DEADLINE_S)
            assert last == list(range(400))
            assert set(resets) <= {"epoch_changed"}


async def test_a_tail_that_the_server_lost_gives_a_reset_and_never_other_records():
    with redis_server() as server:
        async with opened(server.url) as store:
            key = await new_key(store)
            for number in range(10):
                done = await store.append(key, [b"%d" % number], writer=Writer("w", 0, number))
                if number == 4:
                    with server.client() as client:
                        client.save()
            async with aclosing(store.follow(key, done.position)) as pages:
                server.kill()
                server.start()
                page = await asyncio.wait_for(anext(pages), DEADLINE_S)
                assert page.reset == "tail_lost"
                records = page.records or (await anext(pages)).records
                assert [record.offset for record in records] == list(range(5))
            with pytest.raises(WriterGap, match="sequence 10; 5 is expected"):
                await store.append(key, [b"10"], writer=Writer("w", 0, 10))
            for number in range(20, 40):
                after = await store.append(key, [b"%d" % number])
            assert after.position.epoch > done.position.epoch
            for offset in (3, 10):
                page = await store.read(key, Position(done.position.epoch, offset))
                assert (page.reset, page.records[0].offset) == ("epoch_changed", 0)


async def test_a_server_that_is_demoted_and_promoted_again_changes_the_epoch():
    with redis_server() as server, redis_server() as master:
        async with opened(server.url) as store:
            key = await new_key(store)
            before = (await store.append(key, [b"1"])).position
            assert (await store.append(key, [b"2"])).position.epoch == before.epoch
            with server.client() as client:
                client.replicaof("127.0.0.1", master.port)
                client.replicaof("NO", "ONE")
            after = (await store.append(key, [b"3"])).position
            assert after.epoch > before.epoch
            assert after.offset == 3


async def test_a_server_that_forgets_the_scripts_is_given_them_again():
    async with opened(fresh_url()) as store:
        key = await new_key(store)
        for number in range(5):
            calls = [store.append(key, [b"[%d,%d]" % (number, n)]) for n in range(20)]
            with shared_server().client() as client:
                client.script_flush()
            offsets = [done.offset for done in await asyncio.gather(*calls)]
            assert offsets == list(range(number * 20, number * 20 + 20))


@pytest.mark.network
async def test_a_server_that_is_not_there_is_named_without_the_password():
    with pytest.raises(StoreUnavailable, match=r"redis 127\.0\.0\.1:1: .*Connect") as refused:
        async with opened("redis://:hidden@127.0.0.1:1/0", patience_s=0.2):
            pass
    assert "hidden" not in str(refused.value)


async def test_url_password_is_used_and_a_wrong_one_is_reported():
    with redis_server(requirepass="it's a:secret") as server:
        url = f"redis://:it%27s%20a%3Asecret@127.0.0.1:{server.port}/0"
        async with opened(url) as store:
            await new_key(store)
        with pytest.raises(StoreUnavailable, match=r"invalid username-password|WRONGPASS") as no:
            async with opened(url.replace("it", "at"), patience_s=0.2):
                pass
        assert "secret" not in str(no.value)


async def test_store_works_with_least_privileged_redis_user():
    with redis_server() as server:
        with server.client() as client:
            rule = "on >pw ~rt:* &rt:* +@all -@dangerous +info"
            client.execute_command("ACL", "SETUSER", "app", *rule.split())
        async with opened(f"redis://app:pw@127.0.0.1:{server.port}/0") as store:
            key = await new_key(store, tags=["x"], idempotency_key="k")
            following = asyncio.create_task(take(store.follow(key), 1))
            await store.append(key, [b"1"])
            assert await following == [1]
            assert len(await store.list_runs(RunQuery(tag="x"))) == 1
            await store.sweep()
            assert await store.delete_run(key.run_id)


async def test_close_is_idempotent_and_finishes_accepted_appends():
    url = fresh_url()
    async with opened(url) as store, opened(url) as other:
        key = await new_key(store)
        hanging = asyncio.create_task(follow(store, key))
        await until(lambda: store._follows)
        calls = [asyncio.create_task(store.append(key, [b"%d" % i])) for i in range(1000)]
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        assert [done.offset for done in await asyncio.gather(*calls)] == list(range(1000))
        with pytest.raises(StoreUnavailable, match=r"closed|not open"):
            await asyncio.wait_for(hanging, DEADLINE_S)
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.append(key, [b"1"])
        assert len(await whole(other, key)) == 1000


async def test_concurrent_large_appends_are_split_into_several_writes():
    async with opened(fresh_url()) as store:
        key = await new_key(store)
        big = b'"' + b"x" * 1_000_000 + b'"'
        done = await asyncio.gather(*(store.append(key, [big]) for _ in range(20)))
        assert [each.offset for each in done] == list(range(20))
        assert len(await whole(store, key)) == 20


async def test_append_fails_and_read_works_when_memory_is_full():
    with redis_server() as server:
        async with opened(server.url) as store:
            key = await new_key(store)
            await store.append(key, [b"1"])
            with server.client() as client:
                client.config_set("maxmemory", "1mb")
            with pytest.raises(StoreUnavailable, match="maxmemory is reached and nothing was"):
                await store.append(key, [b'"' + b"x" * 500_000 + b'"'])
            assert [record.data for record in (await store.read(key)).records] == [b"1"]
            with server.client() as client:
                client.config_set("maxmemory", "0")
            assert (await store.append(key, [b"2"])).offset == 1


async def test_in_redis_6_too_full_memory_and_a_replica_are_named():
    with redis_server(binary=redis_62()) as server:
        async with opened(server.url, patience_s=0.3) as store:
            key = await new_key(store)
            with server.client() as client:
                client.config_set("maxmemory", "1")
            with pytest.raises(StoreUnavailable, match="maxmemory is reached"):
                await store.append(key, [b"1"])
            with server.client() as client:
                client.config_set("maxmemory", "0")
                client.replicaof("127.0.0.1", "1")
            with pytest.raises(StoreUnavailable, match="read only replica"):
                await store.append(key, [b"1"])


async def test_a_server_that_evicts_keys_is_refused():
    limits = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    refused = pytest.raises(ConfigurationError, match="allkeys-lru, which deletes streams")
    with redis_server(**limits) as server, refused:
        async with opened(server.url):
            pass


async def test_append_waits_for_replica_when_configured_in_url():
    with redis_server() as server:
        async with opened(server.url) as plain:
            key = await new_key(plain)
        async with opened(f"{server.url}?wait=1") as store:
            store._servers._lane(None, "write")._wait_ms = 50
            with pytest.raises(StoreUnavailable, match="0 replicas have this, 1 must"):
                await store.append(key, [b"1"])
            at_once = {"repl-diskless-sync-delay": "0"}
            with server.client() as client:
                client.config_set("repl-diskless-sync-delay", "0")
            with redis_server(replicaof=("127.0.0.1", server.port), **at_once) as replica:
                await until(lambda: replica.info("replication")["master_link_status"] == "up")
                store._servers._lane(None, "write")._wait_ms = 5000
                assert (await store.append(key, [b"2"])).offset == 1
                with replica.client() as client:
                    assert any(str(key) in name for name in client.keys("*:log"))


async def test_run_set_reads_a_run_at_its_own_version():
    """Should the run have gone on meanwhile, the set gives it as it was."""
    async with opened(fresh_url()) as store:
        run = await store.create_run(new_run(tags=["x"], metadata={"gone": 1, "null": {"a": None}}))
        for step in range(3):
            await store.patch_run(run.id, {"metadata": {"gone": None, "step": step}})
        sets = store._runs.sets
        for version, metadata in ((0, run.metadata), (2, {"null": {"a": None}, "step": 1})):
            then = await sets._at(run.id, version)
            assert then.metadata == metadata
        assert (await sets._at(run.id, 3)).metadata["step"] == 2
        assert len((await store.read(run_log(run.id))).records) == 4
