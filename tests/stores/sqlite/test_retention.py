"""What a SQLite store forgets, compared with a simple model of what it has to keep.

Each case is a random sequence of appends, deletions, ends, changes of tags, restarts and sweeps.
Every append is a commit of its own, so the model knows which records lie in one row.
"""

import random

import pytest

from gateway.errors import RunNotFound
from gateway.model.log import RunQuery
from gateway.model.records import RunSet, StreamKey
from gateway.model.retention import EMPTY_SET_S, Retention
from gateway.model.runs import end_patch
from gateway.stores.sqlite.blocks import encode_blocks
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import new_run

RETENTIONS = (
    Retention(age_s=600, run_ttl_s=900),
    Retention(records=7, run_ttl_s=900),
    Retention(bytes=3000, run_ttl_s=900),
    Retention(age_s=600, records=7, bytes=3000, run_ttl_s=900),
)
TAGS = ("x", "y", "z")


class Model:
    """Runs, streams as lists of rows, and the times at which sets were last changed."""

    def __init__(self, retention):
        self.retention = retention
        self.now_ms = 1_795_352_174_000
        self.runs = {}  # id: (tags, finished_ms or None)
        self.streams = {}  # key: [(first, end, size, last_ms)]
        self.ends = {}  # key: next offset
        self.changed_ms = {}  # tag, while its set has a log

    def change(self, tags):
        self.changed_ms.update(dict.fromkeys(tags, self.now_ms))

    def append(self, key, values):
        first = self.ends.get(key, 0)
        ((_, data),) = encode_blocks(first, [(self.now_ms, None, value) for value in values])
        row = (first, first + len(values), len(data), self.now_ms)
        self.streams.setdefault(key, []).append(row)
        self.ends[key] = first + len(values)

    def delete_run(self, run_id):
        tags, _ = self.runs.pop(run_id)
        self.change(tags)
        for key in [key for key in self.streams if key.run_id == run_id]:
            del self.streams[key], self.ends[key]

    def sweep(self):
        kept = self.retention
        until_ms = self.now_ms - kept.run_ttl_s * 1000
        for run_id, (_, finished_ms) in list(self.runs.items()):
            if finished_ms is not None and finished_ms <= until_ms:
                self.delete_run(run_id)
        for key, rows in self.streams.items():
            while rows:
                _, end, size, last_ms = rows[0]
                is_old = kept.age_s is not None and last_ms < self.now_ms - kept.age_s * 1000
                is_many = kept.records is not None and end <= self.ends[key] - kept.records
                total = sum(row[2] for row in rows)
                is_large = kept.bytes is not None and total - size >= kept.bytes
                if not (is_old or is_many or is_large):
                    break
                rows.pop(0)
        used = {tag for tags, _ in self.runs.values() for tag in tags}
        for tag, changed_ms in list(self.changed_ms.items()):
            if tag not in used and changed_ms <= self.now_ms - EMPTY_SET_S * 1000:
                del self.changed_ms[tag]


