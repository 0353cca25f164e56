"""The thread that writes a SQLite file: it groups waiting operations into one commit.

Callers receive their outcomes on the event loop, after the commit.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.errors import RealtimeError
from gateway.model.records import StreamKey
from gateway.model.retention import Retention
from gateway.stores.sqlite.blocks import CommittedBatch
from gateway.stores.sqlite.errors import is_storage_error, to_store_error
from gateway.stores.sqlite.transactions import Transactions

MAX_GROUP = 2000  # operations in one commit: bounds how long the first of them waits

Work = Callable[[Transactions], Any]
PublishCommit = Callable[[Mapping[StreamKey, CommittedBatch], set[StreamKey], set[str]], None]
Completion = asyncio.Future[Any] | Callable[[Any], None]  # the callback also receives errors


class WriterThread:
    """Executes all waiting operations in one transaction, and delivers outcomes after the commit.

    Args:
        connection: The only connection that writes.
        path: The database file, for messages.
        loop: The event loop of the callers.
        publish_commit: Publishes the changes of a commit; called on the event loop.
        on_refused: Called on the event loop when a commit failed.
        retention: Which records and runs may be deleted.

    Attributes:
        is_refused: The last commit failed because of the file or the disk.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        publish_commit: Callable[
            [Mapping[StreamKey, CommittedBatch], set[StreamKey], set[str]], None
        ],
        on_refused: Callable[[], None],
        retention: Retention,
    ) -> None:
        self.is_refused = False
        self._db = connection
        self._path = path
        self._loop = loop
        self._publish_commit = publish_commit
        self._on_refused = on_refused
        self._transactions = Transactions(connection, retention)
        self._pending: list[tuple[Work, Completion]] = []  # since the last dispatch
        self._queue: queue.SimpleQueue[list[tuple[Work, Completion]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="realtime-write", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> asyncio.Future[Any]:
        """Execute `work` in the next commit and return a future of its outcome."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue(work, future)
        return future

    def begin(self, work: Work, done: Callable[[Any], None]) -> None:
        """Execute `work` in the next commit, then call `done` on the event loop."""
        self._enqueue(work, done)

    def _enqueue(self, work: Work, waiting: Completion) -> None:
        if not self._pending:
            # Operations of one event-loop iteration form one group. If each were dispatched alone,
            # the thread would commit the first one and make the others wait.
            self._loop.call_soon(self._dispatch)
        self._pending.append((work, waiting))

    def _dispatch(self) -> None:
        pending, self._pending = self._pending, []
        for at in range(0, len(pending), MAX_GROUP // 2):
            self._queue.put(pending[at : at + MAX_GROUP // 2])

    @property
    def has_written(self) -> bool:
        """Whether anything was committed since the file got its current incarnation."""
        return self._transactions.has_written

    @property
    def has_outgrown(self) -> bool:
        """Whether streams exceed their retention limits."""
        return bool(self._transactions.outgrown)

    async def stop(self) -> None:
        """Execute all submitted operations, then end the thread."""
        self._dispatch()  # on the loop: concurrent dispatches could reorder groups
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        is_stopping = False
        while not is_stopping:
            group, is_stopping = self._take_group()
            if group:
                self._commit(group)
        self._db.close()

    def _take_group(self) -> tuple[list[tuple[Work, Completion]], bool]:
        group: list[tuple[Work, Completion]] = []
        pending = self._queue.get()
        while pending is not None:
            group += pending
            if len(group) > MAX_GROUP // 2:  # the next batch may be half a group
                return group, False
            try:
                pending = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[tuple[Work, Completion]]) -> None:
        transactions = self._transactions
        try:
            transactions.begin()
            outcomes = [self._outcome(work) for work, _ in group]
            transactions.commit()
        except Exception as error:
            self._roll_back()
            if len(group) > 1 and not is_storage_error(error):
                for item in group:  # one failing operation must not fail the others
                    self._commit([item])
                return
            self.is_refused = isinstance(error, sqlite3.Error)
            failure = to_store_error(self._path, error, "written")
            self._answer([(waiting, failure) for _, waiting in group], self._on_refused)
            return
        self.is_refused = False
        grown, changed, ended = transactions.grown, transactions.changed, transactions.ended_runs
        answers = [(who, outcome) for (_, who), outcome in zip(group, outcomes, strict=True)]
        self._answer(answers, lambda: self._publish_commit(grown, changed, ended))

    def _outcome(self, work: Work) -> Any:
        """Execute one operation. A `RealtimeError` is its outcome; other errors fail the group."""
        try:
            return work(self._transactions)
        except RealtimeError as error:
            return error

    def _roll_back(self) -> None:
        try:
            self._transactions.rollback()
        except sqlite3.Error:
            pass  # the transaction is gone already; the next `begin` reports a lasting error

    def _answer(self, answers: list[tuple[Completion, Any]], then: Callable[[], None]) -> None:
        def deliver() -> None:
            for waiting, outcome in answers:
                if not isinstance(waiting, asyncio.Future):
                    waiting(outcome)
                elif waiting.done():
                    continue  # the caller was cancelled
                elif isinstance(outcome, RealtimeError):
                    waiting.set_exception(outcome)
                else:
                    waiting.set_result(outcome)
            then()

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            pass  # the loop is closed, and no caller is left
