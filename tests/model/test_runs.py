import copy
import dataclasses
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import IllegalTransition, InvalidId, InvalidValue
from gateway.model.patches import fold_change, merge_patch
from gateway.model.records import check_run_id
from gateway.model.runs import (
    FINAL_STATUSES,
    STATUSES,
    TRANSITIONS,
    Run,
    RunError,
    RunIds,
    apply,
    change,
    iso_time,
    may_retry_crash,
    new_run_id,
)
from tests.support.gateways import new_run
from tests.support.protocol_cases import CASES

# Written out by hand from PROTOCOL.md and the diagram, so that a change of the table shows.
ALLOWED = {
    ("queued", "executing"),
    ("queued", "failed"),
    ("queued", "canceled"),
    ("queued", "crashed"),
    ("executing", "waiting"),
    ("executing", "completed"),
    ("executing", "failed"),
    ("executing", "canceled"),
    ("executing", "crashed"),
    ("waiting", "executing"),
    ("waiting", "completed"),
    ("waiting", "failed"),
    ("waiting", "canceled"),
    ("waiting", "crashed"),
    ("delayed", "queued"),
    ("delayed", "failed"),
    ("delayed", "canceled"),
    ("delayed", "crashed"),
    ("delayed", "expired"),
    ("queued", "expired"),
    ("executing", "queued"),
    ("executing", "delayed"),
    ("executing", "timed_out"),
    ("waiting", "timed_out"),
    ("waiting", "queued"),
    ("waiting", "delayed"),
}
PAIRS = [(before, after) for before in STATUSES for after in STATUSES]


def test_the_table_is_over_the_statuses_of_the_protocol():
    assert set(STATUSES) == {
        "queued",
        "executing",
        "waiting",
        "completed",
        "failed",
        "canceled",
        "crashed",
        "delayed",
        "expired",
        "timed_out",
    }
    assert {
        "completed",
        "failed",
        "canceled",
        "crashed",
        "expired",
        "timed_out",
    } == FINAL_STATUSES
    assert {(a, b) for a, after in TRANSITIONS.items() for b in after} == ALLOWED


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_status_transitions_follow_the_table(before, after):
    run = new_run(status=before)
    if (before, after) in ALLOWED or (before == after and before not in FINAL_STATUSES):
        assert apply(run, {"status": after}).status == after
    else:
        with pytest.raises(IllegalTransition, match=f"is {before}; it cannot become {after}"):
            apply(run, {"status": after})


@pytest.mark.parametrize("status", sorted(FINAL_STATUSES))
def test_nothing_of_a_final_run_changes(status):
    for patch in ({}, {"metadata": {"a": 1}}, {"output": 1}, {"status": status}):
        with pytest.raises(IllegalTransition):
            apply(new_run(status=status), patch)


def test_a_change_by_an_attempt_that_is_over_is_refused_and_the_current_one_leaves_no_trace():
    run = new_run(status="executing", attempt=2, max_attempts=3)
    for late in ({"status": "completed", "output": 1}, {"status": "delayed"}, {"owner": "a"}, {}):
        with pytest.raises(IllegalTransition, match="is at attempt 2; the change is of attempt 1"):
            change(run, {"attempt": 1, **late})
    with pytest.raises(IllegalTransition, match="is of attempt 1"):
        change(run, {"attempt": 1}, [{"op": "set", "key": "a", "value": 1}])
    for again in ("queued", "delayed"):  # the retry that another process has made already
        with pytest.raises(IllegalTransition, match=f"is of attempt 2 and makes it {again}"):
            change(run, {"attempt": 2, "status": again})
    with pytest.raises(IllegalTransition, match=r"attempt 2 of run \w+ was begun by a"):
        change(replace(run, owner="a"), {"attempt": 2, "status": "executing", "owner": "b"})
    after, patch = change(run, {"attempt": 2, "status": "completed"})
    assert (after.status, after.attempt, patch) == ("completed", 2, {"status": "completed"})
    after, patch = change(run, {"attempt": 3, "status": "queued"})
    assert (after.attempt, patch) == (3, {"attempt": 3, "status": "queued"})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"status": "waiting"}, True),
        ({"status": "queued"}, False),
        ({"attempt": 3}, False),
        ({"retry_on_crash": False}, False),
        ({"cancel_requested_at": "2026-11-22T12:56:14.123Z"}, False),
    ],
)
def test_crashed_run_is_retried_only_with_attempts_left(fields, expected):
    run = new_run(**({"status": "executing", "attempt": 2, "max_attempts": 3} | fields))
    assert may_retry_crash(run) is expected


def test_run_without_retry_on_crash_field_retries_on_crash():
    wire = new_run().to_wire()
    del wire["retry_on_crash"]
    assert Run.from_wire(wire).retry_on_crash is True


