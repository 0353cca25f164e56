"""`realtime serve` as a process that can be looked into.

Run as a script with the command line's arguments. SIGUSR1 writes how many asyncio tasks there are,
after a collection of garbage, to the file that FAULTS_TASKS names. FAULTS_PING_MS shortens what
the gateway asks of clients.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

from gateway import protocol

if "FAULTS_PING_MS" in os.environ:
    protocol.PING_MS = int(os.environ["FAULTS_PING_MS"])  # before anything takes its value over

from gateway.cli import main


def _tell(_signal: int, _frame: object) -> None:
    gc.collect()
    tasks = len(asyncio.all_tasks(asyncio.get_running_loop()))
    path = Path(os.environ["FAULTS_TASKS"])
    beside = path.with_suffix(".new")
    beside.write_text(str(tasks))
    beside.rename(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    main()
