"""`realtime export` and `import`, as processes."""

import json

import pytest

from gateway.errors import RunNotFound
from gateway.model.records import StreamKey, source_of
from gateway.sdk.session import opened
from gateway.stores.base import Store
from gateway.stores.sqlite.store import SqliteStore
from tests.support.cli import realtime
from tests.support.gateways import new_run, serving


@pytest.fixture
async def gateway():
    async with serving() as gateway:
        yield gateway


async def begun(store: Store, **fields):
    run = await store.create_run(new_run(tags=["x"], payload={"a": 1}, **fields))
    await store.patch_run(run.id, {"status": "executing"})
    return run


async def values_of(store, key):
    page = await store.read(key, max_bytes=64 << 20)
    return [(each.source, each.data) for each in page.records], page.end


async def test_import_restores_values_order_sources_and_ends(gateway, tmp_path):
    store = gateway.store
    run = await begun(store, metadata={"stage": "two"})
    child = await begun(store, parent_id=run.id, root_id=run.id)
    exact = [b"1E+300", b"123456789012345678901234567890", b'"\xc3\xa9"', b"null", b'{"a": null}']
    progress, answer = StreamKey(run.id, "progress"), StreamKey(run.id, "answer")
    for number, data in enumerate(exact * 600):
        source = (run.id, child.id, None)[number // 1000]
        await store.append(progress, [data], source=source)
    await store.append(answer, [b"1"], source=source_of(run.id, 2))
    await store.append(answer, [b"2"], source=source_of(child.id, 3), end="canceled")
    await store.patch_run(run.id, {"status": "failed", "error": {"type": "E", "message": "m"}})
    before = (await store.get_run(run.id)).run
    url = ("--url", gateway.url)
    file = tmp_path / "run.jsonl"
    done = await realtime("export", run.id, "--out", file, *url)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[-1] == {"type": "done", "streams": 2, "records": 3002}
    assert lines[1] | {"time_ms": 0} == {
        **{"type": "record", "stream": "progress", "offset": 0, "time_ms": 0},
        **{"source": run.id, "data": 1e300},
    }
    taken = await realtime("import", file, *url)
    assert (taken.code, "--new-id imports it under another id" in taken.err) == (1, True)
    other = tmp_path / "other.db"
    done = await realtime("import", file, "--store", f"sqlite:{other}")
    assert done.code == 0, done.err
    assert done.lines == [run.id]
    assert "positions and times are new" in done.err
    async with opened(SqliteStore(other)) as copied:
        for key in (progress, answer):
            assert await values_of(copied, key) == await values_of(store, key)
        assert (await copied.get_run(run.id)).run == before
    beside = await realtime("import", file, "--new-id", *url)
    (id,) = beside.lines
    copied, _ = await values_of(store, StreamKey(id, "progress"))
    assert [source for source, _ in copied[::1000]] == [id, child.id, None]
    copied, _ = await values_of(store, StreamKey(id, "answer"))
    assert [source for source, _ in copied] == [source_of(id, 2), source_of(child.id, 3)]


async def test_import_marks_unfinished_run_crashed(gateway):
    run = await begun(gateway.store, idempotency_key="once")
    await gateway.store.append(StreamKey(run.id, "s"), [b"1"])
    url = ("--url", gateway.url)
    text = (await realtime("export", run.id, *url)).out
    done = await realtime("import", "-", "--new-id", *url, given=text)
    assert "is imported as crashed" in done.err
    made = (await gateway.store.get_run(done.lines[0])).run
    assert (made.status, made.idempotency_key) == ("crashed", None)
    assert await values_of(gateway.store, StreamKey(made.id, "s")) == ([(None, b"1")], "crashed")


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda lines: lines[:-1], "is incomplete"),
        (lambda lines: lines[:1] + lines[2:], "has 1 records, but its final line counts 2"),
        (lambda lines: lines[1:], "line 1 was not written by"),
        (lambda lines: [*lines[:2], "{", *lines[2:]], "line 3 was not written by"),
        (lambda lines: [*lines, lines[1]], "follows the final line"),
        (lambda lines: [], "is incomplete"),
    ],
)
async def test_import_rejects_incomplete_file(gateway, spoil, said):
    run = await begun(gateway.store)
    await gateway.store.append(StreamKey(run.id, "s"), [b"1", b"2"])
    url = ("--url", gateway.url)
    lines = (await realtime("export", run.id, *url)).lines
    await gateway.store.delete_run(run.id)
    done = await realtime("import", "-", *url, given="\n".join(spoil(lines)))
    assert (done.code, said in done.err) == (1, True), done.err
    with pytest.raises(RunNotFound):
        await gateway.store.get_run(run.id)


async def test_export_never_replaces_a_file(gateway, tmp_path):
    run = await begun(gateway.store)
    file = tmp_path / "run.jsonl"
    file.write_text("mine")
    done = await realtime("export", run.id, "--out", file, "--url", gateway.url)
    assert (done.code, "exists already" in done.err) == (1, True)
    absent = await realtime("export", "run_x", "--out", tmp_path / "x", "--url", gateway.url)
    assert absent.code == 1
    assert [each.name for each in tmp_path.iterdir()] == ["run.jsonl"]
    assert file.read_text() == "mine"
