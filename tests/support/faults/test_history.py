"""The check of a history detects each kind of fault."""

from __future__ import annotations

import copy

import pytest

from tests.support.faults.history import History, Seen, check

KEY = ("run_1", "s")


@pytest.fixture
def history() -> History:
    """Return a history without faults: two writers, two readers, ten records."""
    history = History()
    records = [Seen(offset, f"w{offset % 2}:{offset // 2}") for offset in range(10)]
    for offset, value in records:
        history.acknowledge(KEY, value, offset if offset % 3 else None)
    for name in ("a", "b"):
        view = history.view(name, KEY)
        view.records, view.end = list(records), "completed"
    return history


def test_clean_history_has_no_faults(history):
    verdict = check(history)
    assert verdict.is_clean, verdict.faults
    assert str(verdict).startswith("records 10, readers 2, deliveries 20, losses 0, repeats 0")


@pytest.mark.parametrize("place", range(10))
def test_check_detects_lost_record_at_any_place(history, place):
    del history.views[1].records[place]
    verdict = check(history)
    # In the middle, the hole and the missing value are found; at the end, only the value.
    assert verdict.losses == (2 if place < 9 else 1)


@pytest.mark.parametrize("place", range(10))
def test_check_detects_repeated_record(history, place):
    records = history.views[0].records
    records.insert(place, records[place])
    assert check(history).repeats == 1


def test_check_detects_value_written_twice(history):
    for view in history.views:
        view.records.append(Seen(10, "w1:4"))
    verdict = check(history)
    assert verdict.repeats == 2  # one per reader
    assert verdict.losses == 0


@pytest.mark.parametrize("place", range(8))
def test_check_detects_swapped_records(history, place):
    records = history.views[0].records
    records[place], records[place + 1] = records[place + 1], records[place]
    verdict = check(history)
    assert verdict.disorders == 1 and verdict.losses == 1


def test_check_detects_records_out_of_writers_order(history):
    for view in history.views:
        view.records[2], view.records[4] = Seen(2, "w0:2"), Seen(4, "w0:1")
    history.acknowledged[KEY] |= {"w0:1": None, "w0:2": None}
    verdict = check(history)
    assert (verdict.disorders, verdict.losses, verdict.contradictions) == (2, 0, 0)


def test_check_detects_readers_with_different_logs(history):
    history.views[1].records[9] = Seen(9, "w9:0")
    assert check(history).contradictions == 1


def test_check_detects_record_at_unacknowledged_offset(history):
    history.acknowledged[KEY]["w0:1"] = 3
    assert check(history).contradictions == 2


def test_check_detects_unread_stream(history):
    history.acknowledge(("run_1", "other"), "w0:0", 0)
    assert check(history).losses == 1


def test_check_detects_reader_without_end(history):
    history.views[0].end = None
    assert check(history).losses == 1


def test_check_detects_unexpected_reset(history):
    history.views[0].resets = 1
    assert check(history).contradictions == 1
    assert check(history, may_reset=True).is_clean


def test_allowed_reset_does_not_excuse_loss(history):
    history.views[0].resets = 1
    del history.views[0].records[4]
    assert check(history, may_reset=True).losses == 2


def test_gap_frame_excuses_missing_records(history):
    trimmed = copy.deepcopy(history)
    view = trimmed.views[0]
    del view.records[0:2]
    assert check(trimmed).losses > 0
    view.gaps.append((0, 2))
    trimmed.acknowledged[KEY] |= {"w0:0": 0, "w1:0": 1}
    assert check(trimmed).is_clean
