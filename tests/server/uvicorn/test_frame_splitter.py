"""What goes past the library's parser, and what must not."""

import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from gateway.server.uvicorn.frame_splitter import FrameSplitter

MAX_BYTES = 70_000


class Library:
    """The library's side of a connection that is open."""

    def __init__(self):
        self.protocol = Protocol(SERVER, state=OPEN, max_size=MAX_BYTES)
        self.protocol.logger.setLevel(logging.CRITICAL)
        self.seen: list[Any] = []

    def feed(self, data):
        self.protocol.receive_data(data)
        for frame in self.protocol.events_received():
            self.seen.append((frame.opcode, frame.fin, bytes(frame.data)))

    @property
    def fault(self):
        return repr(self.protocol.parser_exc)


def cut(data, places):
    places = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def read_by_both(data, places):
    """Read bytes with the library alone, and with the splitter before it."""
    alone, behind, splitter = Library(), Library(), FrameSplitter(MAX_BYTES)
    past = 0
    for piece in cut(data, places):
        alone.feed(piece)
        for part in splitter.split(piece):
            if isinstance(part, bytes):
                behind.feed(part)
            elif behind.protocol.state is OPEN:  # the library drops what comes later
                past += len(part)
                behind.seen += [(Opcode.TEXT, True, text) for text in part]
    assert behind.seen == alone.seen
    assert behind.fault == alone.fault
    assert behind.protocol.data_to_send() == alone.protocol.data_to_send()
    return past


payloads = st.binary(max_size=20) | st.sampled_from([125, 126, 127, 65_535, 65_536]).map(bytes)
whole = payloads.map(lambda data: [Frame(Opcode.TEXT, data)])
binary = payloads.map(lambda data: [Frame(Opcode.BINARY, data)])
control = st.builds(
    lambda opcode, data: [Frame(opcode, data)],
    st.sampled_from([Opcode.PING, Opcode.PONG]),
    st.binary(max_size=125),
)


@st.composite
def in_pieces(draw):
    kind = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
    parts = draw(st.lists(st.binary(max_size=9), min_size=2, max_size=4))
    found = []
    for n, part in enumerate(parts):
        is_last = n == len(parts) - 1
        found += [Frame(kind if n == 0 else Opcode.CONT, part, fin=is_last)]
        found += draw(st.just([]) | control) if not is_last else []
    return found


messages = st.lists(whole | whole | binary | control | in_pieces(), max_size=8)
places = st.lists(st.integers(0, 1 << 20), max_size=12)


@given(messages, places)
def test_splitter_matches_library_at_every_split_point(messages, places):
    frames = [frame for message in messages for frame in message]
    read_by_both(b"".join(frame.serialize(mask=True) for frame in frames), places)


@given(messages, st.binary(max_size=40), messages, places)
@example([], b"\x81\x03abc", [], [])  # not masked
@example([], b"\x81\x7e", [], [])  # not masked, and its size is still to come
@example([], b"\x83\xfe", [], [])  # no such opcode, likewise
@example([], b"\xc1\x80\0\0\0\0", [], [])  # a bit of an extension
@example([], b"\x83\x80\0\0\0\0", [], [])  # no such opcode
@example([], b"\x80\x80\0\0\0\0", [], [])  # more of nothing
@example([], b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", [], [])  # too large
@example([], b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", [], [])  # two at once
@example([], b"\x88\x80\0\0\0\0\x81\x80\0\0\0\0", [], [])  # after the goodbye
def test_splitter_matches_library_on_invalid_bytes(before, anything, after, places):
    def together(messages):
        return b"".join(each.serialize(mask=True) for message in messages for each in message)

    read_by_both(together(before) + anything + together(after), places)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MAX_BYTES])
def test_whole_texts_do_not_reach_the_library(size):
    frame = Frame(Opcode.TEXT, b"x" * size).serialize(mask=True)
    assert read_by_both(frame * 3, []) == 3
    assert read_by_both(frame * 3, [len(frame), 2 * len(frame)]) == 3
    assert read_by_both(frame * 3, [len(frame) // 2]) == 2  # and what is cut is the library's


def test_too_large_frame_is_left_to_the_library():
    frame = Frame(Opcode.TEXT, b"x" * (MAX_BYTES + 1)).serialize(mask=True)
    assert read_by_both(frame, []) == 0


def test_nothing_but_the_beginning_of_a_header_is_kept():
    splitter = FrameSplitter(MAX_BYTES)
    frame = Frame(Opcode.TEXT, b"x" * 1000).serialize(mask=True)
    kept = [list(splitter.split(frame[n : n + 1])) for n in range(len(frame))]
    assert b"".join(part for parts in kept for part in parts) == frame
    assert kept.count([]) == 3  # the size of this one is known with its fourth byte
