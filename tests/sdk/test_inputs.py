"""Input streams: kept until taken, taken once, checked at the edge, refused after the end."""

import asyncio
import importlib
import json
import re
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from gateway import Retry, connect, current_run, streams, task
from gateway.errors import InvalidId, InvalidValue, NotInRun, ReadTimeout, StreamEnded
from gateway.model.log import run_log
from gateway.sdk import stream_registry
from gateway.sdk.runtime import current_runtime
from gateway.sdk.values import input_schemas
from tests.support.gateways import DEADLINE_S, serving, token_for, until
from tests.support.stores import working_on


@dataclass
class Approval:
    ok: bool
    note: str = ""


approval = streams.input("approval", Approval)
stop = streams.input("stop", str)


async def store_changes(run_id: str):
    async for page in current_runtime().store.follow(run_log(run_id)):
        for record in page.records:
            yield json.loads(record.data)


@pytest.fixture
async def store():
    async with connect(store="memory:") as runtime:
        yield runtime.store


async def test_inputs_sent_before_reading_are_read_in_order(store):
    started = asyncio.Event()

    @task
    async def decide() -> list[str]:
        await started.wait()
        return [(await approval.once(timeout_s=DEADLINE_S)).note for _ in range(3)]

    run = await decide.trigger()
    for note in ("a", "b", "c"):
        await approval.send(run.id, Approval(True, note))
    started.set()
    assert (await run.wait()).output == ["a", "b", "c"]


async def test_once_waits_for_an_input_sent_later(store):
    @task
    async def decide() -> bool:
        return (await approval.once(timeout_s=DEADLINE_S)).ok

    run = await decide.trigger()
    await approval.send(run.id, Approval(True))
    assert (await run.wait()).output is True


async def test_once_in_vain_is_an_error_that_names_the_input_and_the_time(store):
    @task
    async def decide() -> None:
        await approval.once(timeout_s=0.01)

    result = await decide.trigger_and_wait()
    assert result.error is not None
    assert result.error.type == ReadTimeout.__name__
    assert "approval" in result.error.message and "0.01 s" in result.error.message


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
async def test_input_timeout_of_0_returns_sent_values_without_waiting(kind, tmp_path):
    looked, sent = asyncio.Event(), asyncio.Event()

    @task
    async def decide() -> list[str]:
        for take in (approval.once, approval.wait):
            with pytest.raises(ReadTimeout, match="nothing was sent within 0 s"):
                await take(timeout_s=0)
        looked.set()
        await sent.wait()
        first = await approval.once(timeout_s=0)
        return [first.note, (await approval.wait(timeout_s=0)).note]

    async with working_on(kind, tmp_path):
        run = await decide.trigger()
        await looked.wait()
        for note in ("a", "b"):
            await approval.send(run.id, Approval(True, note))
        sent.set()
        result = await run.wait()
        assert result.ok, result.error
        assert result.output == ["a", "b"]


async def test_a_time_out_that_is_no_length_of_time_is_refused(store):
    @task
    async def decide() -> None:
        for timeout_s in (-1, float("nan"), "1"):
            with pytest.raises(InvalidValue, match=r"timeout_s is .*; it goes from 0 to"):
                await approval.once(timeout_s=timeout_s)

    result = await decide.trigger_and_wait()
    assert result.ok, result.error


async def test_wait_parks_the_run_and_gives_its_slot_to_another():
    @task
    async def decide() -> bool:
        return (await approval.wait(timeout_s=DEADLINE_S)).ok

    @task
    async def other() -> str:
        return "ran"

    async with serving(concurrency=1):
        run = await decide.trigger()
        async with asyncio.timeout(DEADLINE_S), aclosing(store_changes(run.id)) as changes:
            async for change in changes:
                if change.get("status") == "waiting":
                    break
        assert (await other.trigger_and_wait()).output == "ran"
        await approval.send(run.id, Approval(True))
        assert (await run.wait()).output is True


