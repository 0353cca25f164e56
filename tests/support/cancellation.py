"""A coroutine that is called off at a suspension point of one's choice."""

import asyncio


class CutOff:
    """Await a coroutine; the awaiting task is canceled where the coroutine suspends the n-th time.

    Args:
        work: The coroutine.
        at: Which suspension, from 0.
        is_late: Cancel only once what it waits for has happened, before it learns of that.

    Attributes:
        was_cut: It suspended so often.
    """

    def __init__(self, work, at, *, is_late):
        self._work = work
        self._at = at
        self._is_late = is_late
        self.was_cut = False

    def __await__(self):
        steps, advance, value = self._work.__await__(), "send", None
        at = 0
        while True:
            try:
                waited_for = getattr(steps, advance)(value)
            except StopIteration as end:
                return end.value
            if at == self._at:
                self._cut(waited_for)
            at += 1
            try:
                advance, value = "send", (yield waited_for)
            except BaseException as error:
                advance, value = "throw", error

    def _cut(self, waited_for):
        self.was_cut = True
        task = asyncio.current_task()
        if self._is_late and waited_for is not None:
            waited_for.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()
