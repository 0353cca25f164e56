"""A connection's state machine, driven without a socket, a clock or a store."""

import json

from gateway import tokens
from gateway.model.limits import Limits
from gateway.model.log import RunState
from gateway.model.records import Position
from gateway.model.runs import Run
from gateway.protocol.commands import (
    Open,
    Send,
)
from gateway.protocol.connection import Connection

SECRET = "a secret of the tests that is long enough"
NOW_S = 1_795_352_174.0
LIMITS = Limits(frame_bytes=5000, data_frame_bytes=9000, record_bytes=1000, subscriptions=3)
AT = Position("019aab37c2f1a3d4", 3)


def token(*scopes, ttl_s=60):
    return tokens.mint(scopes, ttl_s=ttl_s, secret_key=SECRET, now_s=NOW_S)


def run_state(id="run_a", tags=(), batch_id=None):
    run = Run(id, "test", "queued", id, "2026-11-22T12:56:14.123Z", list(tags), batch_id=batch_id)
    return RunState(run, AT)


def verify(text, now_s):
    return tokens.verify(text, secret_key=SECRET, now_s=now_s)


def new():
    return Connection("c_1", verify, LIMITS, NOW_S, ping_s=20)


def ready(*scopes, ttl_s=60):
    connection = new()
    hello = {"type": "hello", "protocol": 1}
    if scopes:
        hello["token"] = token(*scopes, ttl_s=ttl_s)
    assert frames(say(connection, **hello))[0]["type"] == "welcome"
    return connection


def say(connection, at_s=NOW_S, **frame):
    return receive(connection, json.dumps(frame), at_s)


def receive(connection, text, at_s):
    return connection.receive(text, at_s, at_s)


def tick(connection, at_s):
    return connection.tick(at_s, at_s)


def deadline_s(connection):
    return NOW_S + connection.due_in_s(NOW_S, NOW_S)


def subscribe(connection, id=1, run="run_a", stream="s", **more):
    named = {} if stream is None else {"stream": stream}
    return say(connection, type="subscribe", id=id, run=run, **named, **more)


def live(connection, id=1, stream="s", state=None, **more):
    """Subscribe and open."""
    (opening,) = subscribe(connection, id, stream=stream, **more)
    assert isinstance(opening, Open)
    (answer,) = frames(connection.opened(id, AT, state or run_state()))
    assert answer["type"] == "subscribed"
    assert connection.is_live(id)


def frames(commands):
    return [json.loads(command.text) for command in commands if isinstance(command, Send)]


def error_of(commands):
    (frame,) = frames(commands)
    assert frame["type"] == "error"
    return frame["code"], frame.get("id")


def types_of(commands):
    return [frame["type"] for frame in frames(commands)]


def others(commands):
    return [command for command in commands if not isinstance(command, Send)]


REQUESTS = [
    {"type": "append", "id": 1, "run": "run_a", "stream": "s", "records": [1]},
    {"type": "head", "id": 1, "run": "run_a", "stream": "s"},
    {"type": "read", "id": 1, "run": "run_a", "stream": "s"},
    {"type": "delete", "id": 1, "run": "run_a", "stream": "s"},
    {"type": "run_create", "id": 1, "value": {"id": "run_a"}},
    {"type": "run_patch", "id": 1, "run": "run_a", "patch": {}},
    {"type": "run_get", "id": 1, "run": "run_a"},
    {"type": "run_delete", "id": 1, "run": "run_a"},
    {"type": "run_list", "id": 1},
]
FRAMES = [
    {"type": "subscribe", "id": 1, "run": "run_a"},
    {"type": "unsubscribe", "id": 1},
    {"type": "token", "token": "x"},
    {"type": "ping"},
    *REQUESTS,
]
by_type = {"ids": lambda frame: frame["type"]}
