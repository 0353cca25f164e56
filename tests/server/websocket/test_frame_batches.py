"""Frames that come together are one lot: each counts by itself, and nothing shows that they did."""

import asyncio
import json

import pytest
from websockets.frames import Frame, Opcode

from gateway.errors import StoreUnavailable
from gateway.model.limits import Limits
from gateway.model.records import StreamKey
from gateway.server.uvicorn.websocket_protocol import BUFFERED_BYTES, DirectWebSocketProtocol
from tests.support.gateways import new_run, serving, token_for, until, worker_token


@pytest.fixture(params=[DirectWebSocketProtocol, "websockets-sansio"], ids=["direct", "plain ASGI"])
async def gateway(request):
    async with serving(protocol=request.param) as gateway:
        yield gateway


def framed(frame, opcode=Opcode.TEXT):
    data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    return Frame(opcode, data).serialize(mask=True)


def send_together(client, *frames):
    """Send frames in one piece; bytes are sent as they are."""
    lot = (frame if isinstance(frame, bytes) else framed(frame) for frame in frames)
    client.socket.transport.write(b"".join(lot))


def append_of(run, id, *values, **more):
    values = list(values) or [id]
    return {"type": "append", "id": id, "run": run.id, "stream": "s", "records": values} | more


async def stored(gateway, run, stream="s"):
    page = await gateway.store.read(StreamKey(run.id, stream), None, 1 << 20)
    return [json.loads(record.data) for record in page.records]


async def test_batched_appends_complete_in_order(gateway, run, client):
    send_together(client, *(append_of(run, id) for id in range(500)))
    answers = [await client.receive() for _ in range(500)]
    assert [(each["type"], each["id"], each["offset"]) for each in answers] == [
        ("appended", id, id) for id in range(500)
    ]
    assert await stored(gateway, run) == list(range(500))


async def test_requests_in_one_batch_run_in_order(gateway, client):
    new = new_run()
    made = {"type": "run_create", "id": 0, "value": new.to_wire()}
    removed = {"type": "delete", "id": 3, "run": new.id, "stream": "s"}
    send_together(client, made, append_of(new, 1), append_of(new, 2), removed, append_of(new, 4))
    answers = {answer["id"]: answer for answer in [await client.receive() for _ in range(5)]}
    assert [answers[id]["type"] for id in range(4)] == ["result", "appended", "appended", "result"]
    assert answers[4]["code"] == "stream_ended"


async def test_refused_frame_in_batch_does_not_affect_others(gateway, run, client):
    refused = [
        (framed(b"{no JSON"), None, "malformed_frame"),
        (framed(append_of(run, 11), Opcode.BINARY), 11, "malformed_frame"),
        (framed({"type": "dance", "id": 12}), 12, "unknown_frame"),
        (framed(append_of(run, 13, end="deleted")), 13, "malformed_frame"),
        (framed({**append_of(run, 14), "run": "run_?"}), 14, "invalid_id"),
        (framed({**append_of(run, 15), "run": "run_nowhere"}), 15, "run_not_found"),
        (framed({**append_of(run, 16), "records": []}), 16, "invalid_value"),
    ]
    lot = [append_of(run, 1)]
    pending = {"type": "head", "id": 90, "run": run.id, "stream": "s"}
    refused.append((framed(pending) + framed(append_of(run, 90)), None, "duplicate_id"))
    for id, (frame, _, _) in enumerate(refused, 100):
        lot += [frame, append_of(run, id)]
    send_together(client, *lot, append_of(run, 2))
    answers = [await client.receive() for _ in range(2 * len(refused) + 3)]
    done = [answer["id"] for answer in answers if answer["type"] == "appended"]
    assert done == [1, *range(100, 100 + len(refused)), 2]
    assert await stored(gateway, run) == done
    errors = [(each.get("id"), each["code"]) for each in answers if each["type"] == "error"]
    assert sorted(errors, key=str) == sorted(((id, code) for _, id, code in refused), key=str)


async def test_token_replaced_within_batch_applies_to_later_frames(gateway, run):
    scopes = [f"write:streams:{run.id}/{stream}" for stream in ("s", "t")]
    both, one = token_for(*scopes), token_for(scopes[1])
    async with gateway.client(token=both) as client:
        replaced = {"type": "token", "token": one}
        other = {**append_of(run, 3), "stream": "t"}
        send_together(client, append_of(run, 1), replaced, append_of(run, 2), other)
        answers = [await client.receive() for _ in range(4)]
    kinds = sorted((each["type"], each.get("id", 0)) for each in answers)
    assert kinds == [("appended", 1), ("appended", 3), ("error", 2), ("token_accepted", 0)]
    assert await stored(gateway, run) == [1]


