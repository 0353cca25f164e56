"""Live readers over HTTP: events, long polls, and what ends them."""

import asyncio
import contextlib
import json
import time

from gateway import tokens
from gateway.model.records import StreamKey, path_config, path_data
from gateway.settings import Settings
from tests.support.gateways import DEADLINE_S, SECRET, new_run, serving, token_for, until
from tests.support.http.streams import EVERYTHING, TEXT, visitor, watching


async def test_records_arrive_as_events_as_they_are_appended_until_the_end(gateway, http, key):
    async with watching(http, str(key)) as events:
        assert events.headers["X-Accel-Buffering"] == "no"
        assert "no-transform" in events.headers["Cache-Control"]
        assert (await events.next())[1]["upToDate"] is True
        for n in range(5):
            await gateway.store.append(key, [b"%d" % n])
            assert json.loads((await events.next())[1]) == [n]
            name, control = await events.next()
            assert name == "control" and control["upToDate"] is True
        await gateway.store.append(key, [b"5", b"6"], end="completed")
        assert json.loads((await events.next())[1]) == [5, 6]
        control = (await events.next())[1]
        assert control["streamClosed"] is True and "streamCursor" not in control
        assert await events.next() == ("end", None)


async def test_reader_resumes_without_loss_after_response_ends(tmp_path):
    limits = Settings.from_env({"REALTIME_EVENTS_S": "0.15"}).limits
    async with serving(limits=limits) as gateway, visitor(gateway, *EVERYTHING) as http:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "progress")

        async def write():
            for n in range(300):
                await gateway.store.append(key, [b"%d" % n])
                await asyncio.sleep(0.003)
            await gateway.store.append(key, [], end="completed")

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            seen, offset, answers, is_closed = [], "-1", 0, False
            while not is_closed:
                answers += 1
                async with watching(http, str(key), offset) as events:
                    while (event := await events.next())[0] != "end":
                        if event[0] == "data":
                            batch = json.loads(event[1])
                        else:
                            offset = event[1]["streamNextOffset"]
                            is_closed = event[1].get("streamClosed", False)
                            seen, batch = seen + batch, []
        assert seen == list(range(300)) and answers > 3


async def test_an_answer_ends_when_its_token_expires(gateway, http):
    await http.put("a", headers=TEXT)
    async with visitor(gateway, "read:paths:a", ttl_s=1.2) as client, watching(client, "a") as it:
        began_s = time.monotonic()
        reading = asyncio.create_task(read_to_the_end(it))
        while not reading.done() and time.monotonic() - began_s < 20:
            await http.post("a", headers=TEXT, content="x")
            await asyncio.sleep(0.05)
        assert 1 < await reading - began_s < 15
        assert (await client.get("a")).status_code == 401


async def read_to_the_end(events):
    while (await events.next())[0] != "end":
        pass
    return time.monotonic()


async def test_an_answer_ends_when_its_token_is_revoked(gateway, http):
    await http.put("a", headers=TEXT)
    token = token_for("read:paths:a")
    async with visitor(gateway) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        async with watching(client, "a") as events:
            assert (await events.next())[1]["upToDate"] is True
            revoke = f"http://127.0.0.1:{gateway.port}/v1/tokens/revoke"
            answer = await http.post(
                revoke,
                headers={"Authorization": f"Bearer {SECRET}"},
                json={"token_id": tokens.id_of(token)},
            )
            assert answer.status_code == 200
            async with asyncio.timeout(DEADLINE_S):
                assert await events.next() == ("end", None)


async def test_a_deleted_stream_of_a_path_ends_the_answer_to_its_readers(gateway, http):
    await http.put("a", headers=TEXT, content="x")
    await http.put("b", headers={"Stream-Forked-From": "/v1/stream/a"})
    async with watching(http, "a") as of_source, watching(http, "b") as of_fork:
        for events in (of_source, of_fork):
            assert [(await events.next())[0] for _ in range(2)] == ["data", "control"]
        await http.delete("a")
        assert await of_source.next() == ("end", None)
        await http.post("b", headers=TEXT, content="y")
        assert (await of_fork.next()) == ("data", "y")
        await of_fork.next()
        await http.delete("b")
        assert await of_fork.next() == ("end", None)


