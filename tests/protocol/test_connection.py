"""The state machine of a connection: every frame in every state."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Internal, RunNotFound, ShuttingDown
from gateway.protocol import Pong, encode
from gateway.protocol.commands import (
    Execute,
    Open,
    Send,
)
from tests.support.connections import (
    AT,
    FRAMES,
    NOW_S,
    REQUESTS,
    by_type,
    deadline_s,
    error_of,
    frames,
    live,
    ready,
    receive,
    run_state,
    say,
    subscribe,
    tick,
)

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
def test_error_of_frame_with_live_id_omits_the_id(text):
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
def test_refused_frame_leaves_subscriptions_live(text, code, id):
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


anything = st.lists(
    st.one_of(
        st.sampled_from([{"type": "hello", "protocol": 1}, *FRAMES]),
        st.sampled_from([frame | {"id": 2} for frame in FRAMES]),
        st.sampled_from(["opened", "nobody", "failed", "ended", "answered", "tick", "later"]),
        st.text(max_size=20),
    ),
    max_size=30,
)


# Anything, in any order.


@pytest.mark.slow
@given(anything)
def test_connection_never_fails_on_arbitrary_input(steps):
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
