"""Requests of a connection, and the scopes that they need."""

import pytest

from gateway.protocol.commands import (
    Execute,
    Send,
)
from tests.support.connections import REQUESTS, by_type, error_of, ready, say


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
def test_stream_write_scope_does_not_permit_run_changes(kind):
    (frame,) = (frame for frame in REQUESTS if frame["type"] == kind)
    connection = ready("write:streams:*")
    assert error_of(say(connection, **frame)) == ("forbidden", 1)


def test_an_idempotency_key_needs_a_token_for_every_run():
    # Its answer may be another run than the one that the token names.
    frame = {"type": "run_create", "id": 1, "value": {"id": "run_a", "idempotency_key": "k"}}
    assert error_of(say(ready("write:runs:run_a"), **frame)) == ("forbidden", 1)
    assert isinstance(say(ready("write:runs:*"), **frame)[0], Execute)


@pytest.mark.parametrize("kind", ["append", "head", "read", "subscribe"])
def test_revocation_log_requires_write_access_to_all_runs(kind):
    frame = {"type": kind, "id": 1, "run": "gateway", "stream": "$revocations"}
    frame |= {"records": [{"token_id": "t"}]} if kind == "append" else {}
    assert not isinstance(say(ready("write:runs:*"), **frame)[0], Send)
    for scope in ("read:runs:*", "write:runs:g*", "write:streams:*", "read:streams:*"):
        assert error_of(say(ready(scope), **frame)) == ("forbidden", 1)
    elsewhere = frame | {"run": "run_a"}
    assert error_of(say(ready("read:runs:*", "write:runs:*"), **elsewhere)) == ("invalid_id", 1)


def test_revocation_log_cannot_be_deleted():
    frame = {"type": "delete", "id": 1, "run": "gateway", "stream": "$revocations"}
    assert error_of(say(ready("read:runs:*", "write:runs:*"), **frame)) == ("invalid_id", 1)
