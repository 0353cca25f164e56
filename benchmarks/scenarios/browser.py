"""50,000 records at 10,000 a second into one page: `python -m benchmarks.scenarios.browser`.

The first part runs the real hook in React in jsdom; it measures the CPU time of the client alone.
The second part runs a real gateway and a real Chromium with a page of a Reflex production build.
Needs Node, Chromium and the npm registry.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from benchmarks.machine import progress
from benchmarks.report import HEAD, Effort, Result, interleaved

NAME = "browser"
ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
VALUES = 50_000
LONG_TASK_MS = 200  # limit for a task that blocks the page
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
PORT = 3790

OBSERVE = """
() => {
  window.longTasks = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.longTasks.push(entry.duration);
  }).observe({ type: "longtask", buffered: true });
}
"""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment for Node and Reflex."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "REALTIME_STORE": f"sqlite:{folder}/bench.db",
        "REALTIME_SECRET_KEY": "benchmark-secret-" * 3,
        "REFLEX_USE_NPM": "1",
        "REFLEX_TELEMETRY_ENABLED": "false",
    }


def measure(effort: Effort) -> Iterator[Result]:
    """Measure the client alone in React, then the whole path into Chromium."""
    with two_cores(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from measure_react(folder, effort)
        progress("building the page")
        with reflex_app(folder) as url:
            yield from asyncio.run(measure_page(url, effort.runs))


@contextmanager
def two_cores() -> Iterator[None]:
    """Allow child processes all cores: neither the page's server nor the browser is the load."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_react(folder: Path, effort: Effort) -> Iterator[Result]:
    """Measure the CPU time of React in jsdom, for several throttle windows and record limits."""
    env = environment(folder)
    packages = ["react@19", "react-dom@19", "jsdom"]
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
    subprocess.run([*install, *packages], check=True, env=env, cwd=folder)
    windows = [(throttle_ms, kept) for throttle_ms in (0, 16, 100) for kept in ("all", "1000")]
    measures = {
        f"window {throttle_ms} ms, {kept} kept": partial(_react, folder, throttle_ms, kept)
        for throttle_ms, kept in windows
    }
    taken, failed = interleaved("React in jsdom", effort, measures)
    for (throttle_ms, _), (name, each) in zip(windows, taken.items(), strict=True):
        what = f"{VALUES:,} records, {name}: CPU s"
        values = tuple(float(results["cpu_s"]) for results in each)
        note = failed.get(name, "")
        yield Result(NAME, what, "React in jsdom", values, None, throttle_ms, note)


def _react(folder: Path, throttle_ms: int, kept: str) -> dict[str, float]:
    script = ["node", str(HERE / "react.mjs"), str(folder), str(throttle_ms), kept]
    done = subprocess.run(script, check=True, env=environment(folder), capture_output=True)
    results: dict[str, float] = json.loads(done.stdout)
    lost = VALUES - results["kept"] - results["dropped"]
    if lost:
        raise RuntimeError(f"{lost} of {VALUES} records were lost")
    return results


@contextmanager
def reflex_app(folder: Path) -> Iterator[str]:
    """Run the benchmark's app as a production build. Yields its URL."""
    target = folder / "app"
    shutil.copytree(HERE / "browser_app", target)
    shutil.copytree(ROOT / "reflex.lock", target / "reflex.lock")
    command = [sys.executable, "-m", "reflex", "run", "--env", "prod"]
    ports = ["--frontend-port", str(PORT), "--backend-port", str(PORT)]
    with (folder / "reflex.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *ports],
            cwd=target,
            env=environment(folder),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://localhost:{PORT}"
        _wait_for(f"{url}/healthz", process, folder / "reflex.log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 300
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the app did not start:\n{log.read_text()[-4000:]}")


async def measure_page(url: str, runs: int) -> list[Result]:
    """Measure the page's CPU time and longest task, and check what it shows."""
    taken = []
    async with async_playwright() as playwright:
        path = shutil.which("chromium") or playwright.chromium.executable_path
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        for turn in range(1, runs + 1):
            progress(f"Chromium, run {turn} of {runs}")
            page = await browser.new_page()
            await page.goto(url, wait_until="networkidle")
            taken.append(await _one_run(page))
            await page.close()
        await browser.close()
    what = f"{VALUES:,} records at 10,000/s, all shown in order"
    return [
        Result(NAME, f"{what}: {label}", "Chromium, production build", values)
        for label, values in zip(
            ("longest task in ms", "CPU s of the page", "s until the last was shown"),
            zip(*taken, strict=True),
            strict=True,
        )
    ]


async def _one_run(page: Page) -> tuple[float, float, float]:
    """Return the longest task in ms, the page's CPU time and the time taken in s."""
    await page.evaluate(OBSERVE)
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before, began = await _cpu_s(session), time.perf_counter()
    await page.locator("#start").click()
    ended = "() => document.getElementById('status').innerText === 'ended'"
    await page.wait_for_function(ended, timeout=120_000)
    took_s = time.perf_counter() - began
    cpu_s = await _cpu_s(session) - before
    shown = {id: await page.locator(f"#{id}").inner_text() for id in ("count", "latest", "gaps")}
    longest = max(await page.evaluate("window.longTasks"), default=0)
    if shown["count"] != str(VALUES) or shown["latest"] != str(VALUES - 1):
        raise RuntimeError(f"records were lost: {shown}")
    if longest > LONG_TASK_MS:
        progress(f"a task took {longest:.0f} ms; the limit is {LONG_TASK_MS} ms")
    return longest, cpu_s, took_s


async def _cpu_s(session: Any) -> float:
    metrics = (await session.send("Performance.getMetrics"))["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics}["TaskDuration"]


def main() -> None:
    """Measure the client alone, then the whole path."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios.browser", description=__doc__
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each measurement (default 3)")
    parser.add_argument("--only", choices=["react", "chromium"], help="measure only this")
    chosen = parser.parse_args()
    print(HEAD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.only != "chromium":
            for result in measure_react(folder, Effort(chosen.runs)):
                print(result.row(), flush=True)
        if chosen.only != "react":
            with reflex_app(folder) as url:
                for result in asyncio.run(measure_page(url, chosen.runs)):
                    print(result.row(), flush=True)


if __name__ == "__main__":
    main()
