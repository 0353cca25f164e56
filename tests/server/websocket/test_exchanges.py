"""The worked exchanges of the protocol, and rejected frames."""

import json

import pytest
from websockets.exceptions import ConnectionClosed

from gateway.model.limits import Limits
from gateway.model.records import StreamKey, Writer
from tests.support.gateways import (
    new_run,
    serving,
    token_for,
    worker_token,
)
from tests.support.protocol_cases import CASES
from tests.support.subscriptions import append, beside, no_more, subscribed

# The worked exchanges.


@pytest.mark.parametrize("case", CASES["exchanges"], ids=lambda case: case["name"])
async def test_an_exchange_of_the_protocol(gateway, case):
    # The cases say run_a where a gateway would say something unguessable.
    for id in case["runs"]:
        await gateway.store.create_run(new_run(id=id))
    scopes = case.get("scopes") or [f"read:runs:{id}" for id in case["runs"]]
    captured = {
        "$token": token_for(*scopes),
        "$ending": token_for(*scopes, ttl_s=100, age_s=90),
    }
    client = socket_ = None
    for step in case["steps"]:
        ((kind, value),) = step.items()
        match kind:
            case "client":
                if client is None:
                    socket_ = gateway.client(greet=False)
                    client = await socket_.__aenter__()
                await client.send(**fill(value, captured))
            case "server":
                match_frame(await client.receive(), value, captured)
            case "append":
                key = StreamKey(value["run"], value["stream"])
                records = [json.dumps(record).encode() for record in value["records"]]
                await gateway.store.append(key, records, source=value["run"])
            case "create":
                await gateway.store.create_run(new_run(**value))
            case "patch":
                await gateway.store.patch_run(value["run"], value["patch"])
            case "end":
                await end_run(gateway.store, value["run"], value["reason"])
            case "drop":
                client.socket.transport.abort()
                await socket_.__aexit__(None, None, None)
                client = None
            case _:
                pytest.fail(f"no such step: {kind}")
    if client is not None:
        await no_more(client)
        await socket_.__aexit__(None, None, None)


async def end_run(store, run_id, reason):
    queued = (await store.get_run(run_id)).run.status == "queued"
    if queued and reason == "completed":  # only what executes can complete
        await store.patch_run(run_id, {"status": "executing"})
    await store.patch_run(run_id, {"status": reason})


def fill(value, captured):
    if isinstance(value, dict):
        return {name: fill(inner, captured) for name, inner in value.items()}
    return captured.get(value, value) if isinstance(value, str) else value


def match_frame(actual, expected, captured, where="frame"):
    if expected == "*":
        return
    if isinstance(expected, str) and expected.startswith("$"):
        assert captured.setdefault(expected, actual) == actual, where
    elif isinstance(expected, dict):
        assert isinstance(actual, dict), where
        assert set(actual) == set(expected), (where, actual)
        for name, inner in expected.items():
            match_frame(actual[name], inner, captured, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), (where, actual)
        for i, inner in enumerate(expected):
            match_frame(actual[i], inner, captured, f"{where}[{i}]")
    else:
        assert actual == expected, where


# What is refused.


