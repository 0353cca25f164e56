"""Streams over HTTP, on a real server: who may do what, runs' streams, and what the published
conformance tests (`tests/e2e/conformance`) do not look at."""

import asyncio
import json

import httpx

from gateway.model.records import Position
from tests.support.gateways import token_for
from tests.support.http.streams import JSON, TEXT, watching

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


async def test_http_read_resumes_at_websocket_position(gateway, http, key):
    await gateway.store.append(key, [b"1", b"2"])
    async with gateway.client(token=token_for("read:runs:*")) as client:
        await client.send(type="subscribe", id=1, run=key.run_id, stream=key.stream_id)
        frames = [await client.receive() for _ in range(2)]
        position = frames[-1]["position"]
    await gateway.store.append(key, [b"3"])
    assert (await http.get(str(key), params={"offset": position})).json() == [3]


async def test_post_to_run_stream_is_validated_and_reaches_followers(gateway, http, key):
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


async def test_run_stream_always_exists_and_rejects_own_ttl(gateway, http, key):
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


async def test_recreated_stream_rejects_offsets_of_the_previous_one(http):
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


async def test_concurrent_creates_make_one_stream(gateway, http):
    for i in range(10):
        answers = await asyncio.gather(
            *(http.put(f"a{i}", headers=TEXT, content=f"{n}") for n in range(6))
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
        text = (await http.get(f"a{i}")).text
        assert text in {str(n) for n in range(6)}, "one body, whole and once"
        await http.post(f"a{i}", headers=TEXT, content="+")
        assert (await http.get(f"a{i}")).text == text + "+"


async def test_concurrent_conflicting_creates_have_one_winner(http):
    answers = await asyncio.gather(
        *(http.put("a", headers={"Content-Type": f"text/x{n}"}) for n in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5


async def test_concurrent_appends_are_stored_once_and_none_after_close(http):
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


async def test_concurrent_delete_create_append_never_mixes_streams(http):
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


async def test_concurrent_forks_and_deletes_leave_no_reference(gateway, http):
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


async def test_fork_is_rejected_above_the_limit(http, monkeypatch):
    monkeypatch.setattr("gateway.server.durable_streams.path_streams.MAX_FORKS", 2)
    await http.put("a", headers=TEXT)
    fork = {"Stream-Forked-From": "/v1/stream/a"}
    made = [(await http.put(f"b{n}", headers=fork)).status_code for n in range(3)]
    assert made == [201, 201, 409]
    await http.delete("b0")
    assert (await http.put("b3", headers=fork)).status_code == 201


async def test_large_stream_is_paginated_with_up_to_date_marker(http):
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
