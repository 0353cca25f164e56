"""Tokens of a connection: replaced, expired, and revoked."""

import pytest

from gateway import tokens
from gateway.protocol import Pong
from gateway.protocol.commands import (
    Close,
    Open,
    Stop,
)
from tests.support.connections import (
    AT,
    NOW_S,
    REQUESTS,
    SECRET,
    deadline_s,
    error_of,
    frames,
    live,
    new,
    others,
    ready,
    run_state,
    say,
    subscribe,
    tick,
    token,
    types_of,
)

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


def test_new_token_ends_subscriptions_it_does_not_permit():
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


# How many connections a subject has.


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


def test_subscription_whose_token_expires_while_opening_is_closed():
    connection = ready("read:runs:*", ttl_s=10)
    subscribe(connection)
    assert error_of(tick(connection, NOW_S + 10)[:2]) == ("token_expired", 1)
    assert connection.opened(1, AT, run_state()) == []


# Revoked tokens.


def test_revoked_token_ends_only_its_own_subscriptions():
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


def test_subscription_revoked_while_opening_never_goes_live():
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


def test_token_expiring_is_sent_once_before_expiry():
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


def test_token_expiring_is_sent_for_a_refreshed_token():
    connection = ready("read:runs:*", ttl_s=50)
    assert types_of(tick(connection, NOW_S + 40)) == ["token_expiring"]
    say(connection, NOW_S + 41, type="token", token=token("read:runs:*", ttl_s=100))
    assert tick(connection, NOW_S + 79) == []
    assert types_of(tick(connection, NOW_S + 80)) == ["token_expiring"]


def test_token_expiring_waits_until_subscription_is_live():
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


def test_refused_token_refresh_leaves_subscription_live():
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
