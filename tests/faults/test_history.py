"""The checker finds what it is there to find."""

from __future__ import annotations

import copy

import pytest

from faults.history import History, Seen, check

KEY = ("run_1", "s")


@pytest.fixture
def history() -> History:
    """Two writers, two readers, ten records, nothing wrong."""
    history = History()
    records = [Seen(offset, f"w{offset % 2}:{offset // 2}") for offset in range(10)]
    for offset, value in records:
        history.acknowledge(KEY, value, offset if offset % 3 else None)
    for name in ("a", "b"):
        view = history.view(name, KEY)
        view.records, view.end = list(records), "completed"
    return history


def test_nothing_wrong_is_nothing_found(history):
    verdict = check(history)
    assert verdict.is_clean, verdict.faults
    assert str(verdict).startswith("records 10, readers 2, deliveries 20, losses 0, repeats 0")


@pytest.mark.parametrize("place", range(10))
def test_a_lost_record_is_found_wherever_it_was(history, place):
    del history.views[1].records[place]
    verdict = check(history)
    # In the middle the hole and the missing value; at the end only the value shows it.
    assert verdict.losses == (2 if place < 9 else 1)


@pytest.mark.parametrize("place", range(10))
def test_a_record_that_came_twice_is_found(history, place):
    records = history.views[0].records
    records.insert(place, records[place])
    assert check(history).repeats == 1


def test_a_value_that_was_written_twice_is_found(history):
    for view in history.views:
        view.records.append(Seen(10, "w1:4"))
    verdict = check(history)
    assert verdict.repeats == 2  # by each reader
    assert verdict.losses == 0


@pytest.mark.parametrize("place", range(8))
def test_swapped_records_are_found(history, place):
    records = history.views[0].records
    records[place], records[place + 1] = records[place + 1], records[place]
    verdict = check(history)
    assert verdict.disorders == 1 and verdict.losses == 1


def test_a_writers_records_in_another_order_are_found(history):
    for view in history.views:
        view.records[2], view.records[4] = Seen(2, "w0:2"), Seen(4, "w0:1")
    history.acknowledged[KEY] |= {"w0:1": None, "w0:2": None}
    verdict = check(history)
    assert (verdict.disorders, verdict.losses, verdict.contradictions) == (2, 0, 0)


def test_readers_who_saw_different_logs_are_found(history):
    history.views[1].records[9] = Seen(9, "w9:0")
    assert check(history).contradictions == 1


def test_a_record_elsewhere_than_acknowledged_is_found(history):
    history.acknowledged[KEY]["w0:1"] = 3
    assert check(history).contradictions == 2


def test_a_stream_that_nobody_read_is_found(history):
    history.acknowledge(("run_1", "other"), "w0:0", 0)
    assert check(history).losses == 1


def test_a_reader_who_never_heard_the_end_is_found(history):
    history.views[0].end = None
    assert check(history).losses == 1


def test_a_reset_that_nothing_explains_is_found(history):
    history.views[0].resets = 1
    assert check(history).contradictions == 1
    assert check(history, may_reset=True).is_clean


def test_a_reset_that_may_be_excuses_no_loss(history):
    history.views[0].resets = 1
    del history.views[0].records[4]
    assert check(history, may_reset=True).losses == 2


def test_a_gap_that_was_told_is_no_loss(history):
    trimmed = copy.deepcopy(history)
    view = trimmed.views[0]
    del view.records[0:2]
    assert check(trimmed).losses > 0
    view.gaps.append((0, 2))
    trimmed.acknowledged[KEY] |= {"w0:0": 0, "w1:0": 1}
    assert check(trimmed).is_clean
