"""Appends that are begun and not awaited, for stores whose work needs a task in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gateway.model.log import Appended
from gateway.stores.base import OnAppended


class Begun:
    """The appends of one store that were begun so and are under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Appended]] = set()

    def begin(self, append: Coroutine[Any, Any, Appended], done: OnAppended) -> None:
        """Run an append beside; see `Store.begin_append`."""
        task = asyncio.get_running_loop().create_task(append)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(task, done))

    def _end(self, task: asyncio.Task[Appended], done: OnAppended) -> None:
        self._tasks.discard(task)
        if not task.cancelled():  # else the loop is closing, and nobody is there to be told
            error = task.exception()
            if error is None:
                done(task.result())
            elif isinstance(error, Exception):
                done(error)
