"""Streams over HTTP, on a real server: who may do what, runs' streams, and what the published
conformance tests (`tests/e2e/conformance`) do not look at."""

import asyncio
import contextlib
import json
import time
from contextlib import asynccontextmanager

import httpx
import pytest

from gateway import tokens
from gateway.errors import ConfigurationError
from gateway.model.records import Position, StreamKey, path_config, path_data
from gateway.settings import Settings
from tests.support.gateways import DEADLINE_S, SECRET, new_run, serving, token_for, until
from tests.support.http.events import events_of

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
EVERYTHING = ("read:paths:*", "write:paths:*", "read:runs:*", "write:runs:*")


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request, tmp_path):
    store = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/test.db"
    async with serving(store) as running:
        yield running


@asynccontextmanager
async def visitor(gateway, *scopes, **options):
    headers = {"Authorization": f"Bearer {token_for(*scopes, **options)}"} if scopes else {}
    url = f"http://127.0.0.1:{gateway.port}/v1/stream/"
    many = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, limits=many) as client:
        yield client


@pytest.fixture
async def http(gateway):
    async with visitor(gateway, *EVERYTHING) as client:
        yield client


@pytest.fixture
async def key(gateway):
    run = await gateway.store.create_run(new_run())
    return StreamKey(run.id, "progress")


