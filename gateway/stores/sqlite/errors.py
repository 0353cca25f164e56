"""Convert errors of a SQLite file to `StoreUnavailable`, with a message that names the remedy."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Literal

import msgspec
import orjson

from gateway.errors import StoreUnavailable

BUSY_TIMEOUT_S = 5.0  # another program may lock the file briefly

DAMAGED = (msgspec.MsgspecError, orjson.JSONDecodeError, UnicodeDecodeError)
"""Errors that decoding a row raises when its content is damaged."""

_FULL = (
    "the disk is full. Make room: what was acknowledged is kept, and appends go on by themselves"
)
_READ_ONLY = "it may not be written. Let this process write to the file and to its folder"
_BROKEN = (
    "it is damaged. Stop the gateway, keep the file for inspection, and put a backup in its place: "
    "realtime restore FILE --force"
)
_REFUSED = (
    "the disk does not do what it is asked. It may be full, over a quota or a limit of file size, "
    "read-only, or failing; what was acknowledged is kept"
)
_ADVICE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: "look whether its folder is there and this process may write to it",
    sqlite3.SQLITE_BUSY: "another program holds it locked. Close what has it open",
    sqlite3.SQLITE_CORRUPT: _BROKEN,
    sqlite3.SQLITE_NOTADB: "it holds something else. Name another file, or put a backup in its "
    "place: realtime restore FILE --force",
    sqlite3.SQLITE_IOERR: _REFUSED,
}
_ADVICE_BY_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
}


def to_store_error(
    path: Path, error: Exception, doing: Literal["opened", "read", "written"]
) -> StoreUnavailable:
    """Build the error for users: it names the file, the fault, and the remedy."""
    advice = _advice(error)
    what = f"the store {path} cannot be {doing}: {error}"
    return StoreUnavailable(f"{what}: {advice}" if advice else what)


def _advice(error: Exception) -> str | None:
    if isinstance(error, DAMAGED):
        return _BROKEN
    if isinstance(error, OSError):
        return _ADVICE_BY_ERRNO.get(error.errno or 0)
    return _ADVICE.get(_code(error))


def _code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", None)  # unset if Python raised the error itself
    return (code or 0) & 0xFF


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk is full, or may be full (an I/O error)."""
    if isinstance(error, sqlite3.Error):
        return _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_storage_error(error: Exception) -> bool:
    """Whether an error concerns the file, so that every operation of a group fails with it."""
    return _code(error) in _ADVICE and _code(error) != sqlite3.SQLITE_FULL
