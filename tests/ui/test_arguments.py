"""Wrong arguments of hooks fail when the page is built; the message states the correction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest
import reflex as rx
from pydantic import BaseModel, ConfigDict, Field, computed_field
from reflex.vars import Var

from gateway import streams, task
from gateway.errors import InvalidValue
from gateway.model import limits
from gateway.sdk.definitions import StreamDefinition
from gateway.ui import (
    use_input_stream,
    use_realtime_batch,
    use_realtime_children,
    use_realtime_run,
    use_realtime_run_with_streams,
    use_realtime_runs_with_tag,
    use_realtime_stream,
    use_realtime_task_trigger,
    use_realtime_task_trigger_with_streams,
    use_task_trigger,
)
from gateway.ui.arguments import MAX_RUNS, MAX_TAGS, MAX_THROTTLE_MS


@dataclass(frozen=True)
class Line:
    level: str
    number: int


class Aliased(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    full_name: str = Field(alias="fullName")

    @computed_field
    def shouted(self) -> str:
        return self.full_name.upper()


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    level: str


LINES = StreamDefinition[Any]("lines", Line)
TEXTS = StreamDefinition[str]("texts", str)
ANY = StreamDefinition[Any]("any", Any)
consent = streams.input("argument-consent", Line)


@task
async def make(prompt: str, count: int = 1) -> None: ...


class Page(rx.State):
    run_id: str = ""
    maybe: str | None = None
    token: str = ""
    number: int = 0
    on: bool = True
    names: list[str] = []
    line: dict[str, Any] = {}
    level: Literal["info", "error"] = "info"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stream(**given: Any) -> Any:
    return use_realtime_stream("run_a", LINES, **given)


def trigger(payload: Any) -> Any:
    return use_task_trigger(make, access_token="t").trigger(payload)


def send(value: Any) -> Any:
    return use_input_stream("run_a", consent, access_token="t").send(value)


# The call, and the parts of its message: hook, argument, value, allowed values, remedy.
WRONG = {
    "swapped definitions": (
        lambda: use_realtime_stream(LINES, Page.run_id),
        "use_realtime_stream: run_id is the stream 'lines'; it must be a run's id*"
        "Write use_realtime_stream(run_id, stream, …).",
    ),
    "swapped ids": (
        lambda: use_realtime_stream("lines", "run_a"),
        "use_realtime_stream: run_id is 'lines'*Write use_realtime_stream(run_id, stream, …)",
    ),
    "swapped id and Var": (
        lambda: use_realtime_stream("lines", Page.run_id),
        "run_id is 'lines'*Write use_realtime_stream(run_id, stream, …)",
    ),
    "a run and not its id": (
        lambda: use_realtime_run({"id": "run_a"}),
        "use_realtime_run: run_id is {'id': 'run_a'}*Give the `id` of what `trigger` returned",
    ),
    "a Var of a number": (
        lambda: use_realtime_run(Page.number),
        "use_realtime_run: run_id is the Var number of type int; it must be a run's id",
    ),
    "a stream id": (
        lambda: use_realtime_stream("run_a", "two words"),
        "use_realtime_stream: stream is 'two words'; it must be a definition*1 to 64",
    ),
    "a task as a stream": (lambda: use_realtime_stream("run_a", make), "stream is *"),
    "a start": (
        lambda: stream(start="begining"),
        'use_realtime_stream: start is \'begining\'; it must be "beginning", "latest"',
    ),
    "a start with two members": (lambda: stream(start={"last": 1, "position": "x"}), "start is {"),
    "a start before the beginning": (lambda: stream(start={"last": -1}), "start is {'last': -1}"),
    "a negative throttle": (
        lambda: stream(throttle_ms=-1),
        "use_realtime_stream: throttle_ms is -1; it must be a whole number of milliseconds from 0",
    ),
    "a throttle in seconds": (lambda: stream(throttle_ms=0.05), "throttle_ms is 0.05"),
    "a throttle over the limit": (
        lambda: stream(throttle_ms=MAX_THROTTLE_MS + 1),
        "throttle_ms is 60001; it must be*to 60_000",
    ),
    "a throttle that is a text": (
        lambda: stream(throttle_ms=Page.token),
        "throttle_ms is the Var token of type str",
    ),
    "a boolean for a number": (lambda: stream(max_records=True), "max_records is True"),
    "an attempt": (lambda: stream(attempt=0), "use_realtime_stream: attempt is 0"),
    "enabled by a text": (lambda: stream(enabled="no"), "enabled is 'no'; it must be True, False"),
    "a token that is no text": (
        lambda: stream(access_token={"secret": "eyJ"}),
        "use_realtime_stream: access_token is a value of type dict; it must be a text",
    ),
    "an address": (lambda: stream(gateway_url=8000), "gateway_url is 8000"),
    "skip as one word": (
        lambda: use_realtime_run("run_a", skip="payload"),
        "use_realtime_run: skip is 'payload'; it must be a list of fields, any of payload, output",
    ),
    "skip of an unknown field": (
        lambda: use_realtime_run("run_a", skip=["outputs"]),
        "skip is ['outputs']*Write the names, such as skip=['payload']",
    ),
    "skip as a Var": (
        lambda: use_realtime_runs_with_tag("x", skip=Page.names),
        "use_realtime_runs_with_tag: skip is the Var names of type *a Var is not possible",
    ),
    "one stream and not a list": (
        lambda: use_realtime_run_with_streams("run_a", LINES),
        "use_realtime_run_with_streams: streams is the stream 'lines'; it must be a list",
    ),
    "ids of streams": (
        lambda: use_realtime_run_with_streams("run_a", ["lines"]),
        "use_realtime_run_with_streams: streams is ['lines']",
    ),
    "an option of the streams": (
        lambda: use_realtime_run_with_streams("run_a", [LINES], max_records=-1),
        "use_realtime_run_with_streams: max_records is -1",
    ),
    "a stream by its id": (
        lambda: use_realtime_run_with_streams("run_a", [LINES])["lines"],
        "use_realtime_run_with_streams: the stream in result[…] is 'lines'*Give the definition",
    ),
    "too many tags": (
        lambda: use_realtime_runs_with_tag(["x"] * (MAX_TAGS + 1)),
        "use_realtime_runs_with_tag: tag is ['x'*up to 20 tags",
    ),
    "a tag that is a number": (lambda: use_realtime_runs_with_tag(7), "tag is 7"),
    "too long a list": (
        lambda: use_realtime_batch("b", limit=MAX_RUNS + 1),
        "use_realtime_batch: limit is 1001; it must be a whole number from 1 to 1_000",
    ),
    "children of a stream": (
        lambda: use_realtime_children(LINES),
        "use_realtime_children: run_id is the stream 'lines'",
    ),
    "a misspelt field": (
        lambda: stream().where("levl", "info"),
        "use_realtime_stream(…).where: field is 'levl'; it must be a field of the stream's "
        "records: level, number",
    ),
    "a field of text": (
        lambda: use_realtime_stream("run_a", TEXTS).where("level", "info"),
        "where: field is 'level'; it must be a field of the stream's records: none",
    ),
    "a field of a model with an alias": (
        lambda: use_realtime_stream("run_a", StreamDefinition("who", Aliased)).where("name", "x"),
        "field is 'name'; it must be a field of the stream's records: full_name, fullName, shouted",
    ),
    "a field that is a Var": (lambda: stream().where(Page.token, 1), "where: field is the Var"),
    "a value that is a list": (
        lambda: stream().where("level", ["info"]),
        "where: value is ['info']; it must be a text, a number, a boolean, None",
    ),
    "a negative count": (
        lambda: stream().last(-3),
        "use_realtime_stream(…).last: count is -3; it must be a whole number from 0",
    ),
    "a count that is a text": (lambda: stream().last(Page.token), "count is the Var token"),
    "the id of an input": (
        lambda: use_input_stream("run_a", "argument-consent", access_token="t"),
        "use_input_stream: stream is 'argument-consent'*Give the definition, not its id",
    ),
    "the id of a run's task": (
        lambda: use_realtime_run("run_a", task="make"),
        "use_realtime_run: task is 'make'; it must be a function with `@task`*Give the task",
    ),
    "a function that is no task": (
        lambda: use_task_trigger(lambda prompt: None, access_token="t"),
        "use_task_trigger: task is <function*Decorate the function with `@task`",
    ),
    "an option of a trigger's run": (
        lambda: use_realtime_task_trigger(make, access_token="t", throttle_ms=-1),
        "use_realtime_task_trigger: throttle_ms is -1",
    ),
    "streams of a trigger's run": (
        lambda: use_realtime_task_trigger_with_streams(make, LINES, access_token="t"),
        "use_realtime_task_trigger_with_streams: streams is the stream 'lines'",
    ),
    "a misspelt parameter": (
        lambda: trigger({"promt": Page.token}),
        "use_task_trigger(…).trigger: task 'make'*'promt'*prompt",
    ),
    "a missing parameter": (
        lambda: trigger({"count": 1}),
        "use_task_trigger(…).trigger: task 'make': parameter 'prompt' is not given",
    ),
    "a parameter of another type": (
        lambda: trigger({"prompt": Page.token, "count": "many"}),
        "use_task_trigger(…).trigger: task 'make': parameter 'count'*many",
    ),
    "a payload that is a text": (
        lambda: trigger("hello"),
        "use_task_trigger(…).trigger: the payload is 'hello'*.trigger({\"name\": value})",
    ),
    "a payload that is a Var of a text": (
        lambda: trigger(Page.token),
        "the payload is the Var token of type str",
    ),
    "a misspelt key of a sent value": (
        lambda: send({"lvel": "info", "number": Page.number}),
        "use_input_stream(…).send: a key of the value is 'lvel'; it must be any of level, number",
    ),
    "a value of another type": (
        lambda: send({"level": "info", "number": "many"}),
        "use_input_stream(…).send: stream 'argument-consent'*number*many",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_error_names_allowed_values(name):
    call, parts = WRONG[name]
    pattern = ".*".join(re.escape(part) for part in parts.split("*"))
    with pytest.raises(InvalidValue, match=pattern) as raised:
        call()
    assert len(raised.value.message) < 500


class Level(Enum):
    info = "info"


RIGHT = [
    lambda: use_realtime_stream(None, LINES),
    lambda: use_realtime_stream("", Page.level),
    lambda: use_realtime_stream(Page.maybe, "$streams"),
    lambda: use_realtime_stream(Var("anything"), Var("anything")),
    lambda: stream(start={"last": Page.number}, throttle_ms=0, max_records=0),
    lambda: stream(start={"position": Page.token}, enabled=Page.token, max_records=None),
    lambda: stream(start=Page.line, attempt="latest", throttle_ms=MAX_THROTTLE_MS),
    lambda: use_realtime_run("run_a", skip=("payload", "metadata")),
    lambda: use_realtime_runs_with_tag([Page.token, "x"]),
    lambda: use_realtime_runs_with_tag("", limit=Page.number),
    lambda: use_realtime_batch(None, limit=1),
    lambda: stream().where("level", Page.level),
    lambda: stream().where("level", Level.info),
    lambda: use_realtime_stream("run_a", ANY).where("whatever", None),
    lambda: use_realtime_stream("run_a", StreamDefinition("open", Open)).where("more", 1.5),
    lambda: use_realtime_stream("run_a", StreamDefinition("who", Aliased)).where("fullName", "x"),
    lambda: use_realtime_stream("run_a", StreamDefinition("who", Aliased)).where("shouted", "X"),
    lambda: use_realtime_stream("run_a", StreamDefinition("e", Line | None)).where("number", 1),
    lambda: stream().last(0),
    lambda: trigger({"prompt": Page.token}),
    lambda: trigger({"prompt": "x", "count": 2}),
    lambda: trigger(Page.line),
    lambda: use_task_trigger("make", access_token=Page.token).trigger({"whatever": 1}),
    lambda: send({"level": Page.token, "number": 1}),
    lambda: send(Line("info", 1)),
    lambda: send(Page.line),
]


@pytest.mark.parametrize("number", range(len(RIGHT)))
def test_right_argument_is_accepted(number):
    RIGHT[number]()


def test_limits_match_the_protocol():
    ours = (MAX_THROTTLE_MS, MAX_RUNS, MAX_TAGS)
    assert ours == (limits.MAX_THROTTLE_MS, limits.MAX_LISTED_RUNS, limits.MAX_SET_TAGS)