@pytest.mark.parametrize(
    ("frame", "code", "retryable"),
    [
        ("{", "malformed_frame", False),
        ({"type": "nonsense", "id": 1}, "unknown_frame", False),
        ({"type": "ping", "x": "x" * 5000}, "frame_too_large", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "token": "bad"}, "invalid_token", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "token": "EXPIRED"}, "token_expired", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "token": "OTHER"}, "forbidden", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "stream": "a b"}, "invalid_id", False),
        (
            {"type": "subscribe", "id": 1, "run": "RUN", "start": {"position": "7"}},
            "invalid_position",
            False,
        ),
        (
            {"type": "append", "id": 1, "run": "RUN", "stream": "s", "records": []},
            "invalid_value",
            False,
        ),
        (
            {"type": "append", "id": 1, "run": "RUN", "stream": "s", "records": ["x" * 1000]},
            "record_too_large",
            False,
        ),
        ({"type": "unsubscribe", "id": 1}, "unknown_subscription", False),
        ({"type": "subscribe", "id": 1, "run": "run_nowhere"}, "run_not_found", False),
        ({"type": "run_get", "id": 1, "run": "run_nowhere"}, "run_not_found", False),
        ({"type": "run_create", "id": 1, "value": "SAME"}, "run_exists", False),
        ({"type": "run_create", "id": 1, "value": {"id": "run_x"}}, "invalid_value", False),
        (
            {"type": "run_patch", "id": 1, "run": "RUN", "patch": {"status": "completed"}},
            "illegal_transition",
            False,
        ),
        (
            {"type": "append", "id": 1, "run": "RUN", "stream": "over", "records": [1]},
            "stream_ended",
            False,
        ),
        (
            {
                "type": "append",
                "id": 1,
                "run": "RUN",
                "stream": "s",
                "records": [1],
                "writer": {"id": "w", "epoch": 0, "sequence": 5},
            },
            "writer_gap",
            False,
        ),
        (
            {
                "type": "append",
                "id": 1,
                "run": "RUN",
                "stream": "fenced",
                "records": [1],
                "writer": {"id": "w", "epoch": 0, "sequence": 0},
            },
            "writer_fenced",
            False,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) > 2 else None,
)
async def test_refused_frame_has_code_and_connection_continues(frame, code, retryable):
    async with serving(
        limits=Limits(frame_bytes=4000, data_frame_bytes=4000, record_bytes=500)
    ) as gateway:
        run = await gateway.store.create_run(new_run())
        await append(gateway, run, 1, stream="over", end="completed")
        await append(gateway, run, 1, stream="fenced", writer=Writer("w", 1, 0))
        async with beside(gateway, run) as client:
            if isinstance(frame, str):
                await client.socket.send(frame)
            else:
                known = {
                    "RUN": run.id,
                    "SAME": run.to_wire(),
                    "EXPIRED": token_for("read:runs:*", age_s=1000),
                    "OTHER": token_for("read:runs:run_other"),
                }
                await client.send(
                    **{
                        name: known.get(value, value) if isinstance(value, str) else value
                        for name, value in frame.items()
                    }
                )
            error = await client.receive()
            assert (error["type"], error["code"]) == ("error", code)
            assert error["retryable"] == retryable
            if code not in ("malformed_frame", "frame_too_large"):
                assert error["id"] == 1
            if code == "record_too_large":
                assert "1002 bytes; the limit is 500" in error["message"]
            if code == "frame_too_large":
                assert "the limit is 4000" in error["message"]


async def test_binary_message_is_refused_and_connection_continues(gateway, run):
    async with beside(gateway, run) as client:
        await client.socket.send(b'{"type":"ping"}')
        assert (await client.receive())["code"] == "malformed_frame"


async def test_too_many_subscriptions_and_an_id_in_use_are_refused(run, gateway):
    limit = gateway.gateway.settings.limits.subscriptions
    async with beside(gateway, run) as client:
        for id in range(limit - 1):
            await subscribed(client, run, id)
        error = await client.ask(type="subscribe", id=limit, run=run.id)
        assert (error["code"], error["id"]) == ("too_many_subscriptions", limit)
        assert str(limit) in error["message"]
        error = await client.ask(type="subscribe", id=3, run=run.id)
        assert error["code"] == "duplicate_id"
        assert "id" not in error
        for id in range(limit - 1):
            assert (await client.ask(type="unsubscribe", id=id))["type"] == "unsubscribed"


@pytest.mark.parametrize(
    ("first", "code", "close"),
    [
        ({"type": "ping"}, "hello_expected", 4400),
        ({"type": "hello", "protocol": 9}, "protocol_version", 4406),
        ({"type": "hello", "protocol": 1, "token": "x"}, "invalid_token", 4401),
        ({"type": "hello", "protocol": 1, "owner": "worker_1"}, "forbidden", 4401),
    ],
)
async def test_bad_first_frame_gets_error_then_close(gateway, first, code, close):
    async with gateway.client(greet=False) as client:
        assert (await client.ask(**first))["code"] == code
        assert await client.close_code() == close


async def test_closes_connection_after_hello_timeout():
    async with (
        serving(limits=Limits(hello_s=0.05)) as gateway,
        gateway.client(greet=False) as client,
    ):
        assert (await client.receive())["code"] == "hello_timeout"
        assert await client.close_code() == 4408


async def test_closes_connection_after_ping_timeout(gateway, run, monkeypatch):
    monkeypatch.setattr("gateway.protocol.timeouts.SILENT_AFTER_PINGS", 0.01)  # of 20 s
    async with gateway.client(token=worker_token()) as client:
        await client.ask(type="ping")
        assert (await client.receive())["code"] == "silent"
        assert await client.close_code() == 4508


async def test_a_message_beyond_all_bounds_does_not_hurt_the_gateway(gateway, run):
    async with gateway.client(token=worker_token()) as client:
        with pytest.raises(ConnectionClosed):
            await client.socket.send("x" * (20 << 20))
            await client.socket.recv()
    async with gateway.client(token=worker_token()) as client:
        await subscribed(client, run)