async def test_peek_looks_and_does_not_take(store):
    @task
    async def decide() -> tuple[bool, str, str]:
        nothing = await approval.peek() is None
        value = None
        while value is None:
            await asyncio.sleep(0)
            value = await approval.peek()
        return nothing, value.note, (await approval.once(timeout_s=0)).note

    run = await decide.trigger()
    await asyncio.sleep(0)
    await approval.send(run.id, Approval(True, "seen"))
    _, peeked, taken = (await run.wait()).output
    assert (peeked, taken) == ("seen", "seen")


async def test_on_calls_the_handler_for_each_value_and_ends_with_its_block(store):
    @task
    async def work() -> list[str]:
        seen: list[str] = []
        async with stop.on(seen.append) as feeding:
            await until(lambda: len(seen) == 2)
        assert feeding.done()
        return seen

    run = await work.trigger()
    await stop.send(run.id, "please")
    await stop.send(run.id, "now")
    assert (await run.wait()).output == ["please", "now"]


async def test_handler_error_fails_the_run(store):
    def handler(value: str) -> None:
        raise ValueError(f"cannot take {value}")

    @task
    async def work() -> None:
        async with stop.on(handler) as feeding:
            await until(feeding.done)

    run = await work.trigger()
    await stop.send(run.id, "this")
    result = await run.wait()
    assert result.error is not None and result.error.message == "cannot take this"


async def test_every_attempt_takes_an_input_from_its_beginning(store):
    taken = []

    @task(retry=Retry(max_attempts=3, min_s=0, max_s=0))
    async def decide() -> int:
        attempt = current_run().attempt
        taken.append((attempt, (await approval.once(timeout_s=DEADLINE_S)).note))
        if attempt < 3:
            raise ConnectionError("after it was approved")
        taken.append((attempt, (await approval.wait(timeout_s=DEADLINE_S)).note))
        return attempt

    run = await decide.trigger()
    for note in ("a", "b"):
        await approval.send(run.id, Approval(True, note))
    assert (await run.wait()).output == 3
    assert taken == [(1, "a"), (2, "a"), (3, "a"), (3, "b")]


async def test_a_stop_button_can_end_a_pipe_in_the_middle(store):
    answer = streams.define("answer")

    async def tokens():
        while True:
            yield "word "
            await asyncio.sleep(0)

    @task
    async def complete() -> str:
        stopped = asyncio.Event()
        text = ""
        async with stop.on(lambda _: stopped.set()):
            async for piece in answer.pipe(tokens()):
                text += piece
                if stopped.is_set():
                    break
        return text

    run = await complete.trigger()
    async for _ in answer.read(run.id, timeout_s=DEADLINE_S):
        await stop.send(run.id, "now")
        break
    result = await run.wait()
    assert result.ok and result.output.startswith("word ")


async def test_a_send_to_an_ended_run_is_refused_with_the_reason(store):
    @task
    async def nothing() -> None: ...

    run = await nothing.trigger()
    await run.wait()
    with pytest.raises(StreamEnded, match="completed"):
        await approval.send(run.id, Approval(True))


async def test_a_value_of_another_type_is_refused_before_it_is_sent(store):
    with pytest.raises(InvalidValue, match=r"approval.*ok"):
        approval.send("run_1", {"ok": "perhaps"})


async def test_an_input_is_taken_inside_a_task_only(store):
    with pytest.raises(NotInRun, match="send"):
        await approval.once()


def test_an_inputs_id_follows_the_rule_of_streams():
    with pytest.raises(InvalidId):
        streams.input("no spaces")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b'{"ok": 1}', 'ok: 1 is not of type "boolean"'),
        (b'{"note": "x"}', '"ok" is a required property'),
        (b"3", '3 is not of type "object"'),
    ],
)
def test_the_schema_names_stream_field_and_value(data, fault):
    with pytest.raises(InvalidValue) as refused:
        input_schemas.check("approval", data)
    assert "approval" in refused.value.message and fault in refused.value.message


