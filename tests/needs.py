"""Marks for tests that need something of the machine. Each reason says what to install."""

import shutil
from pathlib import Path

import pytest


def program(name: str, package: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not on PATH; `package` is Debian's that has it."""
    reason = f"{name} is not on PATH: apt install {package}"
    return pytest.mark.skipif(shutil.which(name) is None, reason=reason)


def proc() -> pytest.MarkDecorator:
    """Skip a test where the system does not tell of its processes in /proc."""
    is_there = Path("/proc/self/stat").exists()
    return pytest.mark.skipif(not is_there, reason="there is no /proc: run it on Linux")
