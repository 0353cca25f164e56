"""The same bytes to many sockets by one system call, where Linux lets us; nothing to compile.

Two thirds of what a delivery costs are the `write` to its socket. Linux's native asynchronous I/O
takes an array of writes at once. On a socket that does not block each of them is done before the
call returns, just as `write` would, but without entering the kernel, and without Python's lock,
for each. It is tried on a pair of sockets first: what is not as expected is not used.

Source:
    io_setup(2), io_submit(2), io_getevents(2); `struct iocb` and `struct io_event` of
    linux/aio_abi.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import socket
import sys
import threading
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_BATCH = 1024  # writes in one call
MIN_BATCH = 16  # sockets below which calling `write` for each is as good

_PWRITE = 1  # IOCB_CMD_PWRITE
_IOCB_BYTES, _EVENT_BYTES = 64, 32
_WORD, _HALF = 8, 4


class _Calls(NamedTuple):
    """Numbers of the system calls, which the C library has no functions for."""

    setup: int
    destroy: int
    submit: int
    getevents: int


_CALLS = {"x86_64": _Calls(206, 207, 209, 208), "aarch64": _Calls(0, 1, 2, 4)}


class ShortWrite(NamedTuple):
    """A socket that did not take everything.

    Attributes:
        which: Index of it among those written to.
        taken: Bytes that it took; 0 also when writing failed, which writing again will tell.
    """

    which: int
    taken: int


class BulkWriter:
    """Writes to many sockets at once. Not to be shared between threads.

    Raises:
        OSError: this system does not do it.
    """

    def __init__(self) -> None:
        if sys.platform != "linux" or platform.machine() not in _CALLS or sys.maxsize < 1 << 32:
            raise OSError(errno.ENOSYS, "no known system call for it")
        self._calls = _CALLS[platform.machine()]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        blocks = bytearray(MAX_BATCH * _IOCB_BYTES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(blocks))
        addresses = [start + i * _IOCB_BYTES for i in range(MAX_BATCH)]
        self._blocks = (ctypes.c_void_p * MAX_BATCH)(*addresses)
        words, halves = memoryview(blocks).cast("Q"), memoryview(blocks).cast("i")
        words[0 :: _IOCB_BYTES // _WORD] = array("Q", range(MAX_BATCH))  # aio_data
        memoryview(blocks).cast("H")[8 :: _IOCB_BYTES // 2] = array("H", [_PWRITE]) * MAX_BATCH
        self._sockets = halves[5 :: _IOCB_BYTES // _HALF]  # aio_fildes
        self._buffers = words[3 :: _IOCB_BYTES // _WORD]  # aio_buf
        self._sizes = words[4 :: _IOCB_BYTES // _WORD]  # aio_nbytes
        events = bytearray(MAX_BATCH * _EVENT_BYTES)
        self._events = (ctypes.c_char * len(events)).from_buffer(events)
        self._written = memoryview(events).cast("q")[0 :: _EVENT_BYTES // _WORD]  # data
        self._results = memoryview(events).cast("q")[2 :: _EVENT_BYTES // _WORD]  # res
        self._call(self._calls.setup, ctypes.c_long(MAX_BATCH), ctypes.byref(self._context))
        self._self_test()

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._libc.syscall(ctypes.c_long(self._calls.destroy), self._context)

    def write(self, sockets: array[int], data: bytes) -> Iterator[ShortWrite]:
        """Write the same bytes to each socket.

        Args:
            sockets: File descriptors; none of them blocks.
            data: Any number of bytes.

        Yields:
            Those that did not take all.
        """
        for start in range(0, len(sockets), MAX_BATCH):
            some = sockets[start : start + MAX_BATCH]
            for index, taken in self._write(some, data):
                yield ShortWrite(start + index, taken)

    def _write(self, sockets: array[int], data: bytes) -> list[tuple[int, int]]:
        count, size = len(sockets), len(data)
        buffer = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
        self._sockets[:count] = sockets
        self._buffers[:count] = array("Q", [buffer or 0]) * count
        self._sizes[:count] = array("Q", [size]) * count
        written = self._submit(count)
        taken = self._results[:written].tolist()
        if taken.count(size) == count:
            return []
        of = dict(zip(self._written[:written].tolist(), taken, strict=True))
        # A call stops at a descriptor that is none; those behind it were not written to.
        return [
            (index, max(0, of.get(index, 0))) for index in range(count) if of.get(index) != size
        ]

    def _submit(self, count: int) -> int:
        """Have the first writes carried out; gives how many were, with their results in place."""
        try:
            accepted = self._call(
                self._calls.submit, self._context, ctypes.c_long(count), self._blocks
            )
        except OSError:
            return 0
        done = 0
        while done < accepted:
            rest = ctypes.c_long(accepted - done)
            place = ctypes.byref(self._events, done * _EVENT_BYTES)
            # Until all are over, whatever interrupts: the kernel must be through with the bytes.
            with contextlib.suppress(InterruptedError):
                done += self._call(self._calls.getevents, self._context, rest, rest, place, None)
        return accepted

    def _call(self, number: int, *arguments: Any) -> int:
        result = int(self._libc.syscall(ctypes.c_long(number), *arguments))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def _self_test(self) -> None:
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.setblocking(False)
            left = list(self.write(array("i", [here.fileno()]), b"tried"))
            if left or there.recv(16) != b"tried":
                raise OSError(errno.ENOTSUP, "writes of many sockets are not carried out at once")


class _ThreadLocalWriter(threading.local):
    """The one of each thread; None where there is none."""

    def __init__(self) -> None:
        try:
            self.mine: BulkWriter | None = BulkWriter()
        except OSError:
            self.mine = None


_writers = _ThreadLocalWriter()


def _forget() -> None:
    """A child has to make its own: the kernel's side stays with the parent."""
    global _writers
    _writers = _ThreadLocalWriter()


os.register_at_fork(after_in_child=_forget)


def bulk_writer() -> BulkWriter | None:
    """Return what writes to many sockets at once in this thread; None where nothing does."""
    return _writers.mine
