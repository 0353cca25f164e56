"""One question for many: shared, never older than who asked, and nobody's to cancel."""

import asyncio

import pytest

from gateway._internal.single_flight import SingleFlight
from gateway.errors import StoreUnavailable
from tests.support.gateways import until


class Answers:
    """Answers with how often it was asked, when the test lets it."""

    def __init__(self):
        self.asked = 0
        self.waiting = []
        self.failure = None

    async def __call__(self, key):
        self.asked += 1
        answer = self.asked
        let = asyncio.get_running_loop().create_future()
        self.waiting.append(let)
        await let
        if self.failure is not None:
            raise self.failure
        return key, answer

    async def let_go(self):
        await until(lambda: self.waiting)
        self.waiting.pop(0).set_result(None)


async def test_single_flight_joins_callers_until_the_call_starts():
    answers = Answers()
    asking = SingleFlight(answers)
    first = [asyncio.create_task(asking.fetch("a")) for _ in range(3)]
    await until(lambda: answers.waiting)
    late = [asyncio.create_task(asking.fetch("a")) for _ in range(4)]
    other = asyncio.create_task(asking.fetch("b"))
    await until(lambda: answers.asked == 2)
    assert not any(task.done() for task in (*first, *late))
    await answers.let_go()
    assert await asyncio.gather(*first) == [("a", 1)] * 3
    await answers.let_go()
    assert await other == ("b", 2)
    await answers.let_go()
    assert await asyncio.gather(*late) == [("a", 3)] * 4
    assert not asking._next and not asking._in_flight


async def test_canceled_caller_does_not_cancel_the_shared_call():
    answers = Answers()
    asking = SingleFlight(answers)
    first, second = [asyncio.create_task(asking.fetch("a")) for _ in range(2)]
    await until(lambda: answers.waiting)
    first.cancel()
    await answers.let_go()
    assert await second == ("a", 1)
    assert first.cancelled()


async def test_failure_reaches_all_joined_callers_and_no_later_one():
    answers = Answers()
    answers.failure = StoreUnavailable("gone")
    asking = SingleFlight(answers)
    first = [asyncio.create_task(asking.fetch("a")) for _ in range(2)]
    await answers.let_go()
    for each in await asyncio.gather(*first, return_exceptions=True):
        assert isinstance(each, StoreUnavailable)
    answers.failure = None
    again = asyncio.create_task(asking.fetch("a"))
    await answers.let_go()
    assert await again == ("a", 2)


async def test_unawaited_failure_does_not_warn():
    answers = Answers()
    answers.failure = StoreUnavailable("gone")
    asking = SingleFlight(answers)
    task = asyncio.create_task(asking.fetch("a"))
    await until(lambda: answers.waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await answers.let_go()
    await until(lambda: not asking._in_flight)