def test_a_stream_without_a_schema_takes_any_json():
    input_schemas.check("nobody-defined-this", b'{"x": [1, null]}')


async def test_gateway_validates_client_inputs():
    @task
    async def decide() -> bool:
        return (await approval.once(timeout_s=DEADLINE_S)).ok

    async with serving() as gateway:
        run = await decide.trigger()
        token = token_for(f"write:streams:{run.id}/approval")
        async with gateway.client(token=token) as client:
            append = {"type": "append", "run": run.id, "stream": "approval"}
            refused = await client.ask(**append, id=1, records=[{"ok": "yes"}])
            assert (refused["code"], refused["id"]) == ("invalid_value", 1)
            accepted = await client.ask(**append, id=2, records=[{"ok": True}])
            assert accepted["type"] == "appended"
        assert (await run.wait()).output is True


async def test_a_workers_schemas_are_checked_by_the_gateway():
    async with serving() as gateway, gateway.remote(schemas=lambda: {"vote": {"type": "integer"}}):
        assert "vote" in input_schemas.registered()
    with pytest.raises(InvalidValue, match="vote"):
        input_schemas.check("vote", b'"no"')


def of(type_):
    return lambda: {"choice": {"type": type_}}


async def test_a_worker_whose_input_has_another_type_is_refused_while_the_first_is_there():
    async with serving() as gateway:
        async with gateway.remote(owner="worker_1", schemas=of("integer")):
            async with gateway.remote(owner="worker_2", schemas=of("integer")):
                pass
            with pytest.raises(InvalidValue) as refused:
                async with gateway.remote(owner="worker_3", schemas=of("string")):
                    pass
            assert "'choice': worker_3 (" in refused.value.message
            assert "with another type than worker_1 (" in refused.value.message
            assert "worker_2" not in refused.value.message
            input_schemas.check("choice", b"1")
        await until(lambda: not gateway.gateway._sessions)
        with pytest.raises(InvalidValue):
            input_schemas.check(
                "choice", b'"still"'
            )  # that nobody is there is no reason to take all
        async with gateway.remote(owner="worker_3", schemas=of("string")):
            input_schemas.check("choice", b'"now"')


async def test_a_worker_that_is_refused_leaves_the_gateways_own_inputs_as_they_are():
    async with serving() as gateway:
        other = {"fresh": {"type": "integer"}, "approval": {"type": "string"}}
        with pytest.raises(InvalidValue, match="than the gateway's own process"):
            async with gateway.remote(owner="worker_1", schemas=lambda: other):
                pass
    input_schemas.check("approval", b'{"ok":true}')
    assert "fresh" not in input_schemas.registered()


def test_an_input_of_the_same_id_and_type_may_be_defined_twice():
    again = streams.input("approval", Approval)
    assert again.id == approval.id
    assert input_schemas.registered()["approval"] == again.adapter.json_schema()
    streams.define("approval", Approval)


@pytest.mark.parametrize("define", [streams.input, streams.define])
def test_another_type_under_an_inputs_id_is_refused_and_both_places_are_named(define):
    with pytest.raises(InvalidValue) as refused:
        define("approval", int)
    places = re.findall(r"test_inputs\.py:(\d+)", refused.value.message)
    assert len(set(places)) == 2
    assert "an input of Approval" in refused.value.message
    assert "of int" in refused.value.message
    input_schemas.check("approval", b'{"ok":true}')


def test_an_input_under_the_id_of_a_stream_of_another_type_is_refused():
    streams.define("measured", float)
    with pytest.raises(InvalidValue, match="is a stream of float at"):
        streams.input("measured", str)
    assert "measured" not in input_schemas.registered()


def test_streams_of_one_id_may_differ_for_they_belong_to_runs():
    one, other = streams.define("differing", int), streams.define("differing", str)
    assert (one.encode(1), other.encode("1")) == (b"1", b'"1"')