class Pair:
    """A store and its model, which are given the same to do."""

    def __init__(self, path, seed):
        self.random = random.Random(seed)
        self.model = Model(RETENTIONS[seed % len(RETENTIONS)])
        self.path = path
        self.store = None
        self.gone = []

    async def restart(self):
        if self.store is not None:
            await self.store.close()
        self.store = SqliteStore(
            self.path,
            durability="normal",
            clock_ms=lambda: self.model.now_ms,
            retention=self.model.retention,
        )
        await self.store.open()

    def going(self):
        return [id for id, (_, finished_ms) in self.model.runs.items() if finished_ms is None]

    def tags(self):
        return self.random.sample(TAGS, self.random.randrange(3))

    async def create(self):
        run = await self.store.create_run(new_run(tags=self.tags()))
        self.model.runs[run.id] = (run.tags, None)
        self.model.change(run.tags)

    async def append(self):
        if going := self.going():
            key = StreamKey(self.random.choice(going), self.random.choice("ab"))
            values = [b'"%s"' % (b"v" * self.random.choice((1, 300)))] * self.random.randint(1, 5)
            await self.store.append(key, values)
            self.model.append(key, values)

    async def finish(self):
        if going := self.going():
            await self.finish_run(self.random.choice(going))

    async def finish_run(self, run_id):
        run = (await self.store.get_run(run_id)).run
        await self.store.patch_run(run_id, end_patch(run, "failed", self.model.now_ms))
        self.model.change(run.tags)
        self.model.runs[run_id] = (run.tags, self.model.now_ms)

    async def tag_anew(self):
        if going := self.going():
            run_id, tags = self.random.choice(going), self.tags()
            await self.store.patch_run(run_id, {"tags": tags})
            self.model.change({*self.model.runs[run_id][0], *tags})
            self.model.runs[run_id] = (tags, None)

    async def delete_run(self):
        if self.model.runs:
            run_id = self.random.choice(list(self.model.runs))
            await self.store.delete_run(run_id)
            self.model.delete_run(run_id)
            self.gone.append(run_id)

    async def delete_stream(self):
        if self.model.streams:
            key = self.random.choice(list(self.model.streams))
            await self.store.delete(key)
            del self.model.streams[key], self.model.ends[key]
            if key.run_id in self.going():  # the model knows no appends to what was deleted
                await self.finish_run(key.run_id)

    async def wait(self):
        self.model.now_ms += self.random.choice((1_000, 200_000, 500_000, EMPTY_SET_S * 1000))

    async def sweep(self):
        while (await self.store.sweep()).has_more:
            pass
        self.model.sweep()
        await self.check()

    async def check(self):
        runs = {run.id for run in await self.store.list_runs(RunQuery(limit=1000))}
        assert runs == set(self.model.runs)
        for key, rows in self.model.streams.items():
            page = await self.store.read(key, max_bytes=1 << 30)
            first = rows[0][0] if rows else self.model.ends[key]
            assert [each.offset for each in page.records] == list(
                range(first, self.model.ends[key])
            )
            assert (await self.store.head(key)).earliest.offset == first
        for tag in TAGS:
            head = await self.store.head(RunSet("tag", tag).log)
            assert (head.position.offset > 0) == (tag in self.model.changed_ms), tag
        for run_id in self.gone:
            with pytest.raises(RunNotFound):
                await self.store.head(StreamKey(run_id, "a"))
        (rows_left,) = await self.store._read(
            lambda db: db.execute(
                "SELECT count(*) FROM blocks WHERE stream NOT IN (SELECT no FROM streams)"
            ).fetchone()
        )
        assert rows_left == 0  # nothing of what is gone takes up room


@pytest.mark.parametrize("seed", range(24))
async def test_sweep_removes_exactly_what_the_model_removes(tmp_path, seed):
    pair = Pair(tmp_path / "test.db", seed)
    await pair.restart()
    doings = (
        *[pair.create] * 4,
        *[pair.append] * 10,
        *[pair.finish, pair.tag_anew, pair.delete_run, pair.delete_stream, pair.restart],
        *[pair.wait] * 4,
        *[pair.sweep] * 4,
    )
    for _ in range(80):
        await pair.random.choice(doings)()
    await pair.sweep()
    await pair.store.close()


async def test_first_record_of_a_stream_that_was_swept_while_empty_is_trimmed_by_age(tmp_path):
    now_ms = 1_795_352_174_000
    store = SqliteStore(
        tmp_path / "test.db", clock_ms=lambda: now_ms, retention=Retention(age_s=600)
    )
    await store.open()
    key = StreamKey((await store.create_run(new_run())).id, "a")
    await store.append(key, [])
    now_ms += 601_000
    await store.sweep()
    await store.append(key, [b"1"])
    now_ms += 601_000
    assert (await store.sweep()).records == 1
    assert (await store.read(key)).records == []
    await store.close()
