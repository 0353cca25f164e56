"""Hooks without a browser: the emitted JavaScript and the types of the Vars."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
import reflex as rx
from pydantic import BaseModel, Field
from reflex.vars import ArrayVar, BooleanVar, NumberVar, ObjectVar, StringVar, Var
from reflex_base.utils.exceptions import VarAttributeError

import gateway.ui.client
from gateway import task
from gateway.errors import InvalidValue
from gateway.sdk.definitions import StreamDefinition
from gateway.ui import (
    LoopVariableError,
    use_realtime_run,
    use_realtime_run_with_streams,
    use_realtime_stream,
    use_realtime_task_trigger,
    use_realtime_task_trigger_with_streams,
)
from gateway.ui.text_numbers import TextNumberVar
from tests.support.clients.npm import tool


@dataclass
class Progress:
    current: int
    total: int


class Step(BaseModel):
    name: str


@dataclass
class Basket:
    items: list[str]
    total: int


class HookState(rx.State):
    run_id: str = ""
    token: str = ""
    run_ids: list[str] = []

    @rx.event
    def got(self, value: Progress) -> None: ...

    @rx.event
    def got_with_meta(self, value: Progress, meta: dict[str, Any]) -> None: ...

    @rx.event
    def ended(self, reason: str) -> None: ...


PROGRESS = StreamDefinition[Progress]("progress", Progress)
ANSWER = StreamDefinition[str]("answer", str)


def hooks_of(var: Var[Any]) -> tuple[str, ...]:
    data = var._get_all_var_data()
    assert data is not None
    return data.hooks


def line_of(var: Var[Any]) -> str:
    return hooks_of(var)[-1]


def test_hook_emits_one_line_below_its_state() -> None:
    stream = use_realtime_stream(HookState.run_id, PROGRESS, access_token=HookState.token)
    state_line, line = hooks_of(stream.status)
    assert "useStateContext" in state_line
    assert line.startswith("const realtime_")
    assert "= useRealtimeStream(" in line
    assert f'["runId"] : {HookState.run_id!s}' in line
    assert '["stream"] : "progress"' in line


def test_hook_is_imported_from_the_linked_client(app_folder: Path) -> None:
    data = use_realtime_stream("run_a", PROGRESS).status._get_all_var_data()
    assert data is not None
    ((path, names),) = data.imports
    assert path == "$/public/external/gateway/ui/client/hooks.js"
    assert [name.tag for name in names] == ["useRealtimeStream"]
    linked = {file.name for file in (app_folder / "assets/external/gateway/ui/client").iterdir()}
    client = Path(gateway.ui.client.__file__).parent
    assert "hooks.js" in linked
    for name in linked:  # the modules that it imports are linked too
        imported = re.findall(r'from "\./([a-z_]+\.js)"', (client / name).read_text())
        assert set(imported) <= linked, name


def test_hint_is_empty_text_by_default() -> None:
    hint = use_realtime_stream("run_a", PROGRESS).hint
    assert isinstance(hint, StringVar)
    assert str(hint).endswith('.hint ?? "")')


def test_all_vars_share_one_call() -> None:
    stream = use_realtime_stream("run_a", PROGRESS)
    shown = (stream.data, stream.latest, stream.status, stream.error, stream.hint)
    lines = {line_of(var) for var in shown}
    assert len(lines) == 1


def test_options_accept_plain_values_and_vars() -> None:
    line = line_of(
        use_realtime_stream(
            HookState.run_id,
            "log",
            throttle_ms=0,
            start={"last": 5},
            max_records=None,
            enabled=HookState.run_ids.length() > 0,
            gateway_url="/realtime",
        ).status
    )
    for option in (
        '["throttleMs"] : 0',
        '["start"] : ({ ["last"] : 5 })',
        '["maxRecords"] : null',
        '["gatewayUrl"] : "/realtime"',
        "run_ids_rx_state_.length",
    ):
        assert option in line
    assert "token" not in line


def test_variable_name_is_the_same_in_every_build(tmp_path: Path) -> None:
    program = """
