"""Timeouts of a connection, and the limit of connections for each subject."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import tokens
from gateway.errors import Internal, ShuttingDown, TooManyConnections
from gateway.protocol import Pong
from gateway.protocol.commands import (
    Close,
    Open,
    Send,
    Stop,
)
from gateway.protocol.connection import Connection
from tests.support.connections import (
    AT,
    LIMITS,
    NOW_S,
    SECRET,
    deadline_s,
    error_of,
    frames,
    live,
    new,
    others,
    ready,
    receive,
    run_state,
    say,
    subscribe,
    tick,
    token,
    verify,
)

# Time.


def test_hello_has_ten_seconds():
    connection = new()
    assert deadline_s(connection) == NOW_S + 10
    assert tick(connection, NOW_S + 9.9) == []
    commands = tick(connection, NOW_S + 10)
    assert error_of(commands) == ("hello_timeout", None)
    assert others(commands) == [Close(4408, "hello_timeout")]


def test_unauthenticated_connection_times_out_after_10_s():
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


def test_unread_client_is_not_considered_silent():
    connection = ready("read:runs:*", ttl_s=600)
    live(connection)
    connection.deaf(NOW_S + 50)
    assert tick(connection, NOW_S + 100) == []
    assert error_of(tick(connection, NOW_S + 110)) == ("silent", None)


def test_aged_connection_closes_with_immediate_retry():
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


# How many connections a subject has.


def test_subject_over_connection_limit_gets_retry_time():
    connection, _ = admitting(0)
    commands = say(connection, type="hello", protocol=1, token=token_of("ann", "read:runs:*"))
    (frame,) = frames(commands)
    assert (frame["code"], frame["retryable"], frame["retry_after_ms"]) == (
        "too_many_connections",
        True,
        2500,
    )
    assert others(commands) == [Close(4429, "too_many_connections")]


def test_subject_is_counted_once_for_repeated_tokens():
    connection, admitted = admitting(1)
    say(connection, type="hello", protocol=1, token=token_of("ann", "read:runs:*"))
    say(connection, type="token", token=token_of("ann", "read:runs:run_a"))
    assert isinstance(subscribe(connection, token=token_of("ann", "read:runs:run_a"))[0], Open)
    assert admitted == ["ann"]
    assert connection.subjects == {"ann"}
    refused = subscribe(connection, 2, token=token_of("bob", "read:runs:run_a"))
    assert error_of(refused) == ("too_many_connections", 2)
    assert connection.subjects == {"ann"}


def test_workers_and_tokens_without_subject_are_not_counted():
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
def test_any_frame_resets_the_silence_timeout(frame):
    connection = ready("read:runs:run_a", ttl_s=600)
    text = {"ping": '{"type":"ping"}', "nonsense": "x", "binary": b"x"}[frame]
    receive(connection, text, NOW_S + 50)
    assert tick(connection, NOW_S + 100) == []


def test_drain_sends_retry_advice():
    connection = ready("read:runs:*")
    live(connection)
    commands = connection.close(ShuttingDown("the gateway is going down; come back"))
    (frame,) = frames(commands)
    assert (frame["code"], frame["retryable"]) == ("shutting_down", True)
    assert others(commands) == [Close(4503, "shutting_down")]


def test_ping_is_answered():
    assert say(ready(), type="ping") == [Send('{"type":"pong"}')]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["subscribe", "opened", "token", "unsubscribe", "ended", "failed", "tick"]),
        st.sampled_from([1, None]),
        st.sampled_from([None, 10, 30]),
    ),
    min_size=5,
    max_size=20,
)


# Tokens near their end, and after it.


@pytest.mark.slow
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
