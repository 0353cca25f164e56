"""Whoever stands at a tail gets every record once, in order, or is put out where it stands."""

import heapq
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fanout.group import BroadcastGroup, GroupKey, WireFormat
from gateway.model.records import Position

EPOCH = "0" * 16


def at(offset):
    return Position(EPOCH, offset)


class Loop:
    """A loop whose time moves only when it is told to."""

    def __init__(self):
        self.now = 0.0
        self._due = []
        self._numbers = itertools.count()

    def time(self):
        return self.now

    def call_soon(self, work):
        return self.call_at(self.now, work)

    def call_at(self, when, work):
        handle = _Handle(work)
        heapq.heappush(self._due, (when, next(self._numbers), handle))
        return handle

    def advance(self, seconds):
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            when, _, handle = heapq.heappop(self._due)
            self.now = max(self.now, when)
            if not handle.is_canceled:
                handle.work()
        self.now = until


class _Handle:
    def __init__(self, work):
        self.work = work
        self.is_canceled = False

    def cancel(self):
        self.is_canceled = True


class Tail:
    """A ring that holds the newest records; a frame has at most `per_frame` of them."""

    def __init__(self, ring=1000, per_frame=3):
        self.offset = 0
        self.given = 0
        self._ring = ring
        self._per_frame = per_frame

    @property
    def position(self):
        return at(self.offset)

    def contains(self, position):
        return self.offset - self._ring <= position.offset < self.offset

    def text_after(self, offset, id, skip):
        stop = min(offset + self._per_frame, self.offset)
        return " ".join(str(i) for i in range(offset, stop)), at(stop)

    def record_delivery(self, start, stop, readers, size, *, is_live):
        self.given += (stop - start) * readers


class Reader:
    """A member and its connection; it writes down what it gets and when."""

    def __init__(self, loop, offset):
        self.position = at(offset)
        self.start = offset
        self.is_open = True
        self.is_member = True
        self.got = []
        self.times = []
        self._loop = loop

    def write(self, data):
        assert self.is_open and self.is_member
        self.got += [int(each) for each in data.decode().split()]
        self.times.append(self._loop.time())

    def detach(self):
        assert self.is_member
        self.is_member = False

    def check(self):
        """What it got joins, and where it stands is right after it."""
        assert self.got == list(range(self.start, self.start + len(self.got)))
        if not self.is_member:
            assert self.position.offset == self.start + len(self.got)


class Crowd:
    """Connections; those that are open when they are gathered are written to."""

    def __init__(self, sinks):
        sinks = list(sinks)
        self.full = [each for each in sinks if not each.is_open]
        self._sinks = [each for each in sinks if each.is_open]

    @property
    def is_current(self):
        return all(each.is_open for each in self._sinks)

    def write(self, frames):
        for each in self._sinks:
            each.write(frames)


WAY = WireFormat(lambda text: text.encode() + b" ", Crowd)


def cohort_of(tail, loop, throttle_s=0.0):
    gone = []
    return BroadcastGroup(tail, GroupKey(1, frozenset(), throttle_s, WAY), loop, gone.append), gone


def test_all_members_get_the_same_bytes_once():
    loop, tail = Loop(), Tail()
    cohort, _ = cohort_of(tail, loop)
    frames = []
    readers = [Reader(loop, 0) for _ in range(3)]
    for reader in readers:
        reader.write = lambda data: frames.append(data)
        cohort.join(reader, reader, 0.0)
    tail.offset = 2
    cohort.schedule()
    cohort.schedule()  # what grows twice in one tick is sent once
    loop.advance(0)
    assert len(frames) == 3 and len({id(frame) for frame in frames}) == 1


def test_full_connection_is_evicted_at_its_position():
    loop, tail = Loop(), Tail()
    cohort, _ = cohort_of(tail, loop)
    slow, fast = Reader(loop, 0), Reader(loop, 0)
    for reader in (slow, fast):
        cohort.join(reader, reader, 0.0)
    slow.is_open = False
    tail.offset = 5
    cohort.schedule()
    loop.advance(0)
    assert (slow.is_member, slow.position, slow.got) == (False, at(0), [])
    assert (fast.is_member, fast.got) == (True, [0, 1, 2, 3, 4])


