"""Install and run the published packages for Durable Streams."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

CONFORMANCE = Path(__file__).parents[2] / "e2e" / "conformance"
INSTALL_S = 300


def tool(name: str) -> str:
    """Return the path of `node` or `npm`. Skips the test if it is not installed."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} found: `make setup` installs it into .venv")
    return found


@functools.cache
def install(folder: Path = CONFORMANCE) -> None:
    """Install the packages of a folder's `package-lock.json`, unless they are installed."""
    done, lock = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
    with FileLock(Path(sys.prefix, "npm.lock")):  # tests run in several processes
        if done.exists() and done.stat().st_mtime >= lock.stat().st_mtime:
            return
        command = [tool("npm"), "ci", "--no-audit", "--no-fund"]
        finished = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        done.touch()


def start_suite(url: str, report: Path) -> subprocess.Popen[str]:
    """Start the conformance tests against a gateway. They write a report when they end."""
    install()
    vitest = CONFORMANCE / "node_modules" / "vitest" / "vitest.mjs"
    return subprocess.Popen(
        [tool("node"), str(vitest), "run", "--reporter=json", f"--outputFile={report}"],
        cwd=CONFORMANCE,
        env={"CONFORMANCE_URL": url, "PATH": str(Path(tool("node")).parent), "CI": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class Outcome(NamedTuple):
    """The result of one test. Its area is core, forks or subscriptions."""

    area: str
    status: str
    name: str
    messages: str


def outcomes(report: Path) -> list[Outcome]:
    """Return the result of each test in a report."""
    tests = [
        test
        for file in json.loads(report.read_text())["testResults"]
        for test in file["assertionResults"]
    ]
    return [
        Outcome(
            _area(test["ancestorTitles"][0]),
            test["status"],
            test["fullName"],
            "\n".join(test["failureMessages"]),
        )
        for test in tests
    ]


def _area(title: str) -> str:
    if title.startswith("Fork - "):
        return "forks"
    return "subscriptions" if title == "Reserved subscription APIs" else "core"
