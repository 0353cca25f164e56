"""`realtime tail`, `append` and `streams`, as processes."""

import asyncio
import json

import pytest

from gateway.model.log import run_log
from gateway.model.records import StreamKey, Writer
from gateway.sdk.session import opened
from gateway.stores.sqlite.store import SqliteStore
from tests.support.cli import realtime, running
from tests.support.gateways import DEADLINE_S, gateway_process, new_run, serving, token_for


@pytest.fixture
async def gateway():
    async with serving() as gateway:
        yield gateway


@pytest.fixture
async def key(gateway):
    run = await gateway.store.create_run(new_run(status="queued"))
    return StreamKey(run.id, "progress")


async def put(gateway, key, *values, **more):
    return await gateway.store.append(key, [json.dumps(each).encode() for each in values], **more)


async def test_tail_prints_existing_and_new_records_until_end(gateway, key):
    await put(gateway, key, {"a": 1}, "two")
    async with running("tail", *key, "--raw", "--url", gateway.url) as tail:
        assert [await tail.line(), await tail.line()] == ['{"a": 1}', '"two"']
        await put(gateway, key, 3, end="completed")
        assert await tail.line() == "3"
        done = await tail.done()
    assert (done.code, done.out) == (0, "")
    assert "ended: completed" in done.err


@pytest.mark.parametrize(
    "reason, code", [("failed", 10), ("canceled", 11), ("expired", 13), ("deleted", 15)]
)
async def test_tail_exit_code_is_end_reason(gateway, key, reason, code):
    await put(gateway, key, 1)
    if reason == "deleted":
        await gateway.store.delete(key)
    else:
        await gateway.store.append(key, [], end=reason)
    assert (await realtime("tail", *key, "--url", gateway.url)).code == code


async def test_tail_starts_at_given_position(gateway, key):
    places = [(await put(gateway, key, value)).position for value in range(5)]

    async def values(start):
        done = await realtime(
            "tail", *key, "--no-follow", "--raw", "--from", start, "--url", gateway.url
        )
        assert done.code == 0, done.err
        return [json.loads(line) for line in done.lines]

    assert await values("beginning") == [0, 1, 2, 3, 4]
    assert await values("-2") == [3, 4]
    assert await values("-100") == [0, 1, 2, 3, 4]
    assert await values("latest") == []
    assert await values(str(places[2])) == [3, 4]


async def test_tail_json_has_positions_to_resume(gateway, key):
    await put(gateway, key, {"x": 1}, 2, end="completed")
    first = await realtime("tail", *key, "--json", "--url", gateway.url)
    one, two, end = first.json
    assert (one["data"], two["data"], end["type"], end["reason"]) == (
        {"x": 1},
        2,
        "end",
        "completed",
    )
    again = await realtime("tail", *key, "--json", "--from", one["position"], "--url", gateway.url)
    assert [each["type"] for each in again.json] == ["record", "end"]
    assert again.json[0]["offset"] == 1


async def test_tail_of_run_prints_new_streams_and_changes(gateway, key):
    await put(gateway, key, "there")
    async with running("tail", key.run_id, "--json", "--url", gateway.url) as tail:
        first = [json.loads(await tail.line()) for _ in range(2)]
        assert first[0]["patch"] == {"status": "queued"}
        assert first[1]["data"] == "there"
        await put(gateway, StreamKey(key.run_id, "answer"), "later")
        assert json.loads(await tail.line())["stream"] == "answer"
        await gateway.store.patch_run(key.run_id, {"status": "executing"})
        await gateway.store.patch_run(key.run_id, {"status": "failed"})
        done = await tail.done()
    assert done.code == 10
    patches = [each["patch"]["status"] for each in done.json if each["type"] == "run"]
    assert patches == ["executing", "failed"]
    ends = {each["stream"] for each in done.json if each["type"] == "end"}
    assert {"progress", "answer"} <= ends


