"""`realtime serve` as a process that reports its number of asyncio tasks.

Run as a script with the arguments of `realtime`. On SIGUSR1 it collects garbage and writes the
number of asyncio tasks to the file FAULTS_TASKS. FAULTS_PING_MS sets a shorter ping interval.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

from gateway import protocol

if "FAULTS_PING_MS" in os.environ:
    protocol.PING_MS = int(os.environ["FAULTS_PING_MS"])  # before other modules import its value

from gateway.cli import main


def _write_task_count(_signal: int, _frame: object) -> None:
    gc.collect()
    tasks = len(asyncio.all_tasks(asyncio.get_running_loop()))
    path = Path(os.environ["FAULTS_TASKS"])
    new = path.with_suffix(".new")
    new.write_text(str(tasks))
    new.rename(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _write_task_count)
    main()
