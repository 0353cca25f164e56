"""One trace from a trigger to the send, made with OpenTelemetry's own SDK."""

import asyncio
import itertools
import json
import subprocess
import sys

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway import metadata, runs, streams, task
from gateway._internal import tracing
from gateway.model.records import StreamKey
from tests.support.gateways import SECRET, new_run, serving, token_for, until, working

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch):
    """Collect the spans of this test; others go on without any."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def named(spans):
    return {span.name: span for span in spans.get_finished_spans()}


async def test_a_trigger_a_run_its_appends_and_the_sends_are_one_trace(spans):
    numbers = streams.define("numbers", int)

    watched = asyncio.Event()

    @task
    async def count():
        await watched.wait()
        await numbers.append(1)

    async with serving() as gateway:
        with trace.get_tracer("test").start_as_current_span("a request of the user's"):
            handle = await count.trigger()
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=handle.id, stream="numbers")
            (tail,) = [each for each in gateway.hub.tails if each.key.run_id == handle.id]
            await until(lambda: not tail._solo)
            watched.set()
            assert (await client.receive())["records"][0]["data"] == 1
            await until(lambda: "send numbers" in named(spans))
            await until(lambda: "run count" in named(spans))
    found = named(spans)
    first = found["a request of the user's"]
    order = ["a request of the user's", "trigger count", "run count", "append numbers"]
    for outer, inner in itertools.pairwise(order):
        assert found[inner].parent.span_id == found[outer].context.span_id, (outer, inner)
    assert found["send numbers"].parent.span_id == found["trigger count"].context.span_id
    assert {span.context.trace_id for span in found.values()} == {first.context.trace_id}
    assert found["append numbers"].attributes == {
        "realtime.run": handle.id,
        "realtime.stream": "numbers",
        "realtime.records": 1,
    }
    assert found["run count"].kind is SpanKind.CONSUMER
    send = found["send numbers"]
    assert 0 <= send.end_time - send.start_time < 20e9
    assert "a request" not in json.dumps(dict(send.attributes))


async def test_a_gateway_sends_as_part_of_a_trace_that_began_elsewhere(spans):
    async with serving() as gateway:
        run = new_run(metadata={tracing.TRACE_KEY: {"traceparent": PARENT}})
        await gateway.gateway._store.create_run(run)
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            (tail,) = [each for each in gateway.hub.tails if each.key.run_id == run.id]
            await until(lambda: not tail._solo)
            await gateway.gateway._store.append(StreamKey(run.id, "s"), [b"1"])
            await client.receive()
            await until(lambda: "send s" in named(spans))
    assert f"{named(spans)['send s'].context.trace_id:032x}" == PARENT.split("-")[1]


async def test_http_trigger_continues_the_callers_trace(spans):
    @task
    async def nothing():
        return None

    async with serving() as gateway, httpx.AsyncClient() as http:
        answer = await http.post(
            f"http://127.0.0.1:{gateway.port}/v1/tasks/nothing/trigger",
            headers={"authorization": f"Bearer {SECRET}", "traceparent": PARENT},
            json={},
        )
        assert answer.status_code == 201
        await until(lambda: "run nothing" in named(spans))
    for name in ("POST trigger", "trigger nothing", "run nothing"):
        assert f"{named(spans)[name].context.trace_id:032x}" == PARENT.split("-")[1]


async def test_children_and_threads_are_part_of_their_parents_trace(spans):
    numbers = streams.define("thread-numbers", int)

    @task
    def child():
        numbers.append(1, target="parent").wait()

    @task
    async def parent():
        await child.trigger_and_wait()

    async with working():
        await parent.trigger_and_wait()
    found = named(spans)
    assert found["trigger child"].parent.span_id == found["run parent"].context.span_id
    assert found["append thread-numbers"].parent.span_id == found["run child"].context.span_id
    assert len({span.context.trace_id for span in found.values()}) == 1


async def test_a_run_that_fails_has_a_span_that_says_so(spans):
    @task
    async def fails():
        raise ValueError("no")

    async with working():
        await fails.trigger_and_wait()
    span = named(spans)["run fails"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.events[0].name == "exception"


async def test_what_describes_metadata_does_not_see_the_trace(spans):
    from pydantic import BaseModel, ConfigDict

    class Only(BaseModel):
        model_config = ConfigDict(extra="forbid")
        stage: str = "none"

    @task
    async def describes() -> str:
        return metadata.typed(Only).current().stage

    async with working():
        result = await describes.options(metadata={"stage": "one"}).trigger_and_wait()
        assert result.output == "one"
        kept = (await runs.retrieve(result.run_id)).metadata
    assert kept["stage"] == "one" and "traceparent" in kept[tracing.TRACE_KEY]


@pytest.mark.parametrize("carried", [None, "x", {}, {"traceparent": ""}, {"traceparent": 5}, []])
def test_metadata_that_carries_no_context_is_no_fault(spans, carried):
    context = tracing.extract(carried)
    with tracing.span("alone", parent=context):
        pass
    assert named(spans)["alone"].parent is None


async def test_no_trace_context_is_stored_while_tracing_is_off():
    @task
    async def quiet():
        return None

    async with working():
        result = await quiet.trigger_and_wait()
        assert (await runs.retrieve(result.run_id)).metadata == {}
    assert not tracing.is_enabled()


QUIET = """
import asyncio, sys, gateway
from gateway import streams, task
from gateway._internal import tracing
numbers = streams.define("n", int)
@task
async def count():
    await numbers.append(1)
async def main():
    async with gateway.connect(store="memory:"):
        assert (await count.trigger_and_wait()).ok
    assert not tracing.is_enabled()
    print([name for name in sys.modules if name.startswith("opentelemetry")])
asyncio.run(main())
"""


def test_opentelemetry_is_not_imported_by_what_does_not_use_it():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
