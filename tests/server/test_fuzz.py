"""Hostile input at each edge: whatever comes, an answer of the protocol and never a fault.

Frames are made from the shared cases of the protocol and then damaged, so that most of them come
far before they are refused.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import struct
from importlib.metadata import version
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core import NotSet
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from gateway import protocol, task
from gateway.errors import RealtimeError
from gateway.sdk import task_registry
from gateway.server.api.openapi import document
from gateway.server.app import create_app
from gateway.settings import Settings
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    Client,
    new_run,
    serving,
    token_for,
    worker_token,
)
from tests.support.mutations import RUN, damaged_text

KNOWN_CODES = {1000, 1001, 1009, 4400, 4401, 4406, 4408, 4429, 4503, 4508}


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 2**62))
def test_decode_gives_a_frame_or_an_error_of_the_protocol(seed):
    text = damaged_text(seed)
    try:
        frame = protocol.decode(text)
        if isinstance(frame, protocol.Subscribe):
            protocol.start_of(frame)
            assert not isinstance(frame.runs, protocol.RunSetFields) or frame.runs.sets
    except RealtimeError as error:
        assert error.http_status < 500
        assert len(error.message) < 2000, "an error repeats what it was sent"
    protocol.id_of(text)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.text(max_size=300), st.binary(max_size=300)))
def test_decode_never_fails_on_arbitrary_input(text):
    try:
        protocol.decode(text)
    except RealtimeError as error:
        assert error.http_status < 500


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**62))
def test_client_survives_arbitrary_gateway_frames(seed):
    try:
        protocol.decode_gateway(damaged_text(seed))
    except RealtimeError as error:
        assert error.code == "malformed_frame"


SESSIONS = 40
FRAMES = 60


async def test_a_socket_survives_or_closes_with_a_code_of_the_protocol(caplog):
    async with serving() as gateway:
        await gateway.store.create_run(new_run(id=RUN, tags=["a"]))
        for seed in range(SESSIONS):
            closed = await _hostile_session(gateway, seed)
            assert closed is None or closed in KNOWN_CODES, f"session {seed}: {closed}"
        async with gateway.client(token=worker_token()) as client:
            assert await client.ask(type="ping") == {"type": "pong"}
        assert not gateway.gateway._sessions or len(gateway.gateway._sessions) <= 1
    faults = [record for record in caplog.records if record.exc_info]
    assert not faults, caplog.text


async def _hostile_session(gateway, seed: int) -> int | None:
    chance = random.Random(seed)
    token = chance.choice([worker_token(), token_for(f"read:runs:{RUN}"), "bad"])
    async with connect(f"{gateway.url}/v1/ws", max_size=None, compression=None) as socket:
        client = Client(socket)
        answers = asyncio.create_task(_answers(client))
        try:
            if chance.random() < 0.9:
                await client.send(type="hello", protocol=1, token=token)
            for number in range(FRAMES):
                text = damaged_text(seed * FRAMES + number)
                if isinstance(text, str):
                    text = text.encode("utf-8", "replace").decode()
                await socket.send(text)
            await client.send(type="ping")
            async with asyncio.timeout(DEADLINE_S):
                await answers
        except WebSocketException:
            answers.cancel()
        return socket.close_code


async def _answers(client: Client) -> None:
    """Take frames until the pong that answers the last ping, or the close."""
    while True:
        try:
            frame = await client.receive()
        except WebSocketException:
            return
        assert frame.get("code") != "internal", frame
        if frame["type"] == "pong":
            return


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x80\x00\x00\x00\x00",  # empty
        b"\x81\x05hello",  # not masked
        b"\xf1\x80\x00\x00\x00\x00",  # reserved bits
        b"\x83\x80\x00\x00\x00\x00",  # no such opcode
        b"\x81\x82\x00\x00\x00\x00\xc3\x28",  # no UTF-8
        b"\x80\x80\x00\x00\x00\x00",  # goes on with nothing
        b"\x89\xfe\x00\xff\x00\x00\x00\x00" + b"x" * 255,  # a ping too long
        b"\x88\x81\x00\x00\x00\x00x",  # a close with half a code
        b"\x81\xff" + struct.pack("!Q", 2**62) + b"\x00" * 4,  # announces far too much
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_invalid_websocket_bytes_close_only_that_socket(data, caplog):
    async with serving() as gateway, gateway.client(token=worker_token()) as other:
        async with connect(f"{gateway.url}/v1/ws", compression=None) as socket:
            socket.transport.write(data)
            socket.transport.write(b"\x88\x80\x00\x00\x00\x00")
            async with asyncio.timeout(DEADLINE_S):
                await socket.wait_closed()
        assert await other.ask(type="ping") == {"type": "pong"}
    assert not [record for record in caplog.records if record.exc_info], caplog.text


async def test_hostile_sessions_cost_no_memory_for_good():
    async with serving() as gateway:
        await gateway.store.create_run(new_run(id=RUN, tags=["a"]))
        counts = []
        for round in range(4):
            for seed in range(10):
                await _hostile_session(gateway, seed)
            await gateway.store.delete_run(RUN)
            await gateway.store.create_run(new_run(id=RUN, tags=["a"]))
            async with asyncio.timeout(DEADLINE_S):
                while gateway.gateway._sessions:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            gc.collect()
            counts.append(len(gc.get_objects()))
            assert gateway.hub.live_streams == 0, round
        assert counts[3] - counts[1] < counts[1] * 0.02, counts


# ---- HTTP: the document is the contract ----

APP = create_app(Settings(store="memory:", secret_key=SECRET))
DOCUMENT = schemathesis.openapi.from_dict(document(version("realtime-streams")))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = {each.ok().label: each.ok() for each in DOCUMENT.get_all_operations()}


@pytest.mark.slow
@pytest.mark.parametrize("label", OPERATIONS)
def test_http_answers_as_its_document_says(label, monkeypatch):
    monkeypatch.setitem(task_registry._tasks, "fuzzed", task(id="fuzzed")(_count))
    with TestClient(APP, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {SECRET}"
        triggered = client.post("/v1/tasks/fuzzed/trigger", json={"payload": {"n": 1}})
        assert triggered.status_code == 201
        known = {"run": triggered.json()["id"], "task": "fuzzed"}

        @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=OPERATIONS[label].as_strategy(), is_known=st.booleans())
        def fuzz(case: Any, is_known: bool) -> None:
            names = (case.path_parameters or {}).keys()
            if is_known and names <= known.keys():  # else only 404 would ever be answered
                case.path_parameters = {name: known[name] for name in names}
            body = {} if isinstance(case.body, NotSet) else {"content": json.dumps(case.body)}
            answer = client.request(
                case.method,
                case.formatted_path,
                params=case.query,
                headers={"Content-Type": "application/json"} if body else {},
                **body,
            )
            assert answer.status_code < 500
            # A name that is no path of ours gets the framework's own 404, which is a text.
            checks = CHECKS[:2] if "/v1/stream/" in label else CHECKS
            case.validate_response(answer, checks=checks)

        fuzz()


async def _count(n: int = 0) -> int:
    return n
