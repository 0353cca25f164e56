"""Payloads, outputs, inputs, answers and metadata have the rules of records."""

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
)

from gateway import connect, metadata, runs, streams, task, wait
from gateway.errors import InvalidValue
from gateway.integrations import _model_streams, _run_tracking
from tests.support.sdk.values import NAN, Aliased, Progress, deep


@pytest.fixture
async def runtime():
    async with connect(store="memory:") as made:
        yield made


async def test_a_payload_is_checked_like_a_record(runtime):
    @task
    async def work(step: Progress | None = None, more: Any = None, who: Aliased | None = None): ...

    for payload, where in (
        ({"step": Progress("one")}, "step.current"),
        ({"step": Progress(1, loss=NAN)}, "step.loss: nan"),
        ({"more": {"a": NAN}}, "more.a: nan"),
        ({"more": 2**60}, "more: 1152921504606846976 is beyond"),
    ):
        with pytest.raises(InvalidValue, match=f"^task 'work': {where}"):
            await work.trigger(**payload)
    assert (await work.trigger_and_wait(who=Aliased(userId=5))).ok
    assert len(await runs.list()) == 1


async def test_an_output_is_checked_like_a_record(runtime):
    made: list[Any] = []

    @task
    async def typed() -> Progress | None:
        return made[-1]

    @task
    async def untyped():
        return made[-1]

    for value in (Progress(1, loss=NAN), Progress("one"), Progress(2**60)):
        made.append(value)
        result = await typed.trigger_and_wait()
        assert result.error is not None and result.error.type == "InvalidValue"
        assert result.error.message.startswith("task 'typed': the output: ")
    for value in (NAN, {"a": [NAN]}, Progress(1, loss=NAN), 2**60):
        made.append(value)
        result = await untyped.trigger_and_wait()
        assert result.error is not None and result.error.type == "InvalidValue"
    made.append(Progress(5))
    assert (await typed.trigger_and_wait()).output == Progress(5)


async def test_an_output_keeps_the_forms_that_only_json_mode_reads(runtime):
    class Sent(BaseModel):
        model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", strict=True)
        data: bytes
        at: dt.datetime

    sent = Sent(data=b"\xff\x00", at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))

    @task
    async def give(sent: Sent) -> Sent:
        return sent

    result = await give.trigger_and_wait(sent)
    assert result.ok, result.error
    assert result.output == sent


async def test_an_input_of_an_aliased_model_arrives(runtime):
    approval = streams.input("aliased-approval", Aliased)

    @task
    async def asks() -> int:
        return (await approval.once(timeout_s=10)).user_id

    run = await asks.trigger()
    await approval.send(run.id, Aliased(userId=7))
    assert (await run.wait()).output == 7
    with pytest.raises(InvalidValue, match=r"userId: .*'x'"):
        approval.send(run.id, Aliased.model_construct(user_id="x"))


async def test_an_answer_is_checked_by_its_own_class(runtime):
    @task
    async def asks() -> int:
        token = await wait.create_token(Aliased)
        for answer in (Progress("one"), {"a": NAN}, 2**60):
            with pytest.raises(InvalidValue):
                await wait.complete_token(token.id, answer)
        await wait.complete_token(token.id, Aliased(userId=4))
        return (await wait.for_token(token)).user_id

    result = await asks.trigger_and_wait()
    assert result.ok, result.error
    assert result.output == 4


async def test_metadata_is_checked_like_a_record(runtime):
    @dataclass
    class State:
        step: Progress | None = None
        loss: float | None = None
        when: dt.date | None = None

    state = metadata.typed(State)

    @task
    async def work() -> None:
        for change in (
            lambda: state.set("step", Progress("one")),
            lambda: state.set("loss", NAN),
            lambda: metadata.set("a", {"b": NAN}),
            lambda: metadata.set("a", 2**53 + 1),
            lambda: metadata.set("a", 10**5000),
            lambda: metadata.set("a", deep(100_000)),
            lambda: metadata.append("a", [Progress(1, loss=NAN)]),
        ):
            with pytest.raises(InvalidValue, match=r"metadata '(step|loss|a)'"):
                change()
        state.set("when", dt.date(2026, 1, 2))
        assert state.current() == State(when=dt.date(2026, 1, 2))

    result = await work.trigger_and_wait()
    assert result.ok, result.error
    for value in (NAN, 2**53 + 1, object()):
        with pytest.raises(InvalidValue, match=r"^metadata: "):
            await work.options(metadata={"a": value}).trigger()
    assert (await runs.retrieve(result.run_id)).metadata == {"when": "2026-01-02"}


def test_numbers_of_a_model_that_a_page_would_round_become_text():
    text = f'{{"id": {2**60}, "more": [{2**53}, 1.5]}}'
    assert _model_streams.parse_json(text) == (True, {"id": str(2**60), "more": [2**53, 1.5]})
    assert _model_streams.to_json({"id": 2**60, "loss": NAN}) == {"id": str(2**60), "loss": "nan"}
    assert isinstance(_model_streams.to_json(deep(150)), str)
    assert _run_tracking.to_json_value({"id": 2**70, "loss": -math.inf, "n": None}) == {
        "id": str(2**70),
        "loss": "-Infinity",
        "n": None,
    }
