"""`Store.begin_append` for stores whose appends await: one task for each append."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gateway.model.log import Appended
from gateway.stores.base import OnAppended


class Begun:
    """The running append tasks of one store. It references them until they finish."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Appended]] = set()

    def begin(self, append: Coroutine[Any, Any, Appended], done: OnAppended) -> None:
        """Run an append as a task; see `Store.begin_append`."""
        task = asyncio.get_running_loop().create_task(append)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(task, done))

    def _end(self, task: asyncio.Task[Appended], done: OnAppended) -> None:
        self._tasks.discard(task)
        if not task.cancelled():  # a cancelled task means a closing loop: no caller is left
            error = task.exception()
            if error is None:
                done(task.result())
            elif isinstance(error, Exception):
                done(error)
