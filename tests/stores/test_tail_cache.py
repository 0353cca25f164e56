"""What a store's owner may say of a tail without looking; every order of reading and committing."""

import pytest

from gateway.model.log import Page
from gateway.model.records import Position, StreamKey
from gateway.stores import tail_cache
from gateway.stores.tail_cache import TailCache

KEY = StreamKey("run_1", "progress")
AT_3, AT_4 = Position("e1", 3), Position("e1", 4)
NOTHING = Page([], AT_3)


@pytest.fixture
def known():
    """Tails that know where one stream ends."""
    known = TailCache()
    known.end_read(KEY, known.begin_read(KEY), NOTHING)
    assert known.is_known_tail(KEY, AT_3)
    return known


def test_tail_is_unknown_before_the_first_read():
    known = TailCache()
    assert not known.is_known_tail(KEY, AT_3)
    known.advance(KEY, AT_3, is_open=True)
    assert not known.is_known_tail(KEY, AT_3)


def test_a_commit_moves_the_tail(known):
    known.advance(KEY, AT_4, is_open=True)
    assert not known.is_known_tail(KEY, AT_3)
    assert known.is_known_tail(KEY, AT_4)


@pytest.mark.parametrize("other", [Position("e2", 3), Position("e1", 2), AT_4, None])
def test_only_the_very_position_is_the_tail(known, other):
    assert not known.is_known_tail(KEY, other)


@pytest.mark.parametrize(
    "change",
    [
        lambda known: known.advance(KEY, AT_4, is_open=False),
        lambda known: known.forget(KEY),
        lambda known: known.forget_run(KEY.run_id),
        lambda known: known.clear(),
    ],
    ids=["ended", "changed otherwise", "run ended", "closed"],
)
def test_tail_is_unknown_after_a_change_readers_must_see(known, change):
    change(known)
    assert not known.is_known_tail(KEY, AT_3)
    assert not known.is_known_tail(KEY, AT_4)


def test_read_begun_before_commit_does_not_set_tail():
    known = TailCache()
    reading = known.begin_read(KEY)
    known.advance(KEY, AT_4, is_open=True)
    known.end_read(KEY, reading, NOTHING)
    assert not known.is_known_tail(KEY, AT_3)


def test_read_begun_before_deletion_does_not_set_tail():
    known = TailCache()
    before = known.begin_read(KEY)
    known.forget(KEY)
    after = known.begin_read(KEY)
    known.end_read(KEY, before, NOTHING)
    assert not known.is_known_tail(KEY, AT_3)
    known.end_read(KEY, after, Page([], Position("e2", 1)))
    assert known.is_known_tail(KEY, Position("e2", 1))


@pytest.mark.parametrize(
    "page",
    [None, Page([object()], AT_3), Page([], AT_3, "completed"), Page([], Position("", 0))],
    ids=["failed", "records", "end", "beginning"],
)
def test_a_read_that_did_not_stop_at_an_open_tail_leaves_nothing_behind(page):
    known = TailCache()
    known.end_read(KEY, known.begin_read(KEY), page)
    assert not known.is_known_tail(KEY, AT_3)
    assert known.begin_read(KEY) is not None


def test_tail_cache_size_is_bounded(monkeypatch):
    monkeypatch.setattr(tail_cache, "MAX_TAILS", 10)
    known = TailCache()
    for number in range(25):
        key = StreamKey(f"run_{number}", "progress")
        known.end_read(key, known.begin_read(key), NOTHING)
        at = [n for n in range(25) if known.is_known_tail(StreamKey(f"run_{n}", "progress"), AT_3)]
        assert number in at
        assert len(at) <= 10
