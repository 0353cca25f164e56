"""Cold start: import time, time until the gateway is ready, and installed bytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from benchmarks.peers.servers import ENVIRONMENT, free_port
from benchmarks.report import Effort, Result, interleaved

NAME = "cold-start"
HERE = "here"
OURS = "realtime-streams"
IMPORTS = {
    "import gateway": ("here", "import gateway"),
    "a worker's dependencies: import websockets, pydantic": (
        "its libraries alone",
        "import websockets.asyncio.client, pydantic",
    ),
    "the gateway's application": ("here, server", "import gateway.server.serve"),
    "Starlette and uvicorn alone": (
        "Starlette + uvicorn",
        "import starlette.applications, starlette.websockets, uvicorn",
    ),
}
START_TIMEOUT_S = 30.0


def measure(effort: Effort) -> Iterator[Result]:
    """Measure imports in fresh processes, the time until ready, and the installed bytes."""
    effort = replace(effort, runs=max(3, effort.runs))
    programs = {"nothing": "pass"} | {what: code for what, (_, code) in IMPORTS.items()}
    measures = {what: partial(_import_ms, code) for what, code in programs.items()}
    taken, _ = interleaved("import", replace(effort, runs=2 * effort.runs), measures)
    for what, (server, _) in IMPORTS.items():
        pairs = zip(taken[what], taken["nothing"], strict=False)
        values = tuple(with_it - without for with_it, without in pairs)
        yield Result(NAME, f"{what}: import time in ms, above Python's own", server, values)
    started, failed = interleaved("start", effort, {HERE: _start_ms})
    label = "from the command to the first 200 of /readyz, in ms"
    yield Result(NAME, label, HERE, tuple(started[HERE]), None, None, failed.get(HERE, ""))
    for extras in ("", "server", "redis"):
        size_mb, count = _installed_mb(extras)
        server = f"{OURS}[{extras}]" if extras else OURS
        what = f"install size in MB, {count} distributions"
        yield Result(NAME, what, server, (size_mb,))


def _import_ms(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - began) * 1000


def _start_ms() -> float:
    port = free_port()
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--store", f"sqlite:{folder}/b.db", "--log-level", "error"],
            env={**os.environ, **ENVIRONMENT},
        )
        try:
            while not _is_ready(port):
                if time.perf_counter() - began > START_TIMEOUT_S:
                    raise TimeoutError(f"the gateway was not ready within {START_TIMEOUT_S:g} s")
                time.sleep(0.002)
            return (time.perf_counter() - began) * 1000
        finally:
            process.terminate()
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _installed_mb(extra: str) -> tuple[float, int]:
    """Return the size of this project with its dependencies, and the number of distributions."""
    found: dict[str, Distribution] = {}
    wanted = [Requirement(f"{OURS}[{extra}]" if extra else OURS)]
    while wanted:
        requirement = wanted.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        try:
            there = distribution(name)
        except PackageNotFoundError:
            continue
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found[key] = there
        for line in there.requires or ():
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                wanted.append(needed)
    by_name = {each.name: each for each in found.values()}
    return sum(map(_bytes_of, by_name.values())) / 1e6, len(by_name)


def _bytes_of(there: Distribution) -> int:
    if there.name == OURS:  # an editable install has no files in site-packages
        root = Path(__file__).parents[2]
        files = [each for top in ("gateway", "ui") for each in (root / top).rglob("*")]
        return sum(
            each.stat().st_size for each in files if each.suffix != ".pyc" and each.is_file()
        )
    paths = [Path(str(file.locate())) for file in there.files or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.exists())