def warnings_of(caplog):
    return [each.getMessage() for each in caplog.records if each.name == "realtime.streams"]


def test_another_type_under_a_streams_id_is_logged_with_both_places(caplog):
    streams.define("told", int)
    streams.define("told", int)
    assert not warnings_of(caplog)
    streams.define("told", str)
    *_, warning = warnings_of(caplog)
    assert "stream 'told' is a stream of int at" in warning and "a stream of str at" in warning
    assert len(set(re.findall(r"test_inputs\.py:(\d+)", warning))) == 2
    assert stream_registry.find("told") is None and "has no type" in warning


@pytest.mark.parametrize("define", [streams.input, streams.define])
def test_function_that_defines_one_id_with_two_types_is_logged(define, caplog):
    def make(type_):
        return define(f"made-twice-by-{define.__name__}", type_)

    make(int), make(int)
    assert not warnings_of(caplog)
    make(str)
    (warning,) = warnings_of(caplog)
    assert "made-twice" in warning and "int" in warning and "has the last type only" in warning


def test_a_module_that_is_loaded_anew_may_bring_another_type():
    made = [streams.input("reloaded", type_) for type_ in (int, str)]
    assert input_schemas.registered()["reloaded"] == made[1].adapter.json_schema()


CELL = """
from dataclasses import dataclass
from gateway import streams

@dataclass
class Vote:
    ok: bool
    {more}

vote = streams.input({id!r}, Vote)
"""


def _execute(cell, names, file, **fields):
    exec(compile(CELL.format(**fields), file, "exec"), names)
    return names["vote"]


def test_a_cell_of_a_notebook_may_define_its_input_anew(caplog):
    names = {"__name__": "__main__"}
    for version, more in enumerate(["", 'why: str = ""', "share: float = 1.0"]):
        file = f"/tmp/ipykernel_1/{version}.py"  # a file for each version of a cell
        vote = _execute(CELL, names, file, id="cell-vote", more=more)
        assert input_schemas.registered()["cell-vote"] == vote.adapter.json_schema()
        assert stream_registry.find("cell-vote") is vote
    assert not warnings_of(caplog)


def test_an_input_of_another_module_is_not_taken_over():
    _execute(CELL, {"__name__": "one"}, "one.py", id="own-vote", more="")
    with pytest.raises(InvalidValue, match=r"an input of Vote at one\.py:10; .* at other\.py:10"):
        _execute(CELL, {"__name__": "other"}, "other.py", id="own-vote", more="why: str = ''")


def test_a_module_that_is_changed_and_reloaded_may_move_and_change_its_input(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = tmp_path / "votes_of_a_test.py"
    module.write_text(CELL.format(id="reloaded-vote", more=""))
    votes = importlib.import_module("votes_of_a_test")
    module.write_text(
        "# a line more\n" + CELL.format(id="reloaded-vote", more="share: float = 1.0")
    )
    importlib.invalidate_caches()
    importlib.reload(votes)
    assert "share" in input_schemas.registered()["reloaded-vote"]["properties"]
    assert not warnings_of(caplog)
    del sys.modules["votes_of_a_test"]


def test_an_input_whose_type_has_no_json_schema_is_refused():
    with pytest.raises(InvalidValue, match="callable"):
        streams.input("callable", Callable[[], int])


async def test_register_rejects_invalid_schema():
    async with serving() as gateway:
        worker = token_for("read:runs:*", "write:runs:*")
        async with gateway.client(token=worker) as client:
            frame = {"type": "register", "id": 1, "schemas": {"vote2": {"type": "no type"}}}
            assert (await client.ask(**frame))["code"] == "invalid_value"
        async with gateway.client(token=token_for("read:runs:*")) as client:
            assert (await client.ask(**frame))["code"] == "forbidden"
    assert "vote2" not in input_schemas.registered()