async def test_tail_resumes_after_gateway_restart(tmp_path):
    url = f"sqlite:{tmp_path}/test.db?durability=normal"
    async with opened(SqliteStore(tmp_path / "test.db", durability="normal")) as store:
        key = StreamKey((await store.create_run(new_run(owner="someone"))).id, "progress")
        await store.append(key, [b"0"])
    with gateway_process(url, tmp_path) as process:
        async with running("tail", *key, "--raw", "--url", process.url) as tail:
            assert await tail.line() == "0"
            await asyncio.to_thread(process.kill)
            await asyncio.to_thread(process.start)
            done = await realtime("append", *key, "1", "--end", "--url", process.url)
            assert done.code == 0, done.err
            assert await tail.line() == "1"
            assert (await tail.done()).code == 0


async def test_tail_exits_with_130_on_ctrl_c(gateway, key):
    await put(gateway, key, 1)
    async with running("tail", *key, "--raw", "--url", gateway.url) as tail:
        assert await tail.line() == "1"
        tail.interrupt()
        done = await tail.done()
    assert (done.code, done.err) == (130, "")


async def test_tail_requires_token_with_scope(gateway, key):
    await put(gateway, key, 1, end="completed")
    stream = token_for(f"read:streams:{key}")
    where = ("--url", gateway.url)
    done = await realtime(
        *("tail", *key, "--raw"), *where, REALTIME_TOKEN=stream, without=("REALTIME_SECRET_KEY",)
    )
    assert (done.code, done.out) == (0, "1\n"), done.err
    done = await realtime("tail", key.run_id, *where, "--token", stream)
    assert done.code == 1
    assert "has no scope to read" in done.err
    assert stream not in done.err


async def test_tail_escapes_control_characters(gateway, key):
    await gateway.store.append(key, ['"\x9b31m\x7f"'.encode(), b'{\n"a":\r\n1}'], end="completed")
    done = await realtime("tail", *key, "--url", gateway.url)
    assert "\\x9b31m\\x7f" in done.out
    assert "\x9b" not in done.out
    assert len(done.lines) == 2  # one line per record, despite line breaks in its JSON


async def test_append_accepts_arguments_and_lines_and_ends_stream(gateway, key):
    where = ("--url", gateway.url)
    assert (await realtime("append", *key, "1", '{"a": 2}', *where)).code == 0
    done = await realtime(*("append", *key, "--end", "--json"), *where, given='3\n\n[4]\r\n"five"')
    assert done.json[0]["appended"] == 3
    page = await gateway.store.read(key)
    assert [json.loads(each.data) for each in page.records] == [1, {"a": 2}, 3, [4], "five"]
    assert page.end == "completed"
    assert done.json[0]["position"] == str(page.position)


async def test_append_text_accepts_plain_lines(gateway, key):
    given = 'say "hi"\n\n\tlast\n'
    done = await realtime("append", *key, "--text", "--url", gateway.url, given=given)
    assert done.code == 0, done.err
    records = (await gateway.store.read(key)).records
    assert [json.loads(each.data) for each in records] == ['say "hi"', "", "\tlast"]


async def test_append_sends_each_line_when_it_arrives(gateway, key):
    async with running("append", *key, "--url", gateway.url) as append:
        pages = gateway.store.follow(key)
        for value in ("1", "2"):
            await append.say(value)
            async with asyncio.timeout(DEADLINE_S):
                assert [each.data.decode() for each in (await anext(pages)).records] == [value]
        await pages.aclose()
        append.process.stdin.close()
        assert (await append.done()).code == 0


async def test_append_keeps_order_of_large_input(gateway, key):
    count = 20_000
    given = "".join(f'{{"n":{n},"pad":"{"x" * 60}"}}\n' for n in range(count))
    done = await realtime("append", *key, "--url", gateway.url, given=given)
    assert done.code == 0, done.err
    page, values = await gateway.store.read(key, max_bytes=64 << 20), []
    values = [json.loads(each.data)["n"] for each in page.records]
    assert values == list(range(count))


async def test_append_rejects_invalid_json_with_line_number(gateway, key):
    done = await realtime("append", *key, "--url", gateway.url, given="1\n{bad\n3\n")
    assert done.code == 1
    assert "line 2 is not JSON" in done.err
    assert [each.data for each in (await gateway.store.read(key)).records] == [b"1"]


