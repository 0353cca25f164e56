"""The protocol over plain HTTP: `POST /v1/events`, against a real server."""

import asyncio
import json

import pytest

from gateway.model.limits import Limits
from gateway.model.records import StreamKey
from gateway.server.websocket import http_fallback
from tests.support.gateways import new_run, serving, token_for, until
from tests.support.http.frames import HELLO, Answer, asking, client_of, subscribe


@pytest.fixture
async def gateway():
    async with serving(origins=("https://pages.test",)) as running:
        yield running


async def test_http_frames_match_websocket_frames(gateway):
    run = await gateway.store.create_run(new_run())
    key = StreamKey(run.id, "progress")
    async with asking(gateway, HELLO, subscribe(run, stream="progress")) as answer:
        headers = answer.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert [(await answer.frame())["type"] for _ in range(2)] == ["welcome", "subscribed"]
        await gateway.store.append(key, [b'{"n": 1}'])
        records = await answer.frame()
        assert [record["data"] for record in records["records"]] == [{"n": 1}]
    # What came by HTTP is a position like any other: a WebSocket goes on from it.
    await gateway.store.append(key, [b'{"n": 2}'])
    async with gateway.client() as client:
        start = {"position": records["position"]}
        await client.send(**subscribe(run, stream="progress", start=start))
        assert (await client.receive())["type"] == "subscribed"
        assert [r["data"] for r in (await client.receive())["records"]] == [{"n": 2}]


async def test_record_with_line_breaks_arrives_intact(gateway):
    run = await gateway.store.create_run(new_run())
    value = b'{"a":\r\n 1,\r"b":\n\n [2]}'
    await gateway.store.append(StreamKey(run.id, "progress"), [value])
    async with asking(gateway, HELLO, subscribe(run, stream="progress")) as answer:
        await answer.frame(), await answer.frame()
        assert (await answer.frame())["records"][0]["data"] == {"a": 1, "b": [2]}


async def test_refusal_gives_reason_and_ends_response(gateway):
    async with asking(gateway, {"type": "hello", "protocol": 99}) as answer:
        assert (await answer.frame())["code"] == "protocol_version"
        kind, data = await answer.event()
        assert (kind, json.loads(data)["code"]) == ("close", 4406)
        with pytest.raises(EOFError):
            await answer.event()


async def test_a_page_of_another_origin_is_refused_as_by_websocket(gateway):
    async with asking(gateway, HELLO, headers={"Origin": "https://evil.test"}) as answer:
        assert (await answer.frame())["code"] == "origin_forbidden"
        assert "access-control-allow-origin" not in answer.response.headers
    async with asking(gateway, HELLO, headers={"Origin": "https://pages.test"}) as answer:
        assert (await answer.frame())["type"] == "welcome"
        allowed = answer.response.headers["access-control-allow-origin"]
        assert allowed == "https://pages.test"


async def test_a_token_in_the_url_is_refused(gateway):
    async with (
        client_of(gateway) as http,
        http.stream("POST", "/v1/events?token=x", content=json.dumps(HELLO)) as response,
    ):
        assert (await Answer(response).frame())["code"] == "token_in_url"


async def test_an_append_is_answered(gateway):
    run = await gateway.store.create_run(new_run())
    append = {"type": "append", "id": 7, "run": run.id, "stream": "notes", "records": [1, 2]}
    append["token"] = token_for(f"write:streams:{run.id}/notes")
    async with asking(gateway, HELLO, append) as answer:
        await answer.frame()
        answered = await answer.frame()
        assert (answered["type"], answered["id"], answered["offset"]) == ("appended", 7, 0)


async def test_a_line_over_the_limit_is_refused_with_both_numbers(gateway):
    limits = gateway.gateway.settings.limits
    frames = (HELLO, '{"type":"append","x":"' + "x" * (2 * limits.data_frame_bytes))
    async with asking(gateway, *frames) as answer:
        await answer.frame()
        error = await answer.frame()
        assert error["code"] == "frame_too_large"
        assert str(limits.frame_bytes) in error["message"]  # nothing says that it is an append


async def test_request_without_frames_closes_immediately(gateway):
    for body in ("", "\n \n"):
        async with asking(gateway, body) as answer:
            kind, data = await answer.event()
            assert (kind, json.loads(data)["code"]) == ("close", 4400)


async def test_idle_response_gets_keepalive(gateway, monkeypatch):
    monkeypatch.setattr(http_fallback, "ALIVE_S", 0.02)
    async with asking(gateway, HELLO) as answer:
        await answer.frame()
        assert [json.loads((await answer.event())[1])["type"] for _ in range(3)] == ["pong"] * 3


async def test_response_ends_after_its_limit_with_reconnect():
    async with serving(limits=Limits(events_s=0.3)) as gateway, asking(gateway, HELLO) as answer:
        await answer.frame()
        kind, data = await answer.event()
        while kind == "message":
            kind, data = await answer.event()
        assert (kind, json.loads(data)["code"]) == ("close", http_fallback.GOING_AWAY)


async def test_a_client_that_leaves_frees_all_that_it_held(gateway):
    run = await gateway.store.create_run(new_run())
    async with asking(gateway, HELLO, subscribe(run, stream="progress")) as answer:
        await answer.frame(), await answer.frame()
        assert (len(gateway.gateway._sessions), gateway.hub.live_streams) == (1, 1)
    await until(lambda: not gateway.gateway._sessions and gateway.hub.live_streams == 0)
    await until(lambda: not [t for t in asyncio.all_tasks() if t.get_name() == "reader of frames"])


async def test_a_revoked_token_ends_a_subscription_that_came_by_http(gateway):
    from gateway import tokens

    run = await gateway.store.create_run(new_run())
    frame = subscribe(run, stream="progress")
    async with asking(gateway, HELLO, frame) as answer:
        await answer.frame(), await answer.frame()
        await tokens.revoke(token_id=tokens.id_of(frame["token"]))
        assert (await answer.frame())["code"] == "token_revoked"


async def test_shutdown_sends_close_event():
    async with serving(limits=Limits(drain_s=2)) as gateway, asking(gateway, HELLO) as answer:
        await answer.frame()
        draining = asyncio.create_task(gateway.gateway.drain())
        assert (await answer.frame())["code"] == "shutting_down"
        kind, data = await answer.event()
        assert (kind, json.loads(data)["code"]) == ("close", 4503)
        await draining


async def test_response_ends_after_time_requested_by_client(gateway):
    run = await gateway.store.create_run(new_run())
    await gateway.store.append(StreamKey(run.id, "progress"), [b"1"])
    frames = (HELLO, subscribe(run, stream="progress"))
    async with client_of(gateway) as http:
        body = "\n".join(map(json.dumps, frames))
        answer = await http.post("/v1/events?wait_s=0.05", content=body)  # ends by itself
    types = [
        json.loads(line[6:]).get("type") for line in answer.text.split("\n") if line[:5] == "data:"
    ]
    assert types == ["welcome", "subscribed", "records", None]
    assert 'event: close\ndata: {"code": 1001' in answer.text
    assert answer.headers["timing-allow-origin"] == "*"


@pytest.mark.parametrize("wait", ["", "x", "-1", "nan", "1e3", "1" * 400, "٣", "0.5s"])
async def test_a_time_that_is_no_number_of_seconds_is_refused(gateway, wait):
    async with client_of(gateway) as http:
        answer = await http.post("/v1/events", params={"wait_s": wait}, content=json.dumps(HELLO))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_value")
    assert "wait_s is" in answer.json()["message"]