def test_member_evicted_from_group_when_behind_ring():
    loop, tail = Loop(), Tail(ring=10)
    cohort, gone = cohort_of(tail, loop)
    reader = Reader(loop, 0)
    cohort.join(reader, reader, 0.0)
    tail.offset = 50
    cohort.schedule()
    loop.advance(0)
    assert (reader.is_member, reader.position, reader.got) == (False, at(0), [])
    assert len(gone) == 1


def test_throttle_passes_first_then_one_per_window():
    loop, tail = Loop(), Tail(per_frame=100)
    cohort, _ = cohort_of(tail, loop, throttle_s=1.0)
    reader = Reader(loop, 0)
    cohort.join(reader, reader, 0.0)
    for _ in range(35):
        tail.offset += 1
        cohort.schedule()
        loop.advance(0.1)
    assert reader.times == pytest.approx([0.0, 1.0, 2.0, 3.0])
    loop.advance(1)
    assert reader.got == list(range(35))


def test_the_last_to_leave_closes_it():
    loop, tail = Loop(), Tail()
    cohort, gone = cohort_of(tail, loop)
    reader = Reader(loop, 0)
    cohort.join(reader, reader, 0.0)
    tail.offset = 1
    cohort.schedule()
    cohort.leave(reader)
    loop.advance(0)
    assert (len(gone), reader.got) == (1, [])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 30)),
        st.tuples(st.just("join"), st.integers(0, 12)),  # so many records behind the tail
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("fill"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.floats(0, 2)),
        st.tuples(st.just("dissolve"), st.none()),
    ),
    max_size=60,
)


@pytest.mark.slow
@given(steps, st.sampled_from([0.0, 0.5]))
@settings(max_examples=400, deadline=None)
def test_nothing_is_lost_repeated_or_reordered_whatever_happens(steps, throttle_s):
    loop, tail = Loop(), Tail(ring=25)
    cohort, _ = cohort_of(tail, loop, throttle_s)
    readers = []
    for step, value in steps:
        match step:
            case "grow":
                tail.offset += value
                if len(cohort):  # a tail keeps no empty one
                    cohort.schedule()
            case "join" if tail.offset - value >= 0:
                reader = Reader(loop, tail.offset - value)
                reader.not_before = loop.now + throttle_s / 2
                readers.append(reader)
                cohort.join(reader, reader, reader.not_before if throttle_s else 0.0)
            case "leave" | "fill" if value < len(readers) and readers[value].is_member:
                reader = readers[value]
                if step == "leave":
                    cohort.leave(reader)
                    reader.is_member = False
                else:
                    reader.is_open = False
            case "wait":
                loop.advance(value)
            case "dissolve":
                cohort.dissolve()
        for reader in readers:
            reader.check()
    loop.advance(10)
    for reader in readers:
        reader.check()
        if reader.is_member:
            assert reader.is_open or not tail.offset > reader.start + len(reader.got)
            assert reader.start + len(reader.got) == tail.offset, "a member got all there is"
        if throttle_s and reader.times:
            assert reader.times[0] >= reader.not_before
            gaps = [b - a for a, b in itertools.pairwise(sorted(set(reader.times)))]
            assert all(gap >= throttle_s - 1e-9 for gap in gaps)


def test_frames_of_one_tick_are_joined_in_one_write():
    loop, tail = Loop(), Tail(per_frame=1)
    cohort, _ = cohort_of(tail, loop)
    reader = Reader(loop, 0)
    cohort.join(reader, reader, 0.0)
    tail.offset = 4
    cohort.schedule()
    loop.advance(0)
    assert (reader.got, len(reader.times)) == ([0, 1, 2, 3], 1)
