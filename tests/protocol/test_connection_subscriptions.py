"""Subscriptions of a connection, to streams, runs and sets of runs."""

import pytest

from gateway import tokens
from gateway.errors import Internal
from gateway.model.log import SetState
from gateway.model.records import RunSet, StreamKey
from gateway.protocol import FromLast
from gateway.protocol.commands import (
    ExcludeFields,
    Open,
    OpenSet,
    Send,
    Stop,
)
from tests.support.connections import (
    AT,
    NOW_S,
    SECRET,
    deadline_s,
    error_of,
    frames,
    live,
    others,
    ready,
    run_state,
    say,
    subscribe,
    tick,
    token,
    types_of,
)

RUN_A = StreamKey("run_a", "$run")


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


def test_missing_run_is_reported_to_permitted_subscriber():
    connection = ready("read:runs:run_a", "read:tags:x")
    subscribe(connection, 1)
    commands = connection.opened(1, AT, None)
    assert error_of(commands) == ("run_not_found", 1)
    assert others(commands) == [Stop(1)]
    assert not connection.is_live(1)


def test_unpermitted_subscriber_cannot_tell_whether_a_run_exists():
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


def test_subscription_unsubscribed_while_opening_never_goes_live():
    connection = ready("read:runs:*")
    subscribe(connection)
    say(connection, type="unsubscribe", id=1)
    assert connection.opened(1, AT, run_state()) == []
    assert not connection.is_live(1)


def test_ended_subscription_frees_its_id():
    connection = ready("read:runs:*")
    live(connection)
    connection.ended(1)
    assert not connection.is_live(1)
    live(connection)


def test_failed_subscription_does_not_affect_others():
    connection = ready("read:runs:*")
    live(connection, 1)
    live(connection, 2, stream="t")
    commands = connection.failed(1, Internal("the tail was closed"))
    assert commands[0] == Stop(1)
    assert error_of(commands) == ("internal", 1)
    assert not connection.is_live(1)
    assert connection.is_live(2)
    assert connection.state == "ready"


def set_state(*runs, has_more=False):
    return SetState([run_state(id).run for id in runs], has_more, (AT,))


def follow_set(connection, id=1, **more):
    return say(connection, type="subscribe", id=id, **({"runs": {"tag": "x"}} | more))


# Sets of runs.


def test_run_set_subscription_opens_with_requested_options():
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


def test_lagging_run_set_subscription_is_reset():
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
