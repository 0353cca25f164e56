"""How streams of paths are kept: over each store, with a clock of the test's own."""

import asyncio
from urllib.parse import urlsplit

import pytest

from gateway.model.records import Position, Writer, path_config, path_data
from gateway.sdk.session import opened
from gateway.server.durable_streams import headers
from gateway.server.durable_streams.cleanup import REMEMBERED_MS, cleanup_step, run_cleanup
from gateway.server.durable_streams.configuration import Fork, encode
from gateway.server.durable_streams.errors import HttpRefusal
from gateway.server.durable_streams.path_streams import UNPUBLISHED_MS, PathStreams
from gateway.stores.redis.store import RedisStore
from tests.support.gateways import DEADLINE_S
from tests.support.redis.servers import fresh_url, shared_server
from tests.support.stores import store_of
from tests.support.tcp_proxy import Proxy

TEXT = {"Content-Type": "text/plain"}
MAX_BYTES = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_795_352_174_000

    def __call__(self) -> int:
        return self.now_ms

    def pass_s(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def paths(request, tmp_path, clock):
    async with store_of(request.param, tmp_path) as store:
        yield PathStreams(store, clock)


async def create(paths, path, body=b"", **more):
    named = {name.replace("_", "-"): value for name, value in more.items()}
    creation = headers.read_create_headers(TEXT | named)
    return await paths.create(path, creation, body, MAX_BYTES)


async def fork(paths, path, source, **more):
    creation = headers.read_create_headers(
        {"Stream-Forked-From": f"/v1/stream/{source}"}
        | {name.replace("_", "-"): value for name, value in more.items()}
    )
    assert creation.fork is not None
    creation = creation._replace(fork=creation.fork._replace(source=source))
    return (await paths.create(path, creation, b"", MAX_BYTES))[0]


async def status(paths, path):
    try:
        await paths.open(path)
    except HttpRefusal as refused:
        return refused.status
    return 200


async def sweep(paths):
    after = None
    while (after := await cleanup_step(paths, after, limit=2)) is not None:
        pass


async def test_idle_stream_expires_and_touch_restarts_its_ttl(paths, clock):
    await create(paths, "a", Stream_TTL="100")
    clock.pass_s(99.9)
    assert await status(paths, "a") == 200
    await paths.touch(await paths.open("a"))
    clock.pass_s(99.9)
    assert await status(paths, "a") == 200, "a touch gives it all of its time"
    clock.pass_s(10.2)
    assert await status(paths, "a") == 404, "and a tenth more at most"
    assert (await create(paths, "a"))[1], "it can be created anew"


async def test_a_hundred_touches_are_written_down_at_most_ten_times_within_the_time(paths, clock):
    await create(paths, "a", Stream_TTL="100")
    before = (await paths.read("a")).version.offset
    for _ in range(100):
        clock.pass_s(1)
        await paths.touch(await paths.open("a"))
    assert (await paths.read("a")).version.offset - before <= 11
    await create(paths, "b")
    await paths.touch(await paths.open("b"))
    assert (await paths.read("b")).version.offset == 1, "without a time to live nothing is written"


async def test_a_fixed_end_is_not_put_off(paths, clock):
    await create(paths, "a", Stream_Expires_At="2026-11-22T14:16:34Z")
    end_ms = (await paths.read("a")).configuration.expires_ms
    clock.now_ms = end_ms - 1
    await paths.touch(await paths.open("a"))
    assert await status(paths, "a") == 200
    clock.now_ms = end_ms
    assert await status(paths, "a") == 404


async def test_a_source_that_expires_is_kept_for_its_forks_until_they_are_gone(paths, clock):
    await create(paths, "a", b"x", Stream_TTL="10")
    await fork(paths, "b", "a", Stream_TTL="100")
    clock.pass_s(11)
    assert [await status(paths, "a"), await status(paths, "b")] == [410, 200]
    assert (await (await paths.open("b")).read(Position("0" * 16, 0), 99)).records
    clock.pass_s(100)
    assert [await status(paths, "b"), await status(paths, "a")] == [404, 404]


async def test_sweep_of_expired_fork_releases_its_deleted_source(paths, clock):
    await create(paths, "a", b"x")
    await fork(paths, "b", "a", Stream_TTL="10")
    await paths.delete("a")
    clock.pass_s(11)
    assert await status(paths, "a") == 410
    await sweep(paths)
    assert await status(paths, "a") == 404


async def test_a_fork_that_never_came_to_be_holds_its_source_for_a_minute_only(paths, clock):
    await create(paths, "a", b"x")
    source = await paths.read("a")
    lost = source.configuration.with_fork(Fork("b", "never", clock()))
    writer = Writer("config", 0, source.version.offset)
    await paths.store.append(path_config("a"), [encode(lost)], writer=writer)
    await paths.delete("a")
    assert await status(paths, "a") == 410, "it may yet be published"
    clock.pass_s(UNPUBLISHED_MS / 1000)
    await sweep(paths)
    assert await status(paths, "a") == 404


async def test_sweep_removes_deleted_paths_and_retains_live_ones(paths, clock):
    await create(paths, "keep", b"x")
    await create(paths, "gone", b"x")
    await create(paths, "old", b"x", Stream_TTL="5")
    orphan = path_data("never", "published")
    await paths.store.append(orphan, [b"1"])
    await paths.delete("gone")
    await create(paths, "gone", b"y")
    await paths.delete("gone")
    # The store has a clock of its own, by which the epochs of logs are made.
    clock.now_ms = max(clock.now_ms, int((await paths.store.head(orphan)).position.epoch[:11], 16))
    await sweep(paths)
    assert len(await paths.store.list_path_logs(None, 99)) >= 6, "requests may be under way"
    clock.pass_s(REMEMBERED_MS / 1000 + 5)
    await sweep(paths)
    clock.pass_s(REMEMBERED_MS / 1000)
    await sweep(paths)
    kept = await paths.store.list_path_logs(None, 99)
    assert kept[0] == path_config("keep") and len(kept) == 2
    assert [await status(paths, name) for name in ("keep", "gone", "old")] == [200, 404, 404]
    assert (await create(paths, "gone", b"z"))[1]


async def test_two_gateways_over_one_store_agree(paths, clock):
    other = PathStreams(paths.store, clock)
    stream, _ = await create(paths, "a", b"x")
    assert (await other.open("a")).key == stream.key
    await other.delete("a")
    assert await status(paths, "a") == 404
    for n in range(12):
        made = await asyncio.gather(create(paths, f"b{n}"), create(other, f"b{n}"))
        assert sorted(is_new for _, is_new in made) == [False, True]
        assert made[0][0].key == made[1][0].key
        gone = await asyncio.gather(
            paths.delete(f"b{n}"), other.delete(f"b{n}"), return_exceptions=True
        )
        assert sum(isinstance(each, HttpRefusal) for each in gone) == 1


async def test_the_log_of_a_configuration_does_not_grow_for_ever(paths, clock):
    await create(paths, "a", Stream_TTL="10")
    for _ in range(100):
        clock.pass_s(2)
        await paths.touch(await paths.open("a"))
    head = await paths.store.head(path_config("a"))
    assert head.position.offset > 90
    assert head.position.offset - head.earliest.offset < 20
    assert (await PathStreams(paths.store, clock).open("a")).configuration.ttl_s == 10


async def test_sweeper_continues_after_a_fault(paths, clock, caplog):
    await create(paths, "a", b"x", Stream_TTL="1")
    clock.pass_s(5)
    steps: asyncio.Queue[None] = asyncio.Queue()
    real, faults = paths.store.list_path_logs, iter([RuntimeError("broken")])

    async def list_path_logs(*arguments):
        for fault in faults:
            raise fault
        return await real(*arguments)

    paths.store.list_path_logs = list_path_logs
    async with asyncio.timeout(DEADLINE_S), run_cleanup(paths, lambda _: steps.get()):
        steps.put_nowait(None)
        steps.put_nowait(None)
        while (await paths.read("a")).configuration.state == "live":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert "the sweeper of paths failed" in caplog.text


# Appends that Redis carries out and whose answer is lost: the store sends them again.


@pytest.fixture
async def broken(clock):
    """Streams of paths over a Redis store whose answers can be lost."""
    server = shared_server()
    proxy = Proxy(server.port)
    async with proxy.listen() as url:
        prefix = urlsplit(fresh_url()).query
        port = urlsplit(url).port
        async with opened(RedisStore(f"redis://127.0.0.1:{port}/0?{prefix}")) as store:
            yield proxy, PathStreams(store, clock)


@pytest.mark.parametrize("lost", [b'"state":"live"', b"the first record"])
async def test_a_stream_is_created_once_when_the_answer_is_lost(broken, lost):
    proxy, paths = broken
    proxy.drop_response_to(lost)
    _, is_new = await create(paths, "a", b"the first record")
    assert (proxy.lost, is_new) == (1, True)
    position, _ = await (await paths.open("a")).tail()
    assert position.offset == 1
    assert (await create(paths, "a"))[1] is False


async def test_a_stream_is_deleted_once_when_the_answer_is_lost(broken):
    proxy, paths = broken
    stream, _ = await create(paths, "a", b"x")
    proxy.drop_response_to(b'"state":"absent"')
    await paths.delete("a")
    assert proxy.lost == 1
    assert await status(paths, "a") == 404
    assert (await paths.store.head(stream.key)).end == "deleted"
    assert (await create(paths, "a", b"y"))[1] is True
    assert await status(paths, "a") == 200


async def test_a_fork_is_made_once_when_the_answer_to_its_source_is_lost(broken):
    proxy, paths = broken
    await create(paths, "a", b"x")
    proxy.drop_response_to(b'"forks":')
    await fork(paths, "b", "a")
    assert proxy.lost == 1
    assert len((await paths.read("a")).configuration.forks) == 1
    proxy.drop_response_to(b'"state":"live"')  # of the source, when the fork releases it
    await paths.delete("b")
    assert proxy.lost == 1 + 1
    assert (await paths.read("a")).configuration.forks == ()


async def test_concurrent_deletes_have_one_winner(paths):
    await create(paths, "a", b"x")
    outcomes = await asyncio.gather(paths.delete("a"), paths.delete("a"), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if outcome) == [HttpRefusal]
    assert outcomes.count(None) == 1
