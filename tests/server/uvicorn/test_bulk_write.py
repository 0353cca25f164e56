"""Many sockets get the same bytes by one call; what one does not take is told, never lost."""

import errno
import os
import socket
import subprocess
import sys
import threading
from array import array
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.server.uvicorn import bulk_write as module
from gateway.server.uvicorn.bulk_write import MAX_BATCH, BulkWriter, bulk_writer
from tests.support.requirements import bulk_writes

pytestmark = bulk_writes()


@contextmanager
def pairs(count, buffer=0):
    """Pairs of sockets that do not block: those that are written to, and their other ends."""
    with ExitStack() as stack:
        made = [tuple(map(stack.enter_context, socket.socketpair())) for _ in range(count)]
        for pair in made:
            for each in pair:
                each.setblocking(False)
            if buffer:
                pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        yield made


def numbers(made):
    return array("i", [here.fileno() for here, _ in made])


def taken_from(there):
    got = b""
    while True:
        try:
            some = there.recv(1 << 20)
        except BlockingIOError:
            return got
        if not some:
            return got
        got += some


@pytest.mark.parametrize("count", [1, 2, MAX_BATCH, MAX_BATCH + 1])
def test_each_socket_gets_all_bytes_once(count):
    with pairs(count) as made:
        assert list(BulkWriter().write(numbers(made), b"some bytes")) == []
        assert [taken_from(there) for _, there in made] == [b"some bytes"] * count


def test_full_socket_reports_partial_write_and_others_complete():
    data = b"x" * 50_000
    with pairs(20, buffer=4096) as made:
        slow = {3, 19}
        got = [b""] * 20
        rest = dict.fromkeys(range(20), b"")
        for _ in range(5):
            left = {which: taken for which, taken in BulkWriter().write(numbers(made), data)}
            for index, (here, there) in enumerate(made):
                rest[index] = data[left.get(index, len(data)) :]
                assert index in left or not rest[index]
                while index not in slow and rest[index]:
                    got[index] += taken_from(there)
                    rest[index] = rest[index][here.send(rest[index]) :]
                got[index] += taken_from(there) if index not in slow else b""
        assert slow <= left.keys() and all(left[each] == 0 for each in slow)
        assert all(got[index] == data * 5 for index in range(20) if index not in slow)


def test_disconnected_socket_is_reported_and_others_are_written():
    with pairs(5) as made:
        made[2][1].close()
        assert list(BulkWriter().write(numbers(made), b"bytes")) == [(2, 0)]
        assert [taken_from(there) for which, (_, there) in enumerate(made) if which != 2] == [
            b"bytes"
        ] * 4


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_bad_descriptor_is_reported_without_duplicate_writes(bad):
    with pairs(5) as made:
        sockets = numbers(made)
        sockets[bad] = 1 << 20
        left = {which for which, _ in BulkWriter().write(sockets, b"bytes")}
        assert bad in left
        for which, (_, there) in enumerate(made):
            assert taken_from(there) == (b"" if which in left else b"bytes")


@given(
    st.lists(st.binary(max_size=9000), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_whatever_clients_take_nothing_is_lost_repeated_or_reordered(messages, paces):
    one = BulkWriter()
    with pairs(4, buffer=4096) as made:
        waiting = [b""] * 4  # as a transport holds it
        got = [b""] * 4
        for message, pace in zip(messages, paces, strict=False):
            clear = [i for i in range(4) if not waiting[i]]
            sockets = array("i", [made[i][0].fileno() for i in clear])
            for i in set(range(4)) - set(clear):
                waiting[i] += message
            for which, taken in one.write(sockets, message):
                waiting[clear[which]] = message[taken:]
            for i in range(pace):
                got[i] += taken_from(made[i][1])
        for i, (here, there) in enumerate(made):
            while True:
                got[i] += taken_from(there)
                if not waiting[i]:
                    break
                waiting[i] = waiting[i][here.send(waiting[i]) :]
            assert got[i] == b"".join(messages[: len(paces)])


def test_each_thread_has_its_own():
    others = []
    thread = threading.Thread(target=lambda: others.append(bulk_writer()))
    thread.start()
    thread.join()
    assert (
        bulk_writer() is bulk_writer() and others[0] is not None and others[0] is not bulk_writer()
    )


FORKS = """
import os, socket
from array import array
from gateway.server.uvicorn.bulk_write import bulk_writer

mine = bulk_writer()
here, there = socket.socketpair()
here.setblocking(False)
child = os.fork()
if child == 0:
    own = bulk_writer()
    left = list(own.write(array("i", [here.fileno()]), b"of the child"))
    os._exit(0 if own is not mine and not left else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert there.recv(100) == b"of the child"
assert not list(mine.write(array("i", [here.fileno()]), b"of the parent"))
assert there.recv(100) == b"of the parent"
"""


def test_a_child_has_its_own():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EAGAIN])
def test_a_system_that_does_not_do_it_has_none(monkeypatch, code):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(BulkWriter, "_call", refused)
    assert module._ThreadLocalWriter().mine is None


def test_a_system_where_writes_do_not_arrive_has_none(monkeypatch):
    monkeypatch.setattr(BulkWriter, "_submit", lambda *_: 0)
    assert module._ThreadLocalWriter().mine is None