async def test_append_rejects_records_over_limit(gateway, key):
    given = json.dumps("x" * (1 << 20)) + "\n"
    done = await realtime("append", *key, "--url", gateway.url, given=given)
    assert done.code == 1
    assert "line 1 is 1048578 bytes; the limit is 1048576" in done.err


async def test_streams_lists_size_and_readers(gateway, key):
    await put(gateway, key, *(["x" * 8] * 5))
    await put(gateway, StreamKey(key.run_id, "done"), 1, end="completed")
    async with gateway.client(token=token_for(f"read:runs:{key.run_id}")) as client:
        await client.ask(type="subscribe", id=1, run=key.run_id, stream="progress")
        await client.receive()
        done = await realtime("streams", key.run_id, "--json", "--url", gateway.url)
    progress, ended = done.json
    assert (progress["stream"], progress["records"], progress["bytes"]) == ("progress", 5, 50)
    assert (progress["end"], progress["readers"]) == (None, 1)
    assert (ended["stream"], ended["end"], ended["readers"]) == ("done", "completed", 0)
    plain = await realtime("streams", key.run_id, "--url", gateway.url)
    assert plain.lines[0].split("\t")[:4] == ["progress", "open", "5", "50 B"]


async def test_reader_counts_require_read_scope(gateway, key):
    import httpx

    url = f"http://127.0.0.1:{gateway.port}/v1/runs/{key.run_id}/readers"
    other = token_for("read:runs:run_other")
    async with httpx.AsyncClient() as http:
        refused = await http.get(url, headers={"Authorization": f"Bearer {other}"})
        assert refused.status_code == 403
        mine = token_for(f"read:runs:{key.run_id}")
        found = await http.get(url, headers={"Authorization": f"Bearer {mine}"})
    assert found.json() == {"streams": {}}


async def test_commands_open_unlocked_store(tmp_path):
    path = tmp_path / "test.db"
    async with opened(SqliteStore(path, durability="normal")) as store:
        run = await store.create_run(new_run(status="queued", owner="embedded"))
        key = StreamKey(run.id, "progress")
        await store.append(key, [b"1"], writer=Writer("w", 0, 0))
    where = ("--store", f"sqlite:{path}")
    assert (await realtime("append", *key, "2", *where)).code == 0
    done = await realtime("tail", *key, "--no-follow", "--raw", *where)
    assert done.lines == ["1", "2"]
    (streams,) = (await realtime("streams", run.id, "--json", *where)).json
    assert (streams["records"], streams["readers"]) == (2, None)
    async with opened(SqliteStore(path)) as store:  # no run was executed or changed
        assert (await store.get_run(run.id)).run == run
        assert (await store.head(run_log(run.id))).position.offset == 1


async def test_locked_store_error_names_url_option(tmp_path):
    path = tmp_path / "test.db"
    async with opened(SqliteStore(path, durability="normal")):
        done = await realtime("runs", "list", "--store", f"sqlite:{path}")
    assert done.code == 1
    assert "in use by a gateway" in done.err
    assert "--url ws://127.0.0.1:8400" in done.err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("tail", "run_a", "--url", "ws://127.0.0.1:9"), "no gateway at ws://127.0.0.1:9"),
        (("tail", "run_a", "--store", "sqlite:absent.db"), "there is no store absent.db"),
        (("tail", "run_a", "--store", "memory:"), "exists only in its gateway's process"),
        (("tail", "run_a", "--token", "x", "--store", "sqlite:a.db"), "a token needs a gateway"),
        (("tail", "run_a", "--from", "soon"), "--from is 'soon'"),
        (("tail", "run_a", "--from", "0123456789abcdef_0000000000000001"), "name the stream"),
        (("tail", "nonsense"), "run id 'nonsense' is not allowed"),
        (("append", "run_a", "s", "1", "--reason", "bored"), "--reason is 'bored'"),
    ],
)
async def test_invalid_options_are_reported_in_one_line(tmp_path, arguments, said):
    done = await realtime(*arguments)
    assert done.code == 1
    assert said in done.err
    assert len(done.err.splitlines()) == 1


async def test_invalid_command_line_exits_with_2():
    assert (await realtime("tail")).code == 2
    assert (await realtime("tale", "run_a")).code == 2
