"""The first frame of a connection."""

import pytest

from gateway.protocol.commands import (
    Close,
    RegisterOwner,
)
from tests.support.connections import (
    FRAMES,
    NOW_S,
    by_type,
    error_of,
    frames,
    live,
    new,
    others,
    ready,
    receive,
    say,
    subscribe,
    token,
)


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
def test_hello_with_owner_requires_a_worker_token(scopes):
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
