"""Threads that read a SQLite file, each on a separate connection."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

READ_THREADS = 2


class ReaderPool:
    """A few threads that read committed data only. Each opens a connection on first use.

    Args:
        connect: Opens a connection.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="realtime-read")

    async def submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one read transaction on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
            self._connections.append(db)
        db.execute("BEGIN")  # so that head and blocks belong to one snapshot
        try:
            return work(db)
        finally:
            db.execute("ROLLBACK")

    def stop(self) -> None:
        """Finish all submitted reads, then close the connections. Blocks."""
        self._pool.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
