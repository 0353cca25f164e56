"""Payloads and outputs of tasks."""

import pytest
from pydantic import BaseModel

from gateway import runs, task
from gateway.errors import (
    InvalidValue,
)
from tests.support.sdk.tasks import Item


class Order(BaseModel):
    items: list[Item]
    note: str | None = None


# Payload and output.


async def test_payload_and_output_are_of_their_types(runtime):
    @task
    async def process(order: Order, items: list[Item], flag: bool = True) -> Item:
        assert isinstance(order, Order)
        assert isinstance(order.items[0], Item)
        assert isinstance(items[0], Item)
        assert flag is True
        return Item(order.items[0].name, items[0].count)

    order = Order(items=[Item("a")])
    result = await process.trigger_and_wait(order, items=[Item("b", 3)])
    assert result.output == Item("a", 3)
    run = await runs.retrieve(result.run_id)
    assert run.payload == {
        "order": {"items": [{"name": "a", "count": 1}], "note": None},
        "items": [{"name": "b", "count": 3}],
        "flag": True,
    }
    assert run.output == {"name": "a", "count": 3}
    (again,) = await process.batch_trigger_and_wait([run.payload])
    assert again.output == result.output


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'n'"),
        ((1, 2, 3), {}, "too many"),
        ((), {"n": 1, "x": 1}, "unexpected keyword"),
        (("many",), {}, r"n: .*'many'"),
        ((1,), {"item": {"name": 3}}, r"item\.name"),
    ],
)
async def test_a_bad_payload_is_refused_before_there_is_a_run(runtime, args, kwargs, message):
    @task
    async def work(n: int, item: Item = Item("x")): ...  # noqa: B008 - it is never changed

    with pytest.raises(InvalidValue, match=rf"task 'work'.*{message}"):
        await work.trigger(*args, **kwargs)
    assert await runs.list() == []


@pytest.mark.parametrize("start", ["trigger", "payload", "batch"])
async def test_unknown_argument_error_lists_known_arguments(runtime, start):
    @task
    async def work(name: str, count: int = 1): ...

    @task
    async def idle(): ...

    def begin(which, arguments):
        if start == "trigger":
            return which.trigger(**arguments)
        if start == "payload":
            return which.trigger_payload(arguments)
        return which.batch_trigger([arguments])

    message = "task 'work': unexpected keyword argument 'cuont'; the arguments are count, name"
    with pytest.raises(InvalidValue) as refused:
        await begin(work, {"name": "a", "cuont": 3})
    assert refused.value.message == message
    with pytest.raises(InvalidValue, match="'m'; the task has no arguments"):
        await begin(idle, {"m": 3})
    with pytest.raises(InvalidValue) as refused:
        await begin(work, {"x" * 100_000: 1})
    assert len(refused.value.message) < 400
    assert await runs.list() == []


async def test_a_payload_has_a_limit(runtime):
    @task
    async def work(text: str): ...

    with pytest.raises(InvalidValue, match=r"the payload is \d+ bytes; the limit is 524288"):
        await work.trigger("x" * (1 << 19))


async def test_an_output_that_does_not_fit_fails_the_run(runtime):
    @task
    async def work() -> int:
        return "seven"

    result = await work.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "InvalidValue")
    assert "task 'work': the output" in result.error.message


async def test_an_output_that_is_no_json_fails_the_run(runtime):
    @task
    async def work():
        return object()

    result = await work.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "InvalidValue")


async def test_parameters_have_to_have_names(runtime):
    @task
    async def work(*numbers: int): ...

    with pytest.raises(InvalidValue, match="name each parameter"):
        await work.trigger(1, 2)


async def test_parameters_may_be_called_what_a_model_forbids(runtime):
    @task
    async def work(_private: int, model_dump: int, json: int, self: int) -> int:
        return _private + model_dump + json + self

    assert (await work.trigger_and_wait(1, 2, 3, 4)).output == 10


LARGE = 2**53 + 1


# Handles.


async def test_integers_that_pages_know_exactly_arrive_as_they_are(runtime):
    @task
    async def work(values: list[int]) -> list[int]:
        return values

    values = [2**53, -(2**53), 2**53 - 1]
    assert (await work.trigger_and_wait(values=values)).output == values


async def test_a_larger_integer_is_refused_and_never_becomes_a_float(runtime):
    @task
    async def give() -> int:
        return LARGE

    @task
    async def take(value: int): ...

    for call in (take.trigger(LARGE), take.trigger_and_wait(LARGE)):
        with pytest.raises(InvalidValue, match=r"'take': value: 9007199254740993 is beyond"):
            await call
    result = await give.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "InvalidValue")
    assert "'give': the output" in result.error.message
