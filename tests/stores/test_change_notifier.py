"""How followers inside one process hear of growth: by waking, or by being handed pages."""

import asyncio
from contextlib import aclosing

import pytest

from gateway.model.records import StreamKey
from gateway.stores import change_notifier
from gateway.stores.memory import MemoryStore
from tests.support.gateways import new_run, until


@pytest.fixture
async def store():
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def key(store):
    return StreamKey((await store.create_run(new_run())).id, "s")


class Follower:
    """Follows a stream in a task, and keeps what it is handed and what is yielded apart."""

    def __init__(self, store, key):
        self.seen, self.handed, self.yielded = [], 0, 0
        self.fault = None
        self.task = asyncio.create_task(self._run(store, key))
        self._store, self._key = store, key

    async def _run(self, store, key):
        async with aclosing(store.follow(key, None, self._on_page)) as pages:
            async for page in pages:
                self.yielded += 1
                self._take(page)

    def _on_page(self, page):
        if self.fault is not None:
            raise self.fault
        self.handed += 1
        self._take(page)

    def _take(self, page):
        self.seen += [record.data for record in page.records]
        self.end = page.end

    async def waits(self):
        (watch,) = self._store._growth._watches[self._key.run_id][self._key]
        await until(lambda: watch._is_waiting)


async def follower(store, key):
    it = Follower(store, key)
    await until(lambda: store._growth.is_followed(key))
    await it.waits()
    return it


async def test_waiting_follower_gets_pages_in_the_appending_call(store, key):
    await store.append(key, [b"0"])
    one = await follower(store, key)
    assert (one.seen, one.handed, one.yielded) == ([b"0"], 0, 1)  # what was there is yielded
    for i in range(1, 4):
        store.begin_append(key, [b"%d" % i], lambda _: None)
        assert one.seen[-1] == b"%d" % i  # already
    assert (one.handed, one.yielded) == (3, 1)
    await store.append(key, [b"4"], end="completed")
    await one.task
    assert (one.seen, one.end, one.yielded) == ([b"0", b"1", b"2", b"3", b"4"], "completed", 2)
    assert not store._growth.is_followed(key)


async def test_page_passed_to_callback_is_not_yielded_again(store, key, monkeypatch):
    one = await follower(store, key)
    await store.append(key, [b"0"])
    monkeypatch.setattr(change_notifier, "WATCH_BYTES", 3)
    store._growth.publish(key, None)  # it has to look by itself
    for i in range(1, 6):
        await store.append(key, [b"%d" % i])  # while it is on its way to look
    await one.waits()
    await store.append(key, [b"6"])
    assert one.seen == [b"%d" % i for i in range(7)]
    assert one.handed and one.yielded
    one.task.cancel()


async def test_deleted_run_ends_follower_after_its_last_page(store, key):
    one = await follower(store, key)
    await store.append(key, [b"0"])
    await store.delete_run(key.run_id)
    await one.task
    assert (one.seen, one.handed, one.end) == ([b"0"], 1, "deleted")


async def test_callback_error_fails_only_its_own_follower(store, key):
    broken, well = await follower(store, key), Follower(store, key)
    await until(lambda: len(store._growth._watches[key.run_id][key]) == 2)
    await until(lambda: all(w._is_waiting for w in store._growth._watches[key.run_id][key]))
    broken.fault = ZeroDivisionError("of its own")
    assert (await store.append(key, [b"0"])).offset == 0
    assert (await store.append(key, [b"1"])).offset == 1
    with pytest.raises(ZeroDivisionError, match="of its own"):
        await broken.task
    assert well.seen == [b"0", b"1"]
    well.task.cancel()