from gateway.ui import use_realtime_stream
print(use_realtime_stream('run_a', 'log').status)
"""
    roots = os.pathsep.join(path for path in sys.path if path)
    names = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": roots},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(names) == 1


def test_vars_have_the_types_of_the_stream() -> None:
    stream = use_realtime_stream("run_a", PROGRESS)
    assert isinstance(stream.latest, ObjectVar)
    assert isinstance(stream.latest.current, NumberVar)
    assert isinstance(stream.data, ArrayVar)
    assert isinstance(stream.data[0].total, NumberVar)
    assert isinstance(stream.records[0].data.current, NumberVar)
    assert isinstance(stream.records[0].source, StringVar)
    assert isinstance(stream.text, StringVar)
    assert isinstance(stream.count, NumberVar)
    assert isinstance(stream.gap_count, NumberVar)
    for var in (stream.status, stream.error, stream.error_code, stream.end_reason):
        assert isinstance(var, StringVar)
    for var in (stream.is_idle, stream.is_connecting, stream.is_live, stream.is_reconnecting):
        assert isinstance(var, BooleanVar)
    assert isinstance(use_realtime_stream("run_a", ANSWER).latest, StringVar)


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ({"status": "live", "endReason": None}, "live"),
        ({"status": "ended", "endReason": "completed"}, "ended"),
        ({"status": "ended", "endReason": "crashed"}, "crashed"),
        ({"status": "ended", "endReason": "canceled"}, "canceled"),
        ({"status": "reconnecting", "endReason": None}, "reconnecting"),
    ],
)
def test_status_is_the_end_reason_unless_completed(known: dict[str, Any], shown: str) -> None:
    for result in (use_realtime_stream("run_a", PROGRESS), use_realtime_run("run_a")):
        expression = str(result.status).replace(result._hook.name, "it")
        script = f"const it = {json.dumps(known)}; process.stdout.write({expression})"
        node = [tool("node"), "--eval", script]
        assert subprocess.run(node, capture_output=True, text=True, timeout=60).stdout == shown


def test_attempt_option_is_sent_and_checked() -> None:
    def options(**given: Any) -> str:
        return line_of(use_realtime_stream("run_a", PROGRESS, **given).status)

    assert "attempt" not in options()
    assert '["attempt"] : "latest"' in options(attempt="latest")
    assert '["attempt"] : 2' in options(attempt=2)
    together = use_realtime_run_with_streams("run_a", [PROGRESS], attempt="latest")
    assert line_of(together[PROGRESS].status) == options(attempt="latest")
    assert "attempt" in options(attempt=HookState.run_id)
    for wrong in (0, -1, True, 1.5, "newest", ""):
        with pytest.raises(InvalidValue, match="it must be a whole number from 1"):
            options(attempt=wrong)


def test_pydantic_models_and_unions_are_typed() -> None:
    step = use_realtime_stream("run_a", StreamDefinition("steps", Step))
    assert isinstance(step.latest.name, StringVar)
    either = Annotated[Step | Progress, Field(description="either")]
    union = use_realtime_stream("run_a", StreamDefinition("either", either))
    assert isinstance(union.latest.name, StringVar)


def test_misspelt_field_fails_when_page_is_built() -> None:
    stream = use_realtime_stream("run_a", PROGRESS)
    with pytest.raises(VarAttributeError):
        _ = stream.latest.curent
    with pytest.raises(VarAttributeError):
        _ = stream.data[0].curent
    with pytest.raises(VarAttributeError):
        _ = use_realtime_run("run_a").run.statsu


def test_field_hidden_by_var_method_warns() -> None:
    with pytest.warns(UserWarning, match=r'Basket.*items.*latest\["items"\]') as caught:
        stream = use_realtime_stream("run_a", StreamDefinition("basket", Basket))
    assert caught[0].filename == __file__
    assert isinstance(stream.latest["items"], ArrayVar)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_realtime_stream("run_a", PROGRESS)


def test_parts_are_assembled_only_when_used() -> None:
    stream = use_realtime_stream("run_a", "answer")
    assert '["parts"]' not in line_of(stream.status)
    assert '["parts"] : true' in line_of(stream.parts)
    assert isinstance(stream.parts.text, StringVar)
    assert isinstance(stream.parts.tool_calls[0].state, StringVar)
    with pytest.raises(VarAttributeError):
        _ = stream.parts.txt


def test_run_vars_read_the_run() -> None:
    result = use_realtime_run(HookState.run_id, access_token=HookState.token)
    assert "= useRealtimeRun(" in line_of(result.run)
    assert isinstance(result.run.status, StringVar)
    assert isinstance(result.run.metadata["step"], Var)
    assert isinstance(result.run.error.message, StringVar)
    assert isinstance(result.run.tags, ArrayVar)
    assert ".is_finished" in str(result.is_finished)
    assert ".is_completed" in str(result.is_completed)
    for var in (result.is_queued, result.is_executing, result.is_success, result.is_failed):
        assert isinstance(var, BooleanVar)


def test_run_with_streams_types_each_stream() -> None:
    result = use_realtime_run_with_streams(HookState.run_id, [PROGRESS, ANSWER])
    assert isinstance(result[PROGRESS].latest.current, NumberVar)
    assert isinstance(result.stream(ANSWER).latest, StringVar)
    assert isinstance(result.run.status, StringVar)
    with pytest.raises(KeyError):
        result.stream(StreamDefinition("other", str))


def test_stream_of_run_is_the_call_of_use_realtime_stream() -> None:
    together = use_realtime_run_with_streams("run_a", [PROGRESS])[PROGRESS]
    assert line_of(together.status) == line_of(use_realtime_stream("run_a", PROGRESS).status)


@pytest.mark.parametrize(
    "call",
    [
        lambda item: use_realtime_stream(item, PROGRESS),
        lambda item: use_realtime_stream("run_a", item),
        lambda item: use_realtime_stream("run_a", PROGRESS, access_token=item),
        lambda item: use_realtime_stream("run_a", PROGRESS, enabled=item != ""),
        lambda item: use_realtime_stream("run_a", PROGRESS, on_end=HookState.ended(item)),
        lambda item: use_realtime_run(item),
    ],
)
def test_hook_rejects_loop_variable(call: Any) -> None:
    with pytest.raises(LoopVariableError, match=r"'item'.*(?s:.)*@rx\.memo"):
        rx.foreach(HookState.run_ids, lambda item: rx.text(call(item).status))


def test_loop_index_is_rejected() -> None:
    with pytest.raises(LoopVariableError, match="throttle_ms reads 'place'"):
        rx.foreach(
            HookState.run_ids,
            lambda item, place: rx.text(
                use_realtime_stream("run_a", PROGRESS, throttle_ms=place).status
            ),
        )


def test_loop_variable_name_in_string_is_accepted() -> None:
    use_realtime_stream("run_a", PROGRESS, access_token="item_rx_state_")


def test_memo_prop_is_accepted() -> None:
    lines = []

    @rx.memo
    def run_card(run_id: rx.Var[str]) -> rx.Component:
        stream = use_realtime_stream(run_id, PROGRESS)
        lines.append(line_of(stream.status))
        return rx.text(stream.status)

    rx.foreach(HookState.run_ids, lambda item: run_card(run_id=item))
    assert '["runId"] : runIdRxMemo' in lines[0]


def test_component_contains_the_hook() -> None:
    stream = use_realtime_stream(HookState.run_id, PROGRESS)
    component = rx.box(rx.cond(stream.is_live, rx.text(stream.latest.current)))
    assert line_of(stream.status) in component._get_all_hooks()


@pytest.mark.parametrize(
    "handler",
    [
        HookState.got,
        HookState.got_with_meta,
        lambda value: HookState.got(value),
        lambda value, meta: HookState.got_with_meta(value, meta),
        [HookState.got, rx.console_log("came")],
        HookState.ended("fixed"),
    ],
)
def test_handlers_dispatch_through_reflex(handler: Any) -> None:
    var = use_realtime_stream("run_a", PROGRESS, on_record=handler).status
    line = line_of(var)
    assert '["onRecord"] : ((_value, _meta) => ' in line
    assert "addEvents([" in line
    data = var._get_all_var_data()
    assert data is not None
    assert any(name.tag == "addEvents" for _, names in data.imports for name in names)
    assert data.app_wraps


def test_handler_of_wrong_type_is_rejected() -> None:
    with pytest.raises(TypeError, match="Progress"):
        use_realtime_stream("run_a", ANSWER, on_record=HookState.got)


def test_variants_of_hook_share_the_handler_key() -> None:
    def key(var: Var[Any]) -> str:
        return line_of(var).split('["handlerKey"] : ')[1].split(",")[0]

    stream = use_realtime_stream("run_a", PROGRESS, on_end=HookState.ended)
    other = use_realtime_stream("run_a", PROGRESS, on_end=HookState.ended("x"))
    assert key(stream.parts) == key(stream.status)
    assert key(other.status) != key(stream.status)


@task
async def deliver(parcels: int, price: Decimal, by: Progress) -> Progress | None: ...


@task
async def count_parcels(shops: list[str]) -> int: ...


def test_run_with_task_has_typed_payload_and_output() -> None:
    run = use_realtime_run("run_a", task=deliver)
    for payload in (run.payload, run.run.payload):
        assert isinstance(payload.parcels, NumberVar)
        assert isinstance(payload.price, TextNumberVar)
        assert isinstance(payload.by.total, NumberVar)
        with pytest.raises(VarAttributeError):
            _ = payload.parcel
    for output in (run.output, run.run.output):
        assert isinstance(output.total, NumberVar)
        with pytest.raises(VarAttributeError):
            _ = output.totals
    assert isinstance(run.run.status, StringVar)
    assert "?.output ?? null" in str(run.output) and line_of(run.output) == line_of(run.run)


@pytest.mark.parametrize(
    "run",
    [
        lambda: use_realtime_run("run_a", task=count_parcels),
        lambda: use_realtime_run_with_streams("run_a", task=count_parcels),
        lambda: use_realtime_task_trigger(count_parcels, access_token="t").realtime,
        lambda: (
            use_realtime_task_trigger_with_streams(
                count_parcels, [PROGRESS], access_token="t"
            ).realtime
        ),
    ],
)
def test_every_run_hook_accepts_a_task(run: Any) -> None:
    assert isinstance(run().output, NumberVar)
    assert isinstance(run().payload.shops, ArrayVar)


def test_run_without_task_has_untyped_values() -> None:
    run = use_realtime_run("run_a")
    assert str(run.payload["anything"]) and str(run.run.output)
    trigger = use_realtime_task_trigger("count-parcels", access_token="t")
    assert str(trigger.realtime.output)


def test_task_id_is_rejected_where_types_are_needed() -> None:
    with pytest.raises(InvalidValue, match="Give the task, not its id"):
        use_realtime_run("run_a", task="deliver")  # type: ignore[arg-type]
