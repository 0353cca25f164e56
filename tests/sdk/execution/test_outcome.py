"""Whatever a function does, its run reaches a final status, with the best text that can be kept."""

import asyncio
import json
import re
from typing import Any
from unittest.mock import AsyncMock

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import AbortTask, Retry, current_run, metadata, runs, streams, task
from gateway.errors import (
    Forbidden,
    Internal,
    InvalidValue,
    RunCanceled,
    StoreUnavailable,
)
from gateway.integrations import _run_tracking
from gateway.model.limits import MAX_ERROR_CHARACTERS
from gateway.sdk.execution.context import INTERNAL_ATTEMPTS
from gateway.sdk.execution.outcome import to_run_error
from gateway.stores.memory import MemoryStore
from tests.support.gateways import DEADLINE_S, new_run, until, working
from tests.support.stores import working_on

AT_ONCE = Retry(max_attempts=3, min_s=0, max_s=0)
notes = streams.define("notes", Any)
HALF = "\ud83d"  # of an emoji that was cut in two


class _HostileName(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class Hostile(Exception, metaclass=_HostileName):
    """An exception of which nothing works that could be asked."""

    def __str__(self):
        raise SystemExit("no text")

    __repr__ = __str__

    @property
    def __class__(self):
        raise RuntimeError("no class")


class NotText(Exception):
    def __str__(self):
        return 7


class Text(str):
    def encode(self, *_):
        raise RuntimeError("no bytes")

    __getitem__ = encode


class OwnText(Exception):
    def __str__(self):
        return Text("own text")


def nested(depth):
    failure = ValueError("at the bottom")
    for _ in range(depth):
        failure = ExceptionGroup("g", [failure])
    return failure


FAILURES = {
    "half an emoji": lambda: ValueError(f"cannot parse {HALF}"),
    "half an emoji in the class's name": lambda: type("Ä" * 300, (ValueError,), {})(HALF),
    "hostile": Hostile,
    "no text": NotText,
    "text of its own kind": OwnText,
    "huge": lambda: ValueError("x" * 5_000_000),
    "bytes": lambda: UnicodeDecodeError("utf-8", b"\xff\x00", 0, 1, "\x00"),
    "no Exception": lambda: type("Bare", (BaseException,), {})("bare"),
    "deep groups": lambda: nested(3000),
    "hostile group": lambda: BaseExceptionGroup(HALF, [Hostile(), nested(3)]),
    "canceled from within": asyncio.CancelledError,
    "end of a generator": GeneratorExit,
    "text that is no JSON": lambda: InvalidValue(HALF),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
async def test_a_run_fails_with_whatever_its_function_raises(kind, tmp_path):
    @task(retry=Retry(max_attempts=2, min_s=0, max_s=0))
    async def work(what: str) -> None:
        raise FAILURES[what]()

    @task
    def plain(what: str) -> None:
        raise FAILURES[what]()

    async with working_on(kind, tmp_path):
        for one in (work, plain):
            results = await one.batch_trigger_and_wait([{"what": what} for what in FAILURES])
            for what, result in zip(FAILURES, results, strict=True):
                assert result.status == "failed", (one.id, what)
                assert result.error.type, (one.id, what)
                assert len(result.error.message) <= MAX_ERROR_CHARACTERS


def deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


class Odd:
    @property
    def __dict__(self):
        raise SystemExit("no fields")


OUTPUTS = {
    "half an emoji": lambda: HALF,
    "half an emoji as a key": lambda: {HALF: 1},
    "deep": lambda: deep(300),
    "very deep": lambda: deep(100_000),
    "endless": lambda: (endless := []).append(endless) or endless,
    "huge number": lambda: 10**5000,
    "no number": lambda: float("nan"),
    "bytes": lambda: b"\xff",
    "object": object,
    "hostile": Odd,
    "function": lambda: deep,
    "error": lambda: Hostile(),
    "key that is no text": lambda: {(1, 2): 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "remote"])
async def test_a_run_ends_whatever_its_function_returns_or_puts_into_metadata(kind, tmp_path):
    @task
    async def give(what: str) -> Any:
        return OUTPUTS[what]()

    @task
    def put(what: str) -> None:
        for key in (HALF, 7, None):
            with pytest.raises(InvalidValue, match="a key is a text"):
                metadata.set(key, 1)
        metadata.set("value", OUTPUTS[what]())

    @task
    async def add(what: str) -> None:
        notes.append(OUTPUTS[what]())

    async with working_on(kind, tmp_path), asyncio.timeout(DEADLINE_S):
        for one in (give, put, add):
            results = await one.batch_trigger_and_wait([{"what": what} for what in OUTPUTS])
            for what, result in zip(OUTPUTS, results, strict=True):
                if not result.ok:
                    assert result.status == "failed", (one.id, what)
                    assert result.error.message, (one.id, what)


@given(st.text(st.characters(exclude_categories=[]), max_size=50))
def test_any_text_becomes_storable(text):
    error = to_run_error(ValueError(text))
    assert orjson.loads(orjson.dumps(error)) == error
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert error["message"] == text


def test_what_can_be_kept_of_an_odd_text_is_kept():
    assert to_run_error(ValueError("a \ud83d\ude00 b"))["message"] == "a \U0001f600 b"
    assert to_run_error(ValueError(f"a {HALF} b"))["message"] == "a \ufffd b"
    assert to_run_error(Hostile()) == {
        "type": "Hostile",
        "message": "its text cannot be shown: str() raised SystemExit",
    }
    assert to_run_error(OwnText()) == {"type": "OwnText", "message": "own text"}


def test_the_error_of_a_group_shows_its_reasons():
    group = ExceptionGroup(
        "unhandled errors", [ValueError("one"), ExceptionGroup("more", [KeyError("two")])]
    )
    assert to_run_error(group) == {
        "type": "ExceptionGroup",
        "message": "unhandled errors (2 sub-exceptions): ValueError: one; KeyError: 'two'",
    }


def test_the_error_of_a_group_of_groups_shows_each_reason_once():
    group = ValueError("the only one")
    for _ in range(60):  # as a tree it would have 2**60 leaves
        group = ExceptionGroup("g", [group, group])
    assert to_run_error(group)["message"] == "g (2 sub-exceptions): ValueError: the only one"


async def test_fault_during_flush_fails_the_attempt(monkeypatch):
    @task(retry=AT_ONCE)
    async def work() -> int:
        return current_run().attempt

    async with working() as active:
        fault = AsyncMock(side_effect=[None, ZeroDivisionError("a fault"), None, None])
        monkeypatch.setattr(active, "flush", fault)
        result = await work.trigger_and_wait()
        assert result.output == 2
        assert (await runs.retrieve(result.run_id)).last_error.type == "ZeroDivisionError"


# ---- groups and cancellation ----


@pytest.mark.parametrize(
    "more", [[], [ValueError("of a sibling")]], ids=["alone", "beside another error"]
)
async def test_abort_in_a_task_group_is_not_tried_again(more):
    async def refuse(error: Exception) -> None:
        raise error

    @task(retry=AT_ONCE)
    async def work() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(pay())

    async def pay() -> None:
        async with asyncio.TaskGroup() as group:
            for error in (AbortTask("paid already"), *more):
                group.create_task(refuse(error))

    async with working():
        result = await work.trigger_and_wait()
        assert (result.status, result.error.type) == ("failed", "ExceptionGroup")
        assert "AbortTask: paid already" in result.error.message
        assert (await runs.retrieve(result.run_id)).attempt == 1


async def test_a_group_of_nothing_but_cancellations_is_one():
    @task(retry=AT_ONCE)
    async def work(more: bool) -> None:
        errors = [RunCanceled("stopped here")] + [ValueError("no")] * more
        raise ExceptionGroup("g", errors)

    async with working():
        assert (await work.trigger_and_wait(False)).status == "canceled"
        result = await work.trigger_and_wait(True)
        assert result.status == "failed"
        assert (await runs.retrieve(result.run_id)).attempt == 3


async def test_a_function_that_is_canceled_from_within_has_failed_and_is_tried_again():
    @task(retry=AT_ONCE)
    async def work() -> None:
        inner = asyncio.create_task(asyncio.sleep(10))
        inner.cancel()
        await inner

    async with working():
        result = await work.trigger_and_wait()
        assert (result.status, result.error.type) == ("failed", "CancelledError")
        assert "nobody had canceled its run" in result.error.message
        assert (await runs.retrieve(result.run_id)).attempt == 3


# ---- ends that the store refuses ----


class Refusing(MemoryStore):
    """Refuses patches, as long as it is told to."""

    def __init__(self, refuses):
        super().__init__()
        self.refuses = refuses
        self.refused = []

    async def patch_run(self, run_id, patch, **more):
        if (error := self.refuses(patch)) is not None:
            self.refused.append(dict(patch))
            raise error
        return await super().patch_run(run_id, patch, **more)


async def ended_on(store):
    @task
    async def work() -> str:
        return "done"

    async with working(store):
        return await work.trigger_and_wait()


async def test_an_output_that_the_store_refuses_fails_the_run_and_is_named():
    store = Refusing(lambda patch: Forbidden("no output") if "output" in patch else None)
    result = await ended_on(store)
    assert (result.status, result.error.type) == ("failed", "Forbidden")
    assert result.error.message == "the run's output could not be kept: no output"


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault of the store"), Internal("a fault")])
async def test_a_store_that_refuses_that_too_gets_a_smaller_error(error):
    def refuses(patch):
        has_text = "could not be kept: " in json.dumps(patch.get("error", ""))
        return error if "output" in patch or has_text else None

    store = Refusing(refuses)
    result = await ended_on(store)
    assert (result.status, result.error.type) == ("failed", "EndRefused")
    tries = INTERNAL_ATTEMPTS if isinstance(error, Internal) else 1
    assert len(store.refused) == 2 * tries


async def test_a_patch_that_is_refused_before_the_function_begins_fails_the_run():
    store = Refusing(lambda patch: Forbidden("not this") if "started_at" in patch else None)
    result = await ended_on(store)
    assert (result.status, result.error.message) == ("failed", "not this")


async def test_an_end_waits_for_a_store_that_is_away_and_keeps_the_output():
    failures = iter([StoreUnavailable("away"), Internal("restarting"), StoreUnavailable("away")])
    store = Refusing(lambda patch: next(failures, None) if "output" in patch else None)
    result = await ended_on(store)
    assert (result.output, len(store.refused)) == ("done", 3)


@pytest.mark.network
@pytest.mark.parametrize("size", [2_500_000, 9_000_000])
async def test_an_output_over_a_workers_frame_limit_fails_the_run_with_both_numbers(size, tmp_path):
    @task
    async def work() -> str:
        return "x" * size

    async with working_on("remote", tmp_path):
        result = await work.trigger_and_wait()
        assert (result.status, result.error.type) == ("failed", "FrameTooLarge")
        assert re.search(
            rf"is {size // 10**5}\d+ bytes; the limit is 2097152", result.error.message
        )


# ---- the same for functions of a queue's own ----


async def test_a_queues_run_completes_without_an_output_that_is_refused():
    store = Refusing(lambda patch: Forbidden("no output") if "output" in patch else None)
    async with working(store) as active:
        run = await _run_tracking.claim(active, new_run(), 1)
        await _run_tracking.finish_run(active, run.id, "completed", output="x")
        assert (await runs.retrieve(run.id)).status == "completed"


async def test_a_queues_run_ends_when_its_store_is_back_and_in_order():
    store = Refusing(lambda _: StoreUnavailable("away") if is_unavailable else None)
    is_unavailable = True
    async with working(store) as active:
        run = await store.create_run(new_run())

        async def carry_out(active):
            await _run_tracking.claim(active, run, 1)
            await _run_tracking.finish_run(
                active, run.id, "failed", error=to_run_error("no stock", "ValueError")
            )

        ending = asyncio.create_task(_run_tracking.persist_with_retry(active, carry_out, run.id))
        await until(lambda: len(store.refused) >= 3)
        is_unavailable = False
        await ending
        assert (await runs.retrieve(run.id)).error.message == "no stock"


async def test_a_queues_run_whose_beginning_was_lost_ends_all_the_same():
    async with working() as active:
        run = await active.store.create_run(new_run())
        await _run_tracking.finish_run(active, run.id, "completed")
        assert (await runs.retrieve(run.id)).status == "completed"


async def test_a_queues_run_is_kept_without_a_payload_that_is_refused():
    class Strict(MemoryStore):
        async def create_run(self, run):
            if run.payload is not None:
                raise Forbidden("no payload")
            return await super().create_run(run)

    async with working(Strict()) as active:
        kept = await _run_tracking.ensure_run(active, new_run(payload={"args": ["x"]}))
        assert (await runs.retrieve(kept.id)).payload is None


@pytest.mark.parametrize("value", [HALF, object(), {"a": HALF}, nested(1)])
def test_a_value_that_is_no_json_is_not_shown(value):
    assert _run_tracking.to_json_value(value) is None
