"""Marks for tests that need something of the machine. Each reason says what to install."""

import shutil
from pathlib import Path

import pytest

from gateway.server.uvicorn.bulk_write import bulk_writer


def program(name: str, package: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not on PATH; `package` is Debian's that has it."""
    reason = f"{name} is not on PATH: apt install {package}"
    return pytest.mark.skipif(shutil.which(name) is None, reason=reason)


def proc() -> pytest.MarkDecorator:
    """Skip a test where the system does not tell of its processes in /proc."""
    is_there = Path("/proc/self/stat").exists()
    return pytest.mark.skipif(not is_there, reason="there is no /proc: run it on Linux")


def bulk_writes() -> pytest.MarkDecorator:
    """Skip a test where the system does not write to many sockets by one call."""
    reason = "no io_submit for sockets here: run it on Linux, x86-64 or aarch64"
    return pytest.mark.skipif(bulk_writer() is None, reason=reason)
