"""The state machine of a connection, without a socket, a clock or a store."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import tokens
from gateway.errors import Internal, RunNotFound, ShuttingDown, TooManyConnections
from gateway.model.limits import Limits
from gateway.model.log import RunState, SetState
from gateway.model.records import Position, RunSet, StreamKey
from gateway.model.runs import Run
from gateway.protocol import FromLast, Pong, encode
from gateway.protocol.commands import (
    Close,
    ExcludeFields,
    Execute,
    Open,
    OpenSet,
    RegisterOwner,
    Send,
    Stop,
)
from gateway.protocol.connection import Connection

SECRET = "a secret of the tests that is long enough"
NOW_S = 1_795_352_174.0
LIMITS = Limits(frame_bytes=5000, data_frame_bytes=9000, record_bytes=1000, subscriptions=3)
AT = Position("019aab37c2f1a3d4", 3)
RUN_A = StreamKey("run_a", "$run")


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


# The first frame.


def test_hello_is_welcomed_with_what_the_client_must_know():
    (frame,) = frames(say(new(), type="hello", protocol=1))
    assert frame == {
        "type": "welcome",
        "protocol": 1,
        "connection": "c_1",
        "ping_ms": 20000,
        "limits": {
            "frame_bytes": 5000,
            "data_frame_bytes": 9000,
            "record_bytes": 1000,
            "subscriptions": 3,
        },
    }


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


@pytest.mark.parametrize("frame", FRAMES, **by_type)
def test_any_other_first_frame_closes(frame):
    connection = new()
    commands = say(connection, **frame)
    assert error_of(commands) == ("hello_expected", None)
    assert others(commands) == [Close(4400, "hello_expected")]
    assert connection.state == "closed"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"type":"hello"}', '{"type":"x"}', b"{}", "x" * 6000]
)
def test_a_first_frame_that_cannot_be_read_closes(text):
    commands = receive(new(), text, NOW_S)
    assert error_of(commands) == ("hello_expected", None)
    assert others(commands) == [Close(4400, "hello_expected")]


@pytest.mark.parametrize("version", [0, 2, -1, 2**60])
def test_another_version_closes(version):
    commands = say(new(), type="hello", protocol=version)
    assert error_of(commands) == ("protocol_version", None)
    assert others(commands) == [Close(4406, "protocol_version")]


@pytest.mark.parametrize(
    ("bad", "code"),
    [("nonsense", "invalid_token"), ("", "invalid_token"), ("expired", "token_expired")],
)
def test_a_bad_token_in_hello_closes(bad, code):
    at_s = NOW_S
    if bad == "expired":
        bad, at_s = token("read:runs:*", ttl_s=1), NOW_S + 2
    commands = say(new(), at_s, type="hello", protocol=1, token=bad)
    assert error_of(commands) == (code, None)
    assert others(commands) == [Close(4401, code)]


def test_a_worker_names_itself_with_a_token_that_may_change_every_run():
    commands = say(new(), type="hello", protocol=1, owner="worker_1", token=token("write:runs:*"))
    assert commands[0] == RegisterOwner("worker_1")
    assert frames(commands)[0]["type"] == "welcome"


@pytest.mark.parametrize("scopes", [(), ("read:runs:*",), ("write:runs:run_*",)])
def test_nobody_else_may_name_itself_a_worker(scopes):
    hello = {"token": token(*scopes)} if scopes else {}
    commands = say(new(), type="hello", protocol=1, owner="worker_1", **hello)
    assert error_of(commands) == ("forbidden", None)
    assert others(commands) == [Close(4401, "forbidden")]


def test_a_second_hello_is_refused_and_changes_nothing():
    connection = ready("read:runs:run_a")
    live(connection)
    commands = say(connection, type="hello", protocol=1, token=token("read:runs:run_b"))
    assert error_of(commands) == ("malformed_frame", None)
    assert connection.is_live(1)
    assert error_of(subscribe(connection, 2, run="run_b")) == ("forbidden", 2)


# Every frame in every state.


@pytest.mark.parametrize("frame", [{"type": "hello", "protocol": 1}, *FRAMES], **by_type)
def test_a_closed_connection_does_nothing(frame):
    connection = ready("read:runs:*", "write:runs:*")
    live(connection)
    assert connection.close(ShuttingDown("bye"))
    assert say(connection, **frame) == []
    assert tick(connection, NOW_S + 1e6) == []
    assert connection.close(ShuttingDown("bye")) == []
    assert connection.opened(1, AT, run_state()) == []
    assert not connection.is_live(1)


@pytest.mark.parametrize("frame", REQUESTS, **by_type)
def test_a_request_is_performed_and_answered(frame):
    connection = ready("read:runs:*", "write:runs:*")
    (command,) = say(connection, **frame)
    assert isinstance(command, Execute)
    assert command.request.id == 1
    assert connection.answered(1, Pong()) == [Send(encode(Pong()))]
    (again,) = say(connection, **frame)  # the id is free once more
    assert isinstance(again, Execute)
    assert error_of(connection.failed(1, RunNotFound("there is no run run_a"))) == (
        "run_not_found",
        1,
    )
    (again,) = say(connection, **frame)
    assert isinstance(again, Execute)


@pytest.mark.parametrize("frame", REQUESTS, **by_type)
@pytest.mark.parametrize("use", ["opening", "live", "request"])
def test_an_id_that_is_in_use_is_refused_and_never_named(frame, use):
    connection = ready("read:runs:*", "write:runs:*")
    if use == "request":
        say(connection, type="run_get", id=1, run="run_a")
    elif use == "opening":
        subscribe(connection)
    else:
        live(connection)
    assert error_of(say(connection, **frame)) == ("duplicate_id", None)
    assert error_of(subscribe(connection)) == ("duplicate_id", None)
    assert connection.is_live(1) == (use == "live")
    if use == "opening":
        assert frames(connection.opened(1, AT, run_state()))[0]["type"] == "subscribed"


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"subscribe","id":1}',
        '{"type":"nonsense","id":1}',
        '{"id":1}',
        '{"type":"append","id":1,"x":"' + "x" * 6000 + '"}',
        '{"type":"token","id":1,"token":"bad"}',
        '{"type":"subscribe","id":1,"run":"run_a","start":7}',
    ],
)
def test_no_error_ever_names_what_goes_on(text):
    connection = ready("read:runs:*")
    live(connection)
    (frame,) = frames(receive(connection, text, NOW_S))
    assert frame["type"] == "error"
    assert "id" not in frame
    assert connection.is_live(1)


@pytest.mark.parametrize(
    ("text", "code", "id"),
    [
        ("", "malformed_frame", None),
        ('{"type":"ping"', "malformed_frame", None),
        (b'{"type":"ping"}', "malformed_frame", None),
        ('{"type":"subscribe","id":9}', "malformed_frame", 9),
        ('{"type":"nonsense","id":9}', "unknown_frame", 9),
        ('{"type":"subscribe","id":9,"run":"run_a","stream":"$x"}', "invalid_id", 9),
        ('{"type":"subscribe","id":9,"run":"nobody"}', "invalid_id", 9),
        (
            '{"type":"subscribe","id":9,"run":"run_a","start":{"position":"x"}}',
            "invalid_position",
            9,
        ),
        ('{"type":"subscribe","id":9,"run":"run_a","start":"x"}', "malformed_frame", 9),
        ('{"type":"subscribe","id":9,"run":"run_a","token":"x"}', "invalid_token", 9),
        ('{"type":"subscribe","id":9,"run":"run_c"}', "forbidden", 9),
        ('{"type":"unsubscribe","id":9}', "unknown_subscription", 9),
        ('{"type":"token","id":9,"token":"x"}', "invalid_token", 9),
        ('{"type":"token","token":"x"}', "invalid_token", None),
        ('{"type":"append","id":9,"run":"run_a","stream":"s","records":[]}', "invalid_value", 9),
        ('{"type":"append","id":9,"run":"run_a","stream":"$run","records":[1]}', "invalid_id", 9),
        ('{"type":"append","id":9,"run":"run_c","stream":"s","records":[1]}', "forbidden", 9),
        ('{"type":"run_create","id":9,"value":{}}', "invalid_id", 9),
        ('{"type":"run_create","id":9,"value":{"id":["run_a"]}}', "invalid_id", 9),
        ('{"type":"run_list","id":9}', "forbidden", 9),
        ("x" * 5001, "frame_too_large", None),
    ],
)
def test_what_is_refused_leaves_the_rest_alone(text, code, id):
    connection = ready("read:runs:run_a", "write:runs:run_a")
    live(connection)
    assert error_of(receive(connection, text, NOW_S)) == (code, id)
    assert connection.state == "ready"
    assert connection.is_live(1)


def test_the_limits_are_stated_with_the_number_that_broke_them():
    connection = ready("read:runs:*", "write:runs:*")
    (frame,) = frames(receive(connection, "x" * 5001, NOW_S))
    assert "5001 bytes; the limit is 5000" in frame["message"]
    big = "x" * 999
    append = {"type": "append", "id": 1, "run": "run_a", "stream": "s"}
    (frame,) = frames(say(connection, **append, records=["ok", big]))
    assert (frame["code"], frame["message"]) == (
        "record_too_large",
        "record is 1001 bytes; the limit is 1000",
    )
    (command,) = say(connection, **append, records=["x" * 998])
    assert isinstance(command, Execute)
    for id in (2, 3, 4):
        subscribe(connection, id)
    (frame,) = frames(subscribe(connection, 5))
    assert (frame["code"], frame["id"]) == ("too_many_subscriptions", 5)
    assert "holds 3 subscriptions; the limit is 3" in frame["message"]
    say(connection, type="unsubscribe", id=2)
    (command,) = subscribe(connection, 5)
    assert isinstance(command, Open)


# A subscription's life.


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (None, "beginning"),
        ("beginning", "beginning"),
        ("latest", "latest"),
        ({"position": str(AT)}, AT),
        ({"last": 4}, FromLast(4)),
    ],
)
def test_a_subscription_is_opened_where_the_client_wants(start, expected):
    more = {} if start is None else {"start": start}
    commands = subscribe(ready("read:runs:*"), 7, throttle_ms=250, **more)
    assert commands == [Open(7, StreamKey("run_a", "s"), expected, 0.25, as_run=False)]


def test_without_a_stream_the_run_itself_is_watched():
    connection = ready("read:runs:*")
    assert subscribe(connection, 1, stream=None) == [Open(1, RUN_A, "beginning", 0.0, as_run=True)]
    (frame,) = frames(connection.opened(1, AT, run_state()))
    assert frame["run"]["id"] == "run_a"
    assert frame["position"] == str(AT)


def test_the_log_of_a_run_can_be_read_as_a_stream():
    connection = ready("read:runs:*")
    assert subscribe(connection, 1, stream="$run") == [
        Open(1, RUN_A, "beginning", 0.0, as_run=False)
    ]
    (frame,) = frames(connection.opened(1, AT, run_state()))
    assert "run" not in frame


def test_a_run_that_is_not_there_is_said_so_to_who_may_know():
    connection = ready("read:runs:run_a", "read:tags:x")
    subscribe(connection, 1)
    commands = connection.opened(1, AT, None)
    assert error_of(commands) == ("run_not_found", 1)
    assert others(commands) == [Stop(1)]
    assert not connection.is_live(1)


def test_who_may_not_read_a_run_does_not_learn_whether_it_is_there():
    told = []
    for state in (None, run_state("run_b"), run_state("run_b", tags=["y"])):
        connection = ready("read:tags:x")
        (opening,) = subscribe(connection, 1, run="run_b")
        assert isinstance(opening, Open)
        told.append(frames(connection.opened(1, AT, state)))
    assert told[0] == told[1] == told[2]
    assert told[0][0]["code"] == "forbidden"


@pytest.mark.parametrize(
    ("scope", "state", "allowed"),
    [
        ("read:tags:x", run_state(tags=["w", "x"]), True),
        ("read:tags:x", run_state(tags=["xx"]), False),
        ("read:tags:x*", run_state(tags=["xx"]), True),
        ("read:batches:batch_1", run_state(batch_id="batch_1"), True),
        ("read:batches:batch_1", run_state(batch_id="batch_12"), False),
        ("read:batches:batch_1", run_state(tags=["batch_1"]), False),
    ],
)
@pytest.mark.parametrize("stream", [None, "s"])
def test_a_scope_of_a_tag_is_decided_by_the_run(scope, state, allowed, stream):
    connection = ready(scope)
    (opening,) = subscribe(connection, 1, stream=stream)
    assert isinstance(opening, Open)
    (frame,) = frames(connection.opened(1, AT, state))
    assert (frame["type"] == "subscribed") == allowed
    assert connection.is_live(1) == allowed
    if not allowed:
        assert frame["code"] == "forbidden"


def test_a_subscription_may_bring_its_own_token():
    connection = ready()
    assert error_of(subscribe(connection, 1)) == ("invalid_token", 1)
    live(connection, 1, token=token("read:streams:run_a/s"))
    commands = subscribe(connection, 2, stream="t", token=token("read:streams:run_a/s"))
    assert error_of(commands) == ("forbidden", 2)


def test_an_unsubscribed_subscription_is_over():
    connection = ready("read:runs:*")
    live(connection)
    commands = say(connection, type="unsubscribe", id=1)
    assert commands == [Stop(1), Send('{"type":"unsubscribed","id":1}')]
    assert not connection.is_live(1)
    assert error_of(say(connection, type="unsubscribe", id=1)) == ("unknown_subscription", 1)


def test_one_that_is_unsubscribed_while_it_opens_never_lives():
    connection = ready("read:runs:*")
    subscribe(connection)
    say(connection, type="unsubscribe", id=1)
    assert connection.opened(1, AT, run_state()) == []
    assert not connection.is_live(1)


def test_one_that_has_ended_leaves_its_id():
    connection = ready("read:runs:*")
    live(connection)
    connection.ended(1)
    assert not connection.is_live(1)
    live(connection)


def test_one_that_failed_is_over_and_the_others_go_on():
    connection = ready("read:runs:*")
    live(connection, 1)
    live(connection, 2, stream="t")
    commands = connection.failed(1, Internal("the tail was closed"))
    assert commands[0] == Stop(1)
    assert error_of(commands) == ("internal", 1)
    assert not connection.is_live(1)
    assert connection.is_live(2)
    assert connection.state == "ready"


# Writing.


@pytest.mark.parametrize(
    ("scope", "frame", "allowed"),
    [
        ("write:streams:run_a/s", {}, True),
        ("write:streams:run_a/t", {}, False),
        ("write:runs:run_a", {}, True),
        ("read:runs:*", {}, False),
        ("write:runs:run_a", {"source": "run_b"}, False),
        ("write:runs:*", {"source": "run_b"}, True),
        ("write:streams:run_a/s", {"source": "run_a"}, False),
        ("write:runs:run_a", {"source": "run_a"}, True),
    ],
)
def test_appending_needs_a_scope_for_the_stream_and_for_the_source(scope, frame, allowed):
    append = {"type": "append", "id": 1, "run": "run_a", "stream": "s", "records": [1]}
    (command,) = say(ready(scope), **append | frame)
    assert isinstance(command, Execute) == allowed
    if not allowed:
        assert error_of([command]) == ("forbidden", 1)


@pytest.mark.parametrize("frame", REQUESTS, **by_type)
def test_a_request_needs_its_scope(frame):
    reads = frame["type"] in ("head", "read", "run_get", "run_list")
    enough = ready("read:runs:*") if reads else ready("write:runs:*")
    assert isinstance(say(enough, **frame)[0], Execute)
    other = ready("write:runs:*") if reads else ready("read:runs:*")
    assert error_of(say(other, **frame)) == ("forbidden", 1)
    elsewhere = ready("read:runs:run_b", "write:runs:run_b", "write:streams:run_a/t")
    assert error_of(say(elsewhere, **frame)) == ("forbidden", 1)
    assert error_of(say(ready(), **frame)) == ("invalid_token", 1)


@pytest.mark.parametrize("kind", ["head", "read", "run_get"])
def test_whether_a_tag_allows_a_request_is_judged_when_its_run_is_known(kind):
    (frame,) = (frame for frame in REQUESTS if frame["type"] == kind)
    for scope in ("read:tags:user_7", "read:batches:batch_1"):
        (command,) = say(ready(scope), **frame)
        assert command.judged_by is not None
        assert command.judged_by.scopes == {scope}
    (command,) = say(ready("read:tags:user_7", "read:runs:run_a"), **frame)
    assert command.judged_by is None  # the run need not be looked up
    of_set = frame | {"run": "tag:other", "stream": "$runs"}
    if kind != "run_get":
        assert error_of(say(ready("read:tags:user_7"), **of_set)) == ("forbidden", 1)


@pytest.mark.parametrize("kind", ["delete", "run_patch", "run_create"])
def test_who_may_append_to_a_stream_may_not_change_its_run(kind):
    (frame,) = (frame for frame in REQUESTS if frame["type"] == kind)
    connection = ready("write:streams:*")
    assert error_of(say(connection, **frame)) == ("forbidden", 1)


def test_an_idempotency_key_needs_a_token_for_every_run():
    # Its answer may be another run than the one that the token names.
    frame = {"type": "run_create", "id": 1, "value": {"id": "run_a", "idempotency_key": "k"}}
    assert error_of(say(ready("write:runs:run_a"), **frame)) == ("forbidden", 1)
    assert isinstance(say(ready("write:runs:*"), **frame)[0], Execute)


@pytest.mark.parametrize("kind", ["append", "head", "read", "subscribe"])
def test_revoked_tokens_are_for_who_may_change_every_run(kind):
    frame = {"type": kind, "id": 1, "run": "gateway", "stream": "$revocations"}
    frame |= {"records": [{"token_id": "t"}]} if kind == "append" else {}
    assert not isinstance(say(ready("write:runs:*"), **frame)[0], Send)
    for scope in ("read:runs:*", "write:runs:g*", "write:streams:*", "read:streams:*"):
        assert error_of(say(ready(scope), **frame)) == ("forbidden", 1)
    elsewhere = frame | {"run": "run_a"}
    assert error_of(say(ready("read:runs:*", "write:runs:*"), **elsewhere)) == ("invalid_id", 1)


def test_what_is_revoked_is_never_taken_back():
    frame = {"type": "delete", "id": 1, "run": "gateway", "stream": "$revocations"}
    assert error_of(say(ready("read:runs:*", "write:runs:*"), **frame)) == ("invalid_id", 1)


# Tokens in place.


def test_a_new_token_of_the_connection_counts_for_all_that_brought_none():
    connection = ready("read:runs:run_a", ttl_s=60)
    live(connection, 1)
    live(connection, 2, token=token("read:runs:run_a", ttl_s=10))
    (frame,) = frames(say(connection, type="token", token=token("read:runs:run_a", ttl_s=300)))
    assert frame == {"type": "token_accepted", "expires_in_ms": 300_000}
    commands = tick(connection, NOW_S + 30)
    assert error_of(commands) == ("token_expired", 2)
    assert connection.is_live(1)


def test_a_new_token_of_a_subscription_counts_for_that_alone():
    connection = ready("read:runs:run_a", ttl_s=20)
    live(connection, 1)
    live(connection, 2)
    new_token = token("read:runs:run_a", ttl_s=40)
    (frame,) = frames(say(connection, type="token", id=1, token=new_token))
    assert frame == {"type": "token_accepted", "id": 1, "expires_in_ms": 40_000}
    assert error_of(tick(connection, NOW_S + 20)) == ("token_expired", 2)
    assert connection.is_live(1)
    # From now on it has a token of its own, which that of the connection does not touch.
    say(connection, NOW_S + 20, type="token", token=token("read:runs:run_a", ttl_s=300))
    assert error_of(tick(connection, NOW_S + 40)) == ("token_expired", 1)


@pytest.mark.parametrize("id", [{}, {"id": 1}])
@pytest.mark.parametrize("bad", ["nonsense", "expired"])
def test_a_refused_token_leaves_the_old_one_in_force(id, bad):
    connection = ready("read:runs:run_a", ttl_s=50)
    live(connection)
    bad = token("read:runs:run_a", ttl_s=1) if bad == "expired" else bad
    (frame,) = frames(say(connection, NOW_S + 5, type="token", token=bad, **id))
    assert frame["code"] in ("invalid_token", "token_expired")
    assert "id" not in frame
    assert connection.is_live(1)
    assert types_of(tick(connection, NOW_S + 49)) == ["token_expiring"]
    assert connection.is_live(1)
    assert isinstance(subscribe(connection, 2)[0], Open)
    assert error_of(tick(connection, NOW_S + 50)[:2]) == ("token_expired", 1)


def test_what_a_new_token_does_not_allow_ends():
    connection = ready("read:runs:*")
    live(connection, 1)
    live(connection, 2, run="run_b", state=run_state("run_b"))
    commands = say(connection, type="token", token=token("read:runs:run_a"))
    accepted, refused = frames(commands)
    assert accepted["type"] == "token_accepted"
    assert (refused["code"], refused["id"]) == ("forbidden", 2)
    assert others(commands) == [Stop(2)]
    assert connection.is_live(1)


def test_a_token_that_comes_while_a_subscription_opens_is_the_one_that_counts():
    connection = ready("read:runs:*")
    subscribe(connection)
    say(connection, type="token", token=token("read:runs:run_b"))
    assert error_of(connection.opened(1, AT, run_state())) == ("forbidden", 1)


def test_a_new_token_is_judged_by_the_runs_tags_too():
    connection = ready("read:runs:*")
    live(connection, state=run_state(tags=["x"]))
    assert len(say(connection, type="token", token=token("read:tags:x"))) == 1
    assert connection.is_live(1)
    assert len(say(connection, type="token", token=token("read:tags:y"))) == 3
    assert not connection.is_live(1)


def test_a_token_for_a_subscription_that_is_not_there_is_refused():
    commands = say(ready(), type="token", id=5, token=token("read:runs:*"))
    assert error_of(commands) == ("unknown_subscription", 5)


# Time.


def test_hello_has_ten_seconds():
    connection = new()
    assert deadline_s(connection) == NOW_S + 10
    assert tick(connection, NOW_S + 9.9) == []
    commands = tick(connection, NOW_S + 10)
    assert error_of(commands) == ("hello_timeout", None)
    assert others(commands) == [Close(4408, "hello_timeout")]


def test_who_says_hello_without_a_token_has_ten_seconds_to_show_one():
    connection = ready()
    say(connection, NOW_S + 5, type="ping")
    assert error_of(subscribe(connection, token="x")) == ("invalid_token", 1)
    assert deadline_s(connection) == NOW_S + 10
    commands = tick(connection, NOW_S + 10)
    assert error_of(commands) == ("hello_timeout", None)
    assert others(commands) == [Close(4408, "hello_timeout")]


def test_a_token_shown_in_time_keeps_a_connection():
    connection = ready()
    live(connection, token=token("read:runs:run_a", ttl_s=600))
    assert tick(connection, NOW_S + 59) == []


def test_a_connection_that_is_of_no_use_is_closed():
    connection = ready("read:runs:run_a", ttl_s=6000)
    live(connection)
    for minute in range(20):
        say(connection, NOW_S + 50 * minute, type="ping")
    assert tick(connection, NOW_S + 1000) == []  # it has a subscription
    say(connection, NOW_S + 1000, type="unsubscribe", id=1)
    for after_s in range(0, 299, 50):
        say(connection, NOW_S + 1000 + after_s, type="ping")
    assert tick(connection, NOW_S + 1299) == []
    assert deadline_s(connection) == NOW_S + 1300
    commands = tick(connection, NOW_S + 1300)
    assert error_of(commands) == ("idle", None)
    assert others(commands) == [Close(4509, "idle")]


def test_a_request_is_of_use():
    connection = ready("read:runs:run_a", ttl_s=6000)
    for at_s in range(0, 290, 50):
        say(connection, NOW_S + at_s, type="ping")
    say(connection, NOW_S + 290, type="run_get", id=1, run="run_a")
    connection.answered(1, Pong())
    for at_s in range(290, 589, 50):
        say(connection, NOW_S + at_s, type="ping")
    assert tick(connection, NOW_S + 589) == []
    assert error_of(tick(connection, NOW_S + 590)) == ("idle", None)


def test_a_worker_may_rest():
    connection = ready("write:runs:*", ttl_s=6000)
    for at_s in range(0, 3000, 50):
        say(connection, NOW_S + at_s, type="ping")
        assert tick(connection, NOW_S + at_s) == []


def test_silence_of_a_client_that_is_not_read_says_nothing():
    connection = ready("read:runs:*", ttl_s=600)
    live(connection)
    connection.deaf(NOW_S + 50)
    assert tick(connection, NOW_S + 100) == []
    assert error_of(tick(connection, NOW_S + 110)) == ("silent", None)


def test_a_connection_that_is_old_is_asked_to_come_back_at_once():
    connection = Connection("c_1", verify, LIMITS, NOW_S, ping_s=20, ages_at_s=NOW_S + 30)
    say(connection, type="hello", protocol=1, token=token("read:runs:*", ttl_s=600))
    live(connection)
    assert deadline_s(connection) == NOW_S + 30
    assert tick(connection, NOW_S + 29) == []
    commands = tick(connection, NOW_S + 30)
    (frame,) = frames(commands)
    assert (frame["code"], frame["retryable"], frame["retry_after_ms"]) == (
        "connection_aged",
        True,
        0,
    )
    assert others(commands) == [Close(4510, "connection_aged")]


# How many connections a subject has.


def admitting(limit=0):
    """A connection to a gateway that has room for so many more subjects."""
    admitted = []

    def admit(subject):
        if len(admitted) >= limit:
            raise TooManyConnections(f"{subject} has as many as it may", 2.5)
        admitted.append(subject)

    return Connection("c_1", verify, LIMITS, NOW_S, ping_s=20, admit=admit), admitted


def token_of(subject, *scopes):
    return tokens.mint(scopes, subject=subject, secret_key=SECRET, now_s=NOW_S)


def test_a_subject_with_too_many_connections_is_told_when_to_come_back():
    connection, _ = admitting(0)
    commands = say(connection, type="hello", protocol=1, token=token_of("ann", "read:runs:*"))
    (frame,) = frames(commands)
    assert (frame["code"], frame["retryable"], frame["retry_after_ms"]) == (
        "too_many_connections",
        True,
        2500,
    )
    assert others(commands) == [Close(4429, "too_many_connections")]


def test_a_subject_is_let_in_once_however_often_its_tokens_come():
    connection, admitted = admitting(1)
    say(connection, type="hello", protocol=1, token=token_of("ann", "read:runs:*"))
    say(connection, type="token", token=token_of("ann", "read:runs:run_a"))
    assert isinstance(subscribe(connection, token=token_of("ann", "read:runs:run_a"))[0], Open)
    assert admitted == ["ann"]
    assert connection.subjects == {"ann"}
    refused = subscribe(connection, 2, token=token_of("bob", "read:runs:run_a"))
    assert error_of(refused) == ("too_many_connections", 2)
    assert connection.subjects == {"ann"}


def test_workers_and_tokens_of_nobody_are_not_counted():
    connection, _ = admitting(0)
    say(connection, type="hello", protocol=1, token=token_of("worker", "write:runs:*"))
    assert isinstance(subscribe(connection, token=token_of("", "read:runs:run_a"))[0], Open)
    assert connection.subjects == frozenset()


def test_a_client_that_is_silent_for_three_pings_is_closed():
    connection = ready("read:runs:*", ttl_s=600)
    live(connection)
    assert deadline_s(connection) == NOW_S + 60
    say(connection, NOW_S + 50, type="ping")
    assert deadline_s(connection) == NOW_S + 110
    assert tick(connection, NOW_S + 109) == []
    commands = tick(connection, NOW_S + 110)
    assert error_of(commands) == ("silent", None)
    assert others(commands) == [Close(4508, "silent")]


@pytest.mark.parametrize("set_by_s", [-3600, 3600])
def test_a_clock_that_is_set_says_nothing_of_a_client(set_by_s):
    connection = ready("read:runs:*", ttl_s=6000)
    live(connection)
    assert connection.due_in_s(NOW_S + set_by_s, NOW_S + 10) == 50
    assert connection.tick(NOW_S + 59 + set_by_s, NOW_S + 59) == []
    assert error_of(connection.tick(NOW_S + 60 + set_by_s, NOW_S + 60)) == ("silent", None)


def test_a_clock_that_is_set_counts_for_tokens():
    connection = ready("read:runs:*", ttl_s=600)
    live(connection)
    assert connection.due_in_s(NOW_S + 470, NOW_S) == 10  # to be asked for another token
    commands = connection.tick(NOW_S + 600, NOW_S)
    assert commands[0] == Stop(1)
    assert others(commands)[-1] == Close(4401, "token_expired")


@pytest.mark.parametrize("frame", ["ping", "nonsense", "binary"])
def test_anything_that_comes_is_a_sign_of_life(frame):
    connection = ready("read:runs:run_a", ttl_s=600)
    text = {"ping": '{"type":"ping"}', "nonsense": "x", "binary": b"x"}[frame]
    receive(connection, text, NOW_S + 50)
    assert tick(connection, NOW_S + 100) == []


def test_a_subscription_ends_with_its_token_and_the_others_go_on():
    connection = ready("read:runs:*", ttl_s=50)
    live(connection, 1, token=token("read:runs:run_a", ttl_s=10))
    live(connection, 2)
    assert deadline_s(connection) == NOW_S + 8
    assert types_of(tick(connection, NOW_S + 9)) == ["token_expiring"]
    assert deadline_s(connection) == NOW_S + 10
    commands = tick(connection, NOW_S + 10)
    assert commands[0] == Stop(1)
    assert error_of(commands) == ("token_expired", 1)
    assert connection.is_live(2)
    assert deadline_s(connection) == NOW_S + 40
    assert types_of(tick(connection, NOW_S + 40)) == ["token_expiring"]
    assert deadline_s(connection) == NOW_S + 50
    assert connection.state == "ready"


def test_an_expired_token_of_the_connection_opens_nothing_new():
    connection = ready("read:runs:*", "write:runs:*", ttl_s=10)
    later = NOW_S + 10
    for frame in REQUESTS:
        assert error_of(say(connection, later, **frame)) == ("token_expired", 1)
    say(connection, later, type="token", token=token("read:runs:*", ttl_s=60))
    commands = say(connection, later, type="subscribe", id=1, run="run_a")
    assert isinstance(commands[0], Open)


def test_one_whose_token_expires_while_it_opens_never_lives():
    connection = ready("read:runs:*", ttl_s=10)
    subscribe(connection)
    assert error_of(tick(connection, NOW_S + 10)[:2]) == ("token_expired", 1)
    assert connection.opened(1, AT, run_state()) == []


def test_going_down_is_said_with_advice_to_come_back():
    connection = ready("read:runs:*")
    live(connection)
    commands = connection.close(ShuttingDown("the gateway is going down; come back"))
    (frame,) = frames(commands)
    assert (frame["code"], frame["retryable"]) == ("shutting_down", True)
    assert others(commands) == [Close(4503, "shutting_down")]


def test_ping_is_answered():
    assert say(ready(), type="ping") == [Send('{"type":"pong"}')]


# Anything, in any order.

anything = st.lists(
    st.one_of(
        st.sampled_from([{"type": "hello", "protocol": 1}, *FRAMES]),
        st.sampled_from([frame | {"id": 2} for frame in FRAMES]),
        st.sampled_from(["opened", "nobody", "failed", "ended", "answered", "tick", "later"]),
        st.text(max_size=20),
    ),
    max_size=30,
)


@given(anything)
def test_whatever_comes_the_machine_answers_and_never_breaks(steps):
    connection, now_s = ready("read:runs:*", "write:runs:*", ttl_s=3600), NOW_S
    for step in steps:
        if step == "opened":
            connection.opened(1, AT, run_state())
        elif step == "nobody":
            connection.opened(1, AT, None)
        elif step == "failed":
            connection.failed(2, Internal("x"))
        elif step == "ended":
            connection.ended(1)
        elif step == "answered":
            connection.answered(1, Pong())
        elif step in ("tick", "later"):
            now_s += 10 if step == "tick" else 40
            tick(connection, now_s)
        else:
            text = step if isinstance(step, str) else json.dumps(step)
            commands = receive(connection, text, now_s)
            assert connection.state == "closed" or commands
        assert deadline_s(connection) >= NOW_S


# Sets of runs.


def set_state(*runs, has_more=False):
    return SetState([run_state(id).run for id in runs], has_more, (AT,))


def follow_set(connection, id=1, **more):
    return say(connection, type="subscribe", id=id, **({"runs": {"tag": "x"}} | more))


def test_a_set_is_opened_with_what_was_asked_for():
    connection = ready("read:tags:x", "read:tags:y")
    (opening,) = follow_set(
        connection, runs={"tags": ["x", "y", "x"]}, limit=7, throttle_ms=100, skip=["payload"]
    )
    sets = (RunSet("tag", "x"), RunSet("tag", "y"))
    assert opening == OpenSet(1, sets, 7, 0.1, frozenset({"payload"}))
    commands = connection.opened_set(1, set_state("run_b", "run_a", has_more=True))
    (answer,) = frames(commands)
    assert [run["id"] for run in answer["runs"]] == ["run_b", "run_a"]
    assert "payload" not in answer["runs"][0] and answer["runs"][0]["output"] is None
    assert (answer["has_more"], "position" in answer) == (True, False)
    assert others(commands) == [ExcludeFields(1, frozenset({"payload"}))]
    assert connection.is_live(1)


def test_a_set_that_may_not_be_read_is_not_even_looked_up():
    connection = ready("read:tags:x")
    assert error_of(follow_set(connection, runs={"tags": ["x", "y"]})) == ("forbidden", 1)
    assert not others(follow_set(connection, runs={"batch": "x"}))


def test_a_set_is_judged_by_the_token_of_when_it_is_opened_and_by_each_after_it():
    connection = ready("read:tags:x")
    follow_set(connection)
    say(connection, type="token", token=token("read:tags:y"))
    assert error_of(connection.opened_set(1, set_state())) == ("forbidden", 1)
    say(connection, type="token", token=token("read:tags:x"))
    follow_set(connection, 2)
    connection.opened_set(2, set_state())
    commands = say(connection, type="token", token=token("read:tags:y"))
    assert others(commands) == [Stop(2)]
    assert frames(commands)[-1]["code"] == "forbidden"


def test_a_set_expires_with_its_token_and_can_be_unsubscribed():
    connection = ready("read:tags:x", ttl_s=30)
    follow_set(connection)
    connection.opened_set(1, set_state())
    assert deadline_s(connection) == NOW_S + 24
    assert types_of(tick(connection, NOW_S + 24)) == ["token_expiring"]
    assert deadline_s(connection) == NOW_S + 30
    follow_set(connection, 2, token=token("read:tags:x", ttl_s=20))
    assert deadline_s(connection) == NOW_S + 20
    connection.opened_set(2, set_state())
    assert deadline_s(connection) == NOW_S + 16
    say(connection, type="unsubscribe", id=2)
    assert error_of(tick(connection, NOW_S + 30)[:2]) == ("token_expired", 1)
    connection = ready("read:tags:x")
    follow_set(connection)
    assert others(say(connection, type="unsubscribe", id=1)) == [Stop(1)]
    assert connection.opened_set(1, set_state()) == []


def test_a_snapshot_is_bounded_by_its_bytes_and_says_so(monkeypatch):
    monkeypatch.setattr("gateway.protocol.connection.LIST_BYTES", 500)
    connection = ready("read:tags:x")
    follow_set(connection)
    (answer,) = frames(connection.opened_set(1, set_state("run_c", "run_b", "run_a")))
    assert 1 <= len(answer["runs"]) < 3
    assert answer["has_more"] is True


def test_a_laggard_is_told_to_begin_anew():
    connection = ready("read:tags:x")
    follow_set(connection)
    connection.opened_set(1, set_state())
    (answer,) = frames(connection.opened_set(1, set_state("run_a"), "trimmed"))
    assert (answer["type"], answer["reason"], len(answer["runs"])) == ("reset", "trimmed", 1)


def test_a_token_with_skip_says_so_to_every_request_and_subscription():
    connection = ready()
    text = tokens.mint(["read:runs:*"], skip=["output"], secret_key=SECRET, now_s=NOW_S, ttl_s=60)
    (opening,) = subscribe(connection, stream=None, skip=["payload"], token=text)
    assert opening.skip == {"payload", "output"}
    (performing,) = say(connection, type="run_get", id=2, run="run_a", token=text)
    assert performing.skip == {"output"}


# Revoked tokens.


def test_what_a_revoked_token_holds_ends_and_the_rest_goes_on():
    connection = ready("read:runs:*")
    bad = token("read:runs:run_a")
    live(connection, 1, token=bad)
    live(connection, 2, token=token("read:runs:run_a"))
    live(connection, 3)
    id = tokens.id_of(bad)
    commands = connection.revoked(lambda access: access.id == id)
    assert error_of(commands) == ("token_revoked", 1)
    assert others(commands) == [Stop(1)]
    assert [connection.is_live(id) for id in (1, 2, 3)] == [False, True, True]
    assert connection.revoked(lambda access: access.id == id) == []


def test_one_that_opens_while_its_token_is_revoked_never_lives():
    connection = ready()
    subscribe(connection, 1, token=token("read:runs:run_a"))
    assert error_of(connection.revoked(lambda _: True)) == ("token_revoked", 1)
    assert connection.opened(1, AT, run_state()) == []


def test_a_connection_ends_with_its_own_token_and_only_once():
    connection = ready("read:runs:*")
    live(connection, 1)
    commands = connection.revoked(lambda _: True)
    assert error_of(commands) == ("token_revoked", None)
    assert others(commands) == [Close(4401, "token_revoked")]
    assert connection.revoked(lambda _: True) == []


# Tokens near their end, and after it.


def test_a_token_near_its_end_is_told_of_once_and_in_time():
    connection = ready("read:runs:*", ttl_s=100)
    live(connection, 1, token=token("read:runs:run_a", ttl_s=50))
    live(connection, 2)
    assert tick(connection, NOW_S + 39.9) == []
    assert deadline_s(connection) == NOW_S + 40
    (frame,) = frames(tick(connection, NOW_S + 40))
    assert frame == {"type": "token_expiring", "id": 1, "expires_in_ms": 10_000}
    say(connection, NOW_S + 41, type="token", id=1, token=token("read:runs:run_a", ttl_s=300))
    say(connection, NOW_S + 79, type="ping")
    assert tick(connection, NOW_S + 79) == []
    (frame,) = frames(tick(connection, NOW_S + 80))
    assert frame == {"type": "token_expiring", "expires_in_ms": 20_000}
    assert tick(connection, NOW_S + 81) == []


def test_a_new_token_is_told_of_in_its_turn():
    connection = ready("read:runs:*", ttl_s=50)
    assert types_of(tick(connection, NOW_S + 40)) == ["token_expiring"]
    say(connection, NOW_S + 41, type="token", token=token("read:runs:*", ttl_s=100))
    assert tick(connection, NOW_S + 79) == []
    assert types_of(tick(connection, NOW_S + 80)) == ["token_expiring"]


def test_a_token_that_comes_late_is_told_of_at_once_but_not_before_its_subscription_lives():
    connection = ready()
    old = token("read:runs:run_a", ttl_s=100)
    (opening,) = say(connection, NOW_S + 90, type="subscribe", id=1, run="run_a", token=old)
    assert isinstance(opening, Open)
    assert tick(connection, NOW_S + 90) == []
    assert deadline_s(connection) > NOW_S + 90
    connection.opened(1, AT, run_state())
    assert deadline_s(connection) <= NOW_S + 90
    assert types_of(tick(connection, NOW_S + 90)) == ["token_expiring"]


def test_a_connection_ends_with_its_token_unless_it_holds_something_with_another():
    connection = ready("read:runs:*", ttl_s=50)
    live(connection, 1)
    commands = tick(connection, NOW_S + 50)
    assert [frame.get("id") for frame in frames(commands)] == [1, None]
    assert {frame["code"] for frame in frames(commands)} == {"token_expired"}
    assert others(commands) == [Stop(1), Close(4401, "token_expired")]

    connection = ready("read:runs:*", ttl_s=50)
    live(connection, 1, token=token("read:runs:run_a", ttl_s=70))
    assert others(tick(connection, NOW_S + 50)) == []
    assert connection.state == "ready"
    say(connection, NOW_S + 50, type="ping")
    commands = tick(connection, NOW_S + 70)
    assert others(commands) == [Stop(1), Close(4401, "token_expired")]


def test_a_request_that_is_under_way_is_answered_before_the_connection_ends():
    connection = ready("read:runs:*", ttl_s=50)
    say(connection, type="run_get", id=1, run="run_a")
    assert others(tick(connection, NOW_S + 50)) == []
    assert types_of(connection.answered(1, Pong())) == ["pong"]
    assert deadline_s(connection) <= NOW_S + 50
    assert others(tick(connection, NOW_S + 51)) == [Close(4401, "token_expired")]


def test_one_that_came_without_a_token_has_none_to_end_with():
    connection = ready()
    live(connection, 1, token=token("read:runs:run_a", ttl_s=50))
    assert others(tick(connection, NOW_S + 50)) == [Stop(1)]
    assert connection.state == "ready"


def subject_token(subject, ttl_s=50):
    return tokens.mint(
        ["read:runs:*"], subject=subject, ttl_s=ttl_s, secret_key=SECRET, now_s=NOW_S
    )


@pytest.mark.parametrize(("before", "after"), [("a", "b"), ("a", ""), ("", "a")])
def test_a_refresh_may_not_widen_to_another_subject(before, after):
    connection = new()
    say(connection, type="hello", protocol=1, token=subject_token(before))
    live(connection, 1)
    live(connection, 2, token=subject_token(before))
    (frame,) = frames(say(connection, type="token", token=subject_token(after, 300)))
    assert (frame["code"], frame.get("id"), frame.get("subscription")) == ("forbidden", None, None)
    (frame,) = frames(say(connection, type="token", id=2, token=subject_token(after, 300)))
    assert (frame["code"], frame.get("id"), frame["subscription"]) == ("forbidden", None, 2)
    assert connection.is_live(1) and connection.is_live(2)
    assert connection.subjects <= {before}
    assert others(tick(connection, NOW_S + 50)) == [Stop(1), Stop(2), Close(4401, "token_expired")]


def test_a_refused_refresh_names_the_subscription_that_goes_on():
    connection = ready("read:runs:*")
    live(connection, 1)
    for bad in ("nonsense", token("read:runs:*", ttl_s=1)):
        (frame,) = frames(say(connection, NOW_S + 5, type="token", id=1, token=bad))
        assert frame["code"] in ("invalid_token", "token_expired")
        assert (frame.get("id"), frame["subscription"]) == (None, 1)
    assert connection.is_live(1)
    (frame,) = frames(say(connection, type="token", id=9, token=token("read:runs:*")))
    assert (frame["code"], frame["id"]) == ("unknown_subscription", 9)
    assert "subscription" not in frame


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["subscribe", "opened", "token", "unsubscribe", "ended", "failed", "tick"]),
        st.sampled_from([1, None]),
        st.sampled_from([None, 10, 30]),
    ),
    min_size=5,
    max_size=20,
)


@given(STEPS)
@settings(max_examples=300)
def test_the_next_deadline_is_known_after_whatever_happens(steps):
    connection = ready("read:runs:*", ttl_s=45)
    for at_s, (step, id, ttl_s) in zip(itertools.count(int(NOW_S), 2), steps, strict=False):
        own = {"token": token("read:runs:*", ttl_s=ttl_s)} if ttl_s else {}
        match step:
            case "subscribe":
                say(connection, at_s, type="subscribe", id=id or 1, run="run_a", **own)
            case "token" if own:
                named = {"id": id} if id else {}
                say(connection, at_s, type="token", **named, **own)
            case "unsubscribe":
                say(connection, at_s, type="unsubscribe", id=id or 1)
            case "opened":
                connection.opened(id or 1, AT, run_state())
            case "ended":
                connection.ended(id or 1)
            case "failed":
                connection.failed(id or 1, Internal("the tail was closed"))
            case "tick":
                tick(connection, at_s)
        known = deadline_s(connection)
        connection._subscriptions.changed()
        assert known == deadline_s(connection), step