@pytest.mark.parametrize(
    "field",
    ["id", "task", "parent_id", "root_id", "batch_id", "created_at", "payload", "idempotency_key"],
)
def test_what_a_run_was_made_with_stays(field):
    with pytest.raises(InvalidValue, match=f"field '{field}' cannot be changed"):
        apply(new_run(), {field: "x"})


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"colour": "red"}, "field 'colour' cannot be changed"),
        ({"metadata": []}, "metadata must be an object"),
        ({"metadata": "x"}, "metadata must be an object"),
        ({"tags": "x"}, "tags must be an array of strings"),
        ({"tags": [1]}, "tags must be an array of strings"),
        ({"error": "boom"}, "not a run"),
        ({"error": {"type": "E"}}, "not a run"),
        ({"status": None}, "status must be a string"),
        ({"status": {}}, "status must be a string"),
        ({"status": []}, "status must be a string"),
        ({"owner": 3}, "owner must be a string"),
        ({"started_at": 3}, "started_at must be a string"),
        ({"attempt": 0}, "attempt must be a whole number"),
        ({"attempt": "1"}, "attempt must be a whole number"),
        ({"attempt": True}, "attempt must be a whole number"),
        ({"max_attempts": 0}, "max_attempts must be a whole number"),
        ({"duration_ms": -1}, "duration_ms must be a whole number"),
        ({"max_duration_s": "1"}, "max_duration_s must be a number"),
        ({"delay_until": "tomorrow"}, "delay_until must be a time"),
        ({"delay_until": 3}, "delay_until must be a string"),
        ({"expires_at": "2026-13-40T00:00:00.000Z"}, "expires_at must be a time"),
        ({"last_error": "boom"}, "not a run"),
    ],
)
def test_a_patch_of_the_wrong_kind_is_refused(patch, message):
    with pytest.raises(InvalidValue, match=message):
        apply(new_run(), patch)


def test_a_status_that_is_none_goes_nowhere():
    with pytest.raises(IllegalTransition, match="cannot become lost"):
        apply(new_run(), {"status": "lost"})


def test_a_patch_folds_and_leaves_the_run_before_as_it_was():
    run = new_run(metadata={"a": {"b": 1}}, tags=["x"])
    before = copy.deepcopy(run)
    after = apply(run, {"metadata": {"a": {"c": 2}}, "error": {"type": "E", "message": "m"}})
    assert run == before
    assert after.metadata == {"a": {"b": 1, "c": 2}}
    assert after.error == RunError("E", "m")
    assert apply(after, {"error": None, "metadata": None}) == dataclasses.replace(run, metadata={})


@pytest.mark.parametrize("case", CASES["merge_patch"], ids=lambda case: case["name"])
def test_merge_patch_follows_rfc_7396(case):
    target, patch = copy.deepcopy(case["target"]), copy.deepcopy(case["patch"])
    assert merge_patch(target, patch) == case["result"]
    assert (target, patch) == (case["target"], case["patch"])


@pytest.mark.parametrize("case", CASES["fold_change"], ids=lambda case: case["name"])
def test_a_change_of_a_run_folds_as_the_protocol_says(case):
    run, change = copy.deepcopy(case["run"]), copy.deepcopy(case["change"])
    assert fold_change(run, change) == case["result"]
    assert (run, change) == (case["run"], case["change"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(json_values, json_values)
def test_applying_a_merge_patch_twice_is_applying_it_once(target, patch):
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


def test_a_run_survives_the_wire():
    run = new_run(
        status="failed",
        tags=["a"],
        metadata={"a": [1]},
        payload=[None],
        output={"x": 1},
        error=RunError("ValueError", "no"),
        parent_id="run_parent",
        batch_id="batch_1",
        owner="embedded",
    )
    assert Run.from_wire(json.loads(json.dumps(run.to_wire()))) == run


def test_fields_of_a_newer_release_are_left_out():
    run = new_run()
    assert Run.from_wire(run.to_wire() | {"colour": "red"}) == run


@pytest.mark.parametrize("field", ["id", "task", "status", "root_id", "created_at"])
def test_a_run_needs_its_fields(field):
    wire = new_run().to_wire()
    del wire[field]
    with pytest.raises(InvalidValue, match=field):
        Run.from_wire(wire)


@pytest.mark.parametrize("field", ["id", "root_id", "parent_id"])
def test_a_run_names_runs(field):
    with pytest.raises(InvalidId):
        Run.from_wire(new_run().to_wire() | {field: "progress"})


@given(st.lists(st.integers(0, 4_102_444_800_000), min_size=2, max_size=20))
def test_run_ids_sort_by_their_time(times):
    ids = [new_run_id(now_ms) for now_ms in sorted(times)]
    prefixes = [id[: len("run_") + 9] for id in ids]
    assert prefixes == sorted(prefixes)
    for id in ids:
        assert check_run_id(id) == id


def test_run_ids_of_one_moment_differ_by_a_hundred_random_bits():
    asked = []

    def bits(count):
        asked.append(count)
        return 2**count - 1 - len(asked)

    ids = {new_run_id(1_795_352_174_123, bits) for _ in range(100)}
    assert len(ids) == 100
    assert set(asked) == {100}
    assert len({len(id) for id in ids}) == 1
    assert 36**20 > 2**100  # they all fit


@given(st.lists(st.integers(0, 4_102_444_800_000), min_size=2, max_size=50))
def test_the_run_ids_of_one_process_sort_as_they_were_made_whatever_the_clock_says(times):
    run_ids = RunIds()
    ids = [run_ids.new(now_ms) for now_ms in times for _ in range(3)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(check_run_id(id) == id for id in ids)


def test_run_ids_of_one_millisecond_are_sorted_and_never_overflow():
    asked = []

    def bits(count):
        asked.append(count)
        return 2**count - 1

    run_ids = RunIds(bits)
    ids = [run_ids.new(1_795_352_174_123) for _ in range(1000)]
    assert ids == sorted(ids)
    assert len({len(id) for id in ids}) == 1
    assert asked == [99] + [80] * 999
    assert 2**99 + 2**19 * 2**80 < 36**20


def test_times_are_iso_in_utc_with_milliseconds():
    assert iso_time(1_795_352_174_123) == "2026-11-22T12:56:14.123Z"
    assert iso_time(0) == "1970-01-01T00:00:00.000Z"
