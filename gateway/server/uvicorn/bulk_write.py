"""Writes the same bytes to many sockets by one system call, on Linux, without a compiled extension.

Two thirds of the cost of a delivery are the `write` to its socket. Linux's native asynchronous I/O
takes an array of writes. On a non-blocking socket each write is complete before the call returns,
just as with `write`; but the kernel is entered, and Python's lock is taken, once for the array
instead of once for each socket. A self-test on a socket pair runs first; where it fails, the
caller writes to each socket by itself.

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
MIN_BATCH = 16  # below this many sockets a `write` for each is as fast

_PWRITE = 1  # IOCB_CMD_PWRITE
_IOCB_BYTES, _EVENT_BYTES = 64, 32
_WORD, _HALF = 8, 4


class _Calls(NamedTuple):
    """Numbers of the system calls, for which the C library has no functions."""

    setup: int
    destroy: int
    submit: int
    getevents: int


_CALLS = {"x86_64": _Calls(206, 207, 209, 208), "aarch64": _Calls(0, 1, 2, 4)}


class ShortWrite(NamedTuple):
    """A socket that did not accept all bytes.

    Attributes:
        which: Its index among the sockets.
        taken: Bytes that it accepted; also 0 after an error, which the next write reports.
    """

    which: int
    taken: int


class BulkWriter:
    """Writes to many sockets by one system call. Not thread-safe: each thread has its own.

    Raises:
        OSError: the system does not support it.
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
            sockets: File descriptors of non-blocking sockets.
            data: The bytes.

        Yields:
            The sockets that did not accept all bytes.
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
        # The call stops at an invalid descriptor. The sockets after it got nothing: report 0 bytes,
        # so that the caller writes to them and finds the error itself.
        return [
            (index, max(0, of.get(index, 0))) for index in range(count) if of.get(index) != size
        ]

    def _submit(self, count: int) -> int:
        """Execute the first `count` writes; return how many were executed, with their results."""
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
            # Collect every completion, even after a signal: until then the kernel may
            # read the buffer.
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
                raise OSError(errno.ENOTSUP, "io_submit does not complete writes to sockets")


class _ThreadLocalWriter(threading.local):
    """A writer for each thread; None where the system has no support."""

    def __init__(self) -> None:
        try:
            self.mine: BulkWriter | None = BulkWriter()
        except OSError:
            self.mine = None


_writers = _ThreadLocalWriter()


def _forget() -> None:
    """Make new writers after a fork: the kernel's context belongs to the parent process."""
    global _writers
    _writers = _ThreadLocalWriter()


os.register_at_fork(after_in_child=_forget)


def bulk_writer() -> BulkWriter | None:
    """Return this thread's bulk writer, or None where the system has no support."""
    return _writers.mine