async def test_request_limit_applies_within_batch(run, gateway, client, monkeypatch):
    (session,) = gateway.gateway._sessions
    most = 0
    begin = session._backpressure.begin

    def counted(cost):
        nonlocal most
        begin(cost)
        most = max(most, session._backpressure.requests)

    monkeypatch.setattr(session._backpressure, "begin", counted)
    reads = ({"type": "head", "id": id, "run": run.id, "stream": "s"} for id in range(300))
    send_together(client, *reads, *(append_of(run, id) for id in range(300, 900)))
    ids = {(await client.receive())["id"] for _ in range(900)}
    assert ids == set(range(900))
    assert most <= Limits().requests


async def test_batch_stops_at_frame_that_closes_connection(gateway, run):
    async with gateway.client(greet=False) as client:
        hello = {"type": "hello", "protocol": 99, "token": worker_token()}
        send_together(client, hello, append_of(run, 1), append_of(run, 2))
        assert (await client.receive())["code"] == "protocol_version"
        assert await client.close_code() == 4406
    assert await stored(gateway, run) == []


async def test_all_before_the_clients_goodbye_is_done(gateway, run, client):
    close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
    send_together(client, *(append_of(run, id) for id in range(50)), close)
    assert await client.close_code() == 1000
    await until(lambda: not gateway.gateway._sessions)
    key = StreamKey(run.id, "s")
    await gateway.store.append(key, [b'"last"'])
    assert await stored(gateway, run) == [*range(50), "last"]


async def test_a_message_in_pieces_between_whole_ones_is_in_its_place(gateway, run, client):
    text = json.dumps(append_of(run, 2)).encode()
    pieces = [
        Frame(Opcode.TEXT, text[:9], fin=False).serialize(mask=True),
        Frame(Opcode.PING, b"x").serialize(mask=True),
        Frame(Opcode.CONT, text[9:30], fin=False).serialize(mask=True),
        Frame(Opcode.CONT, text[30:]).serialize(mask=True),
    ]
    send_together(client, append_of(run, 1), *pieces, append_of(run, 3))
    assert [(await client.receive())["id"] for _ in range(3)] == [1, 2, 3]
    assert await stored(gateway, run) == [1, 2, 3]


async def test_batch_may_be_split_at_any_byte(gateway, run, client):
    lot = b"".join(framed(append_of(run, id, "é" * (id * 7 % 200))) for id in range(60))
    for start in range(0, len(lot), 97):
        client.socket.transport.write(lot[start : start + 97])
        await asyncio.sleep(0)
    assert [(await client.receive())["id"] for _ in range(60)] == list(range(60))
    assert await stored(gateway, run) == ["é" * (id * 7 % 200) for id in range(60)]


async def test_store_failure_is_reported_for_each_append(gateway, run, client, monkeypatch):
    def full(key, records, done, **_):
        done(StoreUnavailable("the disk is full"))

    monkeypatch.setattr(gateway.store, "begin_append", full)
    send_together(client, *(append_of(run, id) for id in range(20)))
    answers = [await client.receive() for _ in range(20)]
    assert [(each["id"], each["code"]) for each in answers] == [
        (id, "store_unavailable") for id in range(20)
    ]
    assert gateway.gateway.counters.store_errors["append"] == 20


async def test_a_store_that_breaks_is_an_internal_error(gateway, run, client, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(gateway.store, "begin_append", broken)
    error = await client.ask(**append_of(run, 1))
    assert (error["id"], error["code"]) == (1, "internal")
    assert "request 1 failed" in caplog.text
    monkeypatch.undo()
    assert (await client.ask(**append_of(run, 1)))["type"] == "appended"


async def test_reading_pauses_when_request_buffer_is_full(run, gateway, client):
    """What a client sends while its requests are not done stays in its own hands."""
    (session,) = gateway.gateway._sessions
    waiting = []

    def held(key, records, done, **_):
        waiting.append(done)

    append, gateway.store.begin_append = gateway.store.begin_append, held
    big = "x" * 10_000
    lot = b"".join(framed(append_of(run, id, big)) for id in range(2000))  # 20 MB
    client.socket.transport.write(lot)
    await until(lambda: session._is_read_paused)
    await asyncio.sleep(0.05)
    assert len(waiting) == Limits().requests
    (protocol,) = gateway.server.server_state.connections
    if isinstance(protocol, DirectWebSocketProtocol):
        assert protocol.read_paused
        assert protocol._buffered_bytes <= BUFFERED_BYTES + (512 << 10)  # and what one read brings
    gateway.store.begin_append = append
    for done in waiting:
        done(StoreUnavailable("not now"))
    answers = [await client.receive() for _ in range(2000)]
    assert sum(each["type"] == "appended" for each in answers) == 2000 - len(waiting)