async def test_long_poll_returns_on_append_or_deletion(gateway, http):
    at = (await http.put("a", headers=TEXT)).headers["Stream-Next-Offset"]
    query = {"offset": at, "live": "long-poll"}

    async def waiting():
        task = asyncio.create_task(http.get("a", params=query))
        await until(lambda: gateway.gateway._streams.live_readers == 1)
        return task

    task = await waiting()
    await http.post("a", headers=TEXT, content="x")
    assert (await task).text == "x"
    query["offset"] = (await task).headers["Stream-Next-Offset"]
    task = await waiting()
    await http.post("a", headers={"Stream-Closed": "true"})
    assert ((await task).status_code, (await task).headers["Stream-Closed"]) == (204, "true")
    await http.put("b", headers=TEXT)
    gone = asyncio.create_task(http.get("b", params={"offset": "-1", "live": "long-poll"}))
    await until(lambda: gateway.gateway._streams.live_readers == 1)
    await http.delete("b")
    assert (await gone).status_code == 404


async def test_readers_that_leave_leave_nothing_behind(gateway, key):
    await gateway.store.append(key, [b"1"])
    async with visitor(gateway, *EVERYTHING) as http:
        await http.put("a", headers=TEXT, content="x")
    tasks = len(asyncio.all_tasks())

    async def read(client, path, live):
        query = {"offset": "now", "live": live}
        async with client.stream("GET", path, params=query) as response:
            async for _ in response.aiter_raw():
                pass

    async with visitor(gateway, *EVERYTHING) as client:
        readers = [
            asyncio.create_task(read(client, path, live))
            for path in ("a", str(key))
            for live in ("sse", "long-poll")
            for _ in range(50)
        ]
        await until(lambda: gateway.gateway._streams.live_readers == 200)
        # Of the run, of the path, and of the path's configuration.
        await until(lambda: gateway.hub.live_streams == 3)
        began_s = time.monotonic()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    await until(lambda: gateway.gateway._streams.live_readers == 0)
    await until(lambda: gateway.hub.live_streams == 0)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert not gateway.server.server_state.connections
    assert time.monotonic() - began_s < 12, "sooner than they are looked after"


async def test_shutdown_ends_event_responses(tmp_path):
    async with serving() as gateway, visitor(gateway, *EVERYTHING) as http:
        await http.put("a", headers=TEXT)
        async with watching(http, "a") as events:
            await events.next()
            began_s = time.monotonic()
            await gateway.gateway.drain()
            assert await events.next() == ("end", None)
            assert time.monotonic() - began_s < 10
        assert (await http.get("a")).status_code == 503


async def test_ttl_restarts_on_read_and_live_readers_extend_it(http):
    await http.put("idle", headers=TEXT | {"Stream-TTL": "1"})
    await http.put("watched", headers=TEXT | {"Stream-TTL": "1"})
    async with watching(http, "watched") as events:
        await events.next()
        await asyncio.sleep(1.6)  # the time to live is whole seconds, and is what is tested
        assert (await http.head("idle")).status_code == 404
        assert (await http.head("watched")).status_code == 200
        await http.post("watched", headers=TEXT, content="x")
        assert await events.next() == ("data", "x")


async def test_path_has_two_logs_and_none_after_sweep(gateway, http):
    await http.put("a", headers=TEXT, content="x")
    config, data = await gateway.store.list_path_logs(None, 9)
    assert config == path_config("a")
    assert data == path_data("a", data.stream_id.removeprefix("$data-"))


async def test_http_waiters_count_per_address_and_subject_until_done():
    limits = Settings.from_env(
        {"REALTIME_SUBJECT_CONNECTIONS": "2", "REALTIME_ADDRESS_CONNECTIONS": "4"}
    ).limits
    async with serving(limits=limits) as gateway, visitor(gateway, *EVERYTHING) as http:
        await http.put("a", headers=TEXT)
        query = {"offset": "-1", "live": "sse"}
        subject = tokens.mint(["read:paths:a"], subject="user_7", secret_key=SECRET)
        of_subject = {"Authorization": f"Bearer {subject}"}
        async with contextlib.AsyncExitStack() as stack:

            async def watch(**options):
                request = http.stream("GET", "a", params=query, **options)
                return await stack.enter_async_context(request)

            found = [(await watch(headers=of_subject)).status_code for _ in range(3)]
            assert found == [200, 200, 429]
            found = [await watch() for _ in range(3)]
            assert [each.status_code for each in found] == [200, 200, 429]
            assert found[-1].headers["Retry-After"] == "10"
            waiting = await http.get("a", params=query | {"live": "long-poll"})
            assert waiting.json()["code"] == "too_many_connections"
            assert (await http.get("a")).status_code == 200, "what does not wait is not counted"
        await until(lambda: gateway.gateway._http_reader_limits.is_empty)