class Events:
    """An answer of events that is read as they come."""

    def __init__(self, response):
        self.headers = response.headers
        self.status = response.status_code
        self._lines = response.aiter_raw()
        self._buffer = b""

    async def next(self) -> tuple[str, object]:
        """Return the next event, or ("end", None); comments are skipped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                block, found, rest = self._buffer.partition(b"\n\n")
                if found:
                    self._buffer = rest
                    if events := events_of(block + found):
                        name, data = events[0]
                        return name, json.loads(data) if name == "control" else data
                    continue
                try:
                    self._buffer += await anext(self._lines)
                except (StopAsyncIteration, httpx.RemoteProtocolError):
                    return "end", None


@asynccontextmanager
async def watching(client, path, offset="-1", **query):
    query = {"offset": offset, "live": "sse", **query}
    async with client.stream("GET", path, params=query) as response:
        yield Events(response)


# Who may do what.


@pytest.mark.parametrize(
    ("scopes", "may_read", "may_write"),
    [
        ((), 401, 401),
        (("read:runs:*", "write:runs:*"), 403, 403),
        (("read:paths:docs/a",), 200, 403),
        (("read:paths:docs/*", "write:paths:docs/b"), 200, 403),
        (("read:paths:doc", "write:paths:docs/*"), 403, 204),
        (("read:paths:*", "write:paths:*"), 200, 204),
    ],
)
async def test_the_stream_of_a_path_needs_a_scope_of_its_own(
    gateway, http, scopes, may_read, may_write
):
    await http.put("docs/a", headers=TEXT)
    async with visitor(gateway, *scopes) as client:
        assert (await client.get("docs/a")).status_code == may_read
        assert (await client.head("docs/a")).status_code == may_read
        for live in ("long-poll", "sse"):
            refused = await client.get("docs/a", params={"live": live, "offset": "x"})
            assert refused.status_code == (400 if may_read == 200 else may_read)
        post = await client.post("docs/a", headers=TEXT, content="x")
        assert post.status_code == may_write
        put = await client.put("docs/a", headers=TEXT)
        assert put.status_code == (200 if may_write == 204 else may_write)
        assert (await client.delete("docs/a")).status_code == may_write


async def test_the_stream_of_a_run_needs_the_scopes_that_the_websocket_asks_for(gateway, key):
    other = await gateway.store.create_run(new_run(tags=["user_7"]))
    async with visitor(gateway, f"read:streams:{key}", f"write:streams:{key}") as client:
        assert (await client.get(str(key))).status_code == 200
        assert (await client.post(str(key), headers=JSON, content="1")).status_code == 204
        assert (await client.delete(str(key))).status_code == 403
        assert (await client.get(f"{other.id}/progress")).status_code == 403
    async with visitor(gateway, "read:tags:user_7") as client:
        assert (await client.get(f"{other.id}/progress")).status_code == 200
        assert (await client.get(str(key))).status_code == 403


async def test_who_may_not_read_is_not_told_what_is_there(gateway, http, key):
    await http.put("docs/a", headers=TEXT)
    async with visitor(gateway, "read:paths:other", "write:paths:other") as client:
        for there, absent in (("docs/a", "docs/b"), (str(key), "run_nowhere/progress")):
            for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
                answers = [await client.request(method, path) for path in (there, absent)]
                assert [answer.status_code for answer in answers] == [403, 403]
                bodies = [
                    answer.text.replace(path, "…").replace(path.partition("/")[0], "…")
                    for answer, path in zip(answers, (there, absent), strict=True)
                ]
                assert bodies[0] == bodies[1]


async def test_a_fork_needs_read_on_its_source(gateway, http):
    await http.put("private/a", headers=TEXT, content="secret")
    async with visitor(gateway, "read:paths:mine/*", "write:paths:mine/*") as client:
        fork = {"Stream-Forked-From": "/v1/stream/private/a"}
        assert (await client.put("mine/a", headers=fork)).status_code == 403
        assert (await client.get("mine/a")).status_code == 404


async def test_a_token_in_the_url_is_refused(gateway):
    async with visitor(gateway) as client:
        answer = await client.get("docs/a", params={"token": token_for(*EVERYTHING)})
        assert answer.status_code in (400, 401) and "URL" in answer.json()["message"]


async def test_the_open_mode_needs_no_token_and_refuses_pages_of_other_origins(tmp_path):
    async with serving(http_open=True) as gateway, visitor(gateway) as client:
        assert (await client.put("a", headers=TEXT, content="x")).status_code == 201
        assert (await client.get("a")).headers["Cache-Control"] == "public, no-cache"
        elsewhere = {"Origin": "https://elsewhere.example"}
        assert (await client.post("a", headers=TEXT | elsewhere, content="y")).status_code == 403
        assert (await client.get("a", headers=elsewhere)).status_code == 403
        assert (await client.get("a")).text == "x"
        async with gateway.client(greet=False) as socket:  # nothing else is open
            await socket.send(type="hello", protocol=1, token="x")
            assert (await socket.receive())["code"] == "invalid_token"


def test_the_open_mode_is_refused_in_production_and_asked_for_by_one_value():
    with pytest.raises(ConfigurationError, match="REALTIME_HTTP_OPEN is 1"):
        Settings.from_env({"REALTIME_HTTP_OPEN": "1", "REALTIME_ENV": "production"})
    with pytest.raises(ConfigurationError, match="REALTIME_HTTP_OPEN is 'yes'"):
        Settings.from_env({"REALTIME_HTTP_OPEN": "yes"})
    assert Settings.from_env({"REALTIME_HTTP_OPEN": "1"}).http_open
    assert not Settings.from_env({}).http_open


async def test_every_answer_has_the_headers_that_browsers_go_by(http):
    await http.put("a", headers=TEXT)
    for method, path in [("GET", "a"), ("HEAD", "a"), ("POST", "a"), ("GET", "b"), ("GET", "ä")]:
        answer = await http.request(method, path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert answer.headers["Vary"] == "Authorization"
        assert "public" not in answer.headers["Cache-Control"]


# Streams of runs.


async def test_a_runs_stream_is_read_page_by_page_and_is_closed_when_the_run_has_ended(
    gateway, http, key
):
    await gateway.store.append(key, [b'{"n": 1}', b"2"], source=key.run_id)
    page = await http.get(str(key))
    assert (page.text, page.headers["Content-Type"]) == ('[{"n": 1},2]', "application/json")
    assert page.headers["Stream-Up-To-Date"] == "true" and "Stream-Closed" not in page.headers
    at = page.headers["Stream-Next-Offset"]
    assert Position.parse(at) == (await gateway.store.head(key)).position
    await gateway.store.append(key, [b"3"], end="completed")
    rest = await http.get(str(key), params={"offset": at})
    assert (rest.json(), rest.headers["Stream-Closed"]) == ([3], "true")
    assert (await http.head(str(key))).headers["Stream-Closed"] == "true"
    refused = await http.post(str(key), headers=JSON, content="4")
    assert (refused.status_code, refused.headers["Stream-Closed"]) == (409, "true")


async def test_a_reader_changes_from_the_websocket_to_http_and_goes_on_where_it_was(
    gateway, http, key
):
    await gateway.store.append(key, [b"1", b"2"])
    async with gateway.client(token=token_for("read:runs:*")) as client:
        await client.send(type="subscribe", id=1, run=key.run_id, stream=key.stream_id)
        frames = [await client.receive() for _ in range(2)]
        position = frames[-1]["position"]
    await gateway.store.append(key, [b"3"])
    assert (await http.get(str(key), params={"offset": position})).json() == [3]


async def test_what_is_posted_to_a_run_reaches_its_followers_and_is_checked(gateway, http, key):
    done = await http.post(str(key), headers=JSON, content='[{"a": 1}, [2]]')
    assert done.status_code == 204
    page = await gateway.store.read(key)
    assert [record.data for record in page.records] == [b'{"a": 1}', b"[2]"]
    assert done.headers["Stream-Next-Offset"] == str(page.position)
    for content in ("", "[]", "{"):
        assert (await http.post(str(key), headers=JSON, content=content)).status_code == 400
    assert (await http.post(str(key), headers=TEXT, content="1")).status_code == 409
    big = json.dumps("x" * (1 << 20))
    answer = await http.post(str(key), headers=JSON, content=big)
    assert (answer.status_code, answer.json()["code"]) == (413, "record_too_large")
    assert "1048578 bytes; the limit is 1048576" in answer.json()["message"]


async def test_a_body_over_the_limit_is_not_read_to_its_end(http):
    await http.put("a", headers=TEXT)

    async def endless():
        while True:
            yield b"x" * 65536

    try:
        answer = await http.post("a", headers=TEXT, content=endless())
    except httpx.TransportError:  # the connection was closed over it
        return
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_a_runs_stream_is_always_there_and_has_no_life_of_its_own(gateway, http, key):
    assert (await http.put(str(key), headers=JSON)).status_code == 200
    assert (await http.put(str(key), headers=TEXT)).status_code == 409
    assert (await http.put(str(key), headers={"Stream-TTL": "5"})).status_code == 409
    assert (await http.put(str(key), headers=JSON, content="[1]")).status_code == 400
    closed = await http.put(str(key), headers=JSON | {"Stream-Closed": "true"})
    assert closed.status_code == 409
    await http.put("a", headers=JSON)
    fork = {"Stream-Forked-From": f"/v1/stream/{key}"}
    assert (await http.put("b", headers=fork)).status_code == 409
    assert (await http.put("run_nowhere/a", headers=JSON)).status_code == 404
    assert (await http.get("run_nowhere/a")).status_code == 404
    for name in (key.run_id, f"{key.run_id}/$run", f"{key.run_id}/a/b", "run_!/a"):
        assert (await http.get(name)).status_code == 400


async def test_a_deleted_stream_of_a_run_is_gone_for_good(gateway, http, key):
    await gateway.store.append(key, [b"1"])
    async with watching(http, str(key)) as events:
        assert (await events.next())[0] == "data"
        assert (await events.next())[1]["upToDate"] is True
        assert (await http.delete(str(key))).status_code == 204
        assert await events.next() == ("end", None)
    for method in ("GET", "HEAD", "DELETE"):
        assert (await http.request(method, str(key))).status_code == 410


async def test_a_run_that_is_deleted_ends_the_answer_to_its_readers(gateway, http, key):
    await gateway.store.append(key, [b"1"])
    async with watching(http, str(key)) as events:
        assert [(await events.next())[0] for _ in range(2)] == ["data", "control"]
        await gateway.store.delete_run(key.run_id)
        assert await events.next() == ("end", None)
    assert (await http.get(str(key))).status_code == 404


async def test_records_that_were_trimmed_are_a_refusal_and_never_a_silent_hole(gateway, http, key):
    await gateway.store.append(key, [b"1"])
    at = (await http.get(str(key))).headers["Stream-Next-Offset"]
    foreign = str(Position("0" * 15 + "1", 1))
    for offset in (foreign, at[:-1] + "9"):
        for live in ({}, {"live": "sse"}, {"live": "long-poll"}):
            answer = await http.get(str(key), params={"offset": offset, **live})
            assert (answer.status_code, answer.json()["code"]) == (410, "position_gone")


# Streams of paths.


async def test_a_stream_that_was_made_anew_does_not_know_the_offsets_of_the_one_before(http):
    await http.put("a", headers=TEXT, content="old")
    old = (await http.post("a", headers=TEXT, content="er")).headers["Stream-Next-Offset"]
    tag = (await http.get("a")).headers["ETag"]
    assert (await http.delete("a")).status_code == 204
    assert (await http.get("a")).status_code == 404
    await http.put("a", headers=TEXT, content="new")
    await http.post("a", headers=TEXT, content="er")
    assert (await http.get("a", params={"offset": old})).status_code == 410
    again = await http.get("a", headers={"If-None-Match": tag})
    assert (again.status_code, again.text) == (200, "newer")


async def test_of_many_who_create_at_once_one_does_and_the_others_find_it(gateway, http):
    for i in range(10):
        answers = await asyncio.gather(
            *(http.put(f"a{i}", headers=TEXT, content=f"{n}") for n in range(6))
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
        text = (await http.get(f"a{i}")).text
        assert text in {str(n) for n in range(6)}, "one body, whole and once"
        await http.post(f"a{i}", headers=TEXT, content="+")
        assert (await http.get(f"a{i}")).text == text + "+"


async def test_of_those_who_create_otherwise_at_once_one_wins(http):
    answers = await asyncio.gather(
        *(http.put("a", headers={"Content-Type": f"text/x{n}"}) for n in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5


async def test_appends_at_once_are_each_there_once_and_none_after_the_close(http):
    await http.put("a", headers=JSON)
    appends = [http.post("a", headers=JSON, content=str(n)) for n in range(30)]
    closing = http.post("a", headers=JSON | {"Stream-Closed": "true"}, content='"end"')
    answers = await asyncio.gather(*appends[:15], closing, *appends[15:])
    done = [n for n, answer in enumerate(answers[:15] + answers[16:]) if answer.status_code == 204]
    page = await http.get("a")
    assert answers[15].status_code == 204
    assert page.json()[-1] == "end" and sorted(page.json()[:-1]) == sorted(done)
    refused = {answer.status_code for answer in answers} - {204}
    assert refused <= {409}


async def test_deleting_creating_and_appending_at_once_mixes_no_two_streams(http):
    await http.put("a", headers=JSON, content="[0]")
    for round_ in range(1, 20):
        await asyncio.gather(
            http.delete("a"),
            http.put("a", headers=JSON, content=f"[{round_}]"),
            *(http.post("a", headers=JSON, content=str(round_)) for _ in range(3)),
        )
        await http.put("a", headers=JSON, content=f"[{round_}]")
        values = set((await http.get("a")).json())
        assert values <= {round_ - 1, round_}


async def test_forks_made_and_deleted_at_once_leave_no_reference_behind(gateway, http):
    await http.put("source", headers=TEXT, content="x")
    fork = {"Stream-Forked-From": "/v1/stream/source"}
    made = await asyncio.gather(*(http.put(f"fork{n}", headers=fork) for n in range(12)))
    assert {answer.status_code for answer in made} == {201}
    assert (await http.delete("source")).status_code == 204
    assert (await http.get("source")).status_code == 410
    gone = await asyncio.gather(*(http.delete(f"fork{n}") for n in range(12)))
    assert {answer.status_code for answer in gone} == {204}
    assert (await http.get("source")).status_code == 404
    assert (await http.put("source", headers=TEXT, content="new")).status_code == 201


async def test_a_fork_counts_on_from_its_source_and_offsets_sort(gateway, http):
    first = (await http.put("a", headers=JSON, content="[1,2]")).headers["Stream-Next-Offset"]
    await http.post("a", headers=JSON, content="3")
    fork = {"Stream-Forked-From": "/v1/stream/a", "Stream-Fork-Offset": first}
    made = await http.put("b", headers=fork, content="[4]")
    second = made.headers["Stream-Next-Offset"]
    assert Position.parse(second).offset == 3 and second > first
    assert (await http.get("b")).json() == [1, 2, 4]
    assert (await http.get("b", params={"offset": first})).json() == [4]
    of_source = (await http.get("a")).headers["Stream-Next-Offset"]
    assert of_source != second
    assert (await http.get("b", params={"offset": of_source})).status_code == 410
    async with watching(http, "b") as events:
        assert json.loads((await events.next())[1]) == [1, 2, 4]
        assert (await events.next())[1]["streamNextOffset"] == second
        await http.post("a", headers=JSON, content='"not for the fork"')
        await http.post("b", headers=JSON, content="5")
        assert json.loads((await events.next())[1]) == [5]


async def test_forks_go_no_deeper_than_the_limit_and_read_through_all_of_them(http):
    await http.put("f0", headers=TEXT, content="0")
    deep = 0
    while True:
        fork = {"Stream-Forked-From": f"/v1/stream/f{deep}"}
        answer = await http.put(f"f{deep + 1}", headers=fork, content="x")
        if answer.status_code != 201:
            break
        deep += 1
    assert (answer.status_code, deep) == (409, 32) and "32 deep" in answer.json()["message"]
    assert (await http.get(f"f{deep}")).text == "0" + "x" * 32


async def test_a_stream_takes_no_more_forks_than_the_limit(http, monkeypatch):
    monkeypatch.setattr("gateway.server.durable_streams.path_streams.MAX_FORKS", 2)
    await http.put("a", headers=TEXT)
    fork = {"Stream-Forked-From": "/v1/stream/a"}
    made = [(await http.put(f"b{n}", headers=fork)).status_code for n in range(3)]
    assert made == [201, 201, 409]
    await http.delete("b0")
    assert (await http.put("b3", headers=fork)).status_code == 201


async def test_a_large_stream_comes_in_pages_that_say_whether_there_is_more(http):
    await http.put("a", headers={"Content-Type": "application/octet-stream"})
    parts = [bytes([n]) * 400_000 for n in range(8)]
    for part in parts:
        await http.post("a", headers={"Content-Type": "application/octet-stream"}, content=part)
    offset, pages = "-1", []
    while True:
        page = await http.get("a", params={"offset": offset})
        assert len(page.content) < 2 << 20
        pages.append(page.content)
        offset = page.headers["Stream-Next-Offset"]
        if page.headers.get("Stream-Up-To-Date"):
            break
        assert "max-age=60" in page.headers["Cache-Control"]
    assert b"".join(pages) == b"".join(parts) and len(pages) > 2


# Readers that stay.


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


async def test_a_reader_whose_answer_ends_comes_back_and_misses_nothing(tmp_path):
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


async def test_a_request_that_waits_is_answered_when_something_comes_or_the_stream_goes(
    gateway, http
):
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


async def test_a_gateway_that_goes_down_ends_the_answers_of_events(tmp_path):
    async with serving() as gateway, visitor(gateway, *EVERYTHING) as http:
        await http.put("a", headers=TEXT)
        async with watching(http, "a") as events:
            await events.next()
            began_s = time.monotonic()
            await gateway.gateway.drain()
            assert await events.next() == ("end", None)
            assert time.monotonic() - began_s < 10
        assert (await http.get("a")).status_code == 503


async def test_a_time_to_live_counts_from_the_last_read_and_readers_that_stay_keep_it(http):
    await http.put("idle", headers=TEXT | {"Stream-TTL": "1"})
    await http.put("watched", headers=TEXT | {"Stream-TTL": "1"})
    async with watching(http, "watched") as events:
        await events.next()
        await asyncio.sleep(1.6)  # the time to live is whole seconds, and is what is tested
        assert (await http.head("idle")).status_code == 404
        assert (await http.head("watched")).status_code == 200
        await http.post("watched", headers=TEXT, content="x")
        assert await events.next() == ("data", "x")


async def test_what_is_kept_of_a_path_is_two_logs_and_nothing_after_it_is_swept(gateway, http):
    await http.put("a", headers=TEXT, content="x")
    config, data = await gateway.store.path_logs(None, 9)
    assert config == path_config("a")
    assert data == path_data("a", data.stream_id.removeprefix("$data-"))


async def test_who_waits_over_http_is_counted_by_address_and_subject_and_forgotten_again():
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
        await until(lambda: gateway.gateway._readers.is_empty)
