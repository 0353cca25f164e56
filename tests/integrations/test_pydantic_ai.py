"""Pydantic AI's own agents, with its test models, read as parts."""

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.exceptions import ApprovalRequired, ModelHTTPError
from pydantic_ai.messages import NativeToolCallPart, NativeToolReturnPart
from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import (
    DeferredToolRequests,
    DeferredToolResults,
    ToolDenied,
)

from gateway import connect, streams, task
from gateway.integrations.pydantic_ai import from_pydantic_ai
from gateway.sdk.assembler import assemble
from gateway.sdk.parts import (
    ErrorPart,
    Part,
    ReasoningDelta,
    Step,
    TextDelta,
    ToolApproval,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
)
from tests.support.sdk.parts import assembled


async def thinks_and_looks(messages, info):
    """Think, call the tool, and answer with its result."""
    if len(messages) == 1:
        yield {0: DeltaThinkingPart(content="Hm")}
        yield {0: DeltaThinkingPart(content="m.")}
        yield {1: DeltaToolCall(name="weather", json_args='{"city":', tool_call_id="call_a")}
        yield {1: DeltaToolCall(json_args=' "Oslo"}')}
        yield {
            2: DeltaToolCall(name="weather", json_args='{"city": "Rome"}', tool_call_id="call_b")
        }
    else:
        yield "It is "
        yield "3."


def weather_agent(model=thinks_and_looks) -> Agent:
    agent = Agent(FunctionModel(stream_function=model))

    @agent.tool_plain
    def weather(city: str) -> dict[str, object]:
        return {"city": city, "celsius": 3}

    return agent


async def test_run_of_two_steps(collect) -> None:
    parts = await collect(from_pydantic_ai(weather_agent().run_stream_events("Weather?")))
    assert parts.error is None
    assert parts[:8] == [
        Step(0, "start"),
        ReasoningDelta("Hm"),
        ReasoningDelta("m."),
        ToolInputStart("call_a", "weather"),
        ToolInputDelta("call_a", '{"city":'),
        ToolInputDelta("call_a", ' "Oslo"}'),
        ToolCall("call_a", "weather", {"city": "Oslo"}),
        ToolInputStart("call_b", "weather"),
    ]
    assert parts.count(ToolCall("call_b", "weather", {"city": "Rome"})) == 1
    assert ToolResult("call_a", {"city": "Oslo", "celsius": 3}) in parts
    assert parts[-6:-1] == [
        Step(0, "finish"),
        Step(1, "start"),
        TextDelta("It is "),
        TextDelta("3."),
        Step(1, "finish"),
    ]
    whole = assembled(parts)
    assert [call.state for call in whole.tool_calls.values()] == ["done", "done"]
    assert whole.finish.reason == "stop"
    assert whole.finish.usage["total_tokens"] > 0


async def test_model_that_calls_every_tool(collect) -> None:
    agent = Agent(TestModel(custom_output_text="Done."))

    @agent.tool_plain
    def weather(city: str, days: int) -> bytes:
        return b"\xff"

    parts = await collect(from_pydantic_ai(agent.run_stream_events("Weather?")))
    assert parts.error is None
    whole = assembled(parts)
    assert whole.text == "Done."
    (call,) = whole.tool_calls.values()
    assert (call.name, call.input, call.state) == ("weather", {"city": "a", "days": 0}, "done")
    used = whole.finish.usage
    assert used["input_tokens"] + used["output_tokens"] == used["total_tokens"]


async def test_answer_by_output_tool(collect) -> None:
    agent = Agent(TestModel(custom_output_args={"celsius": 3}), output_type=dict[str, int])
    parts = await collect(from_pydantic_ai(agent.run_stream_events("Weather?")))
    assert parts.error is None
    (call,) = assembled(parts).tool_calls.values()
    assert (call.name, call.state) == ("final_result", "done")
    assert call.input in ({"celsius": 3}, {"response": {"celsius": 3}})


async def test_tool_that_requests_retry(collect) -> None:
    async def tries_twice(messages, info):
        number = len(messages) // 2
        if number < 2:
            args = '{"city": "Oslo"}' if number else '{"city": 7}'
            yield {0: DeltaToolCall(name="weather", json_args=args, tool_call_id=f"call_{number}")}
        else:
            yield "Done."

    agent = Agent(FunctionModel(stream_function=tries_twice))

    @agent.tool_plain(retries=3)
    def weather(city: str) -> str:
        raise ModelRetry(f"no such city: {city}")

    parts = await collect(from_pydantic_ai(agent.run_stream_events("Weather?")))
    assert parts.error is None
    calls = assembled(parts).tool_calls
    assert [call.state for call in calls.values()] == ["failed", "failed"]
    assert "no such city: Oslo" in str(calls["call_1"].output)


async def asks_to_delete(messages, info):
    if not any(part.part_kind == "tool-return" for part in messages[-1].parts):
        yield {0: DeltaToolCall(name="delete", json_args='{"path": "a"}', tool_call_id="call_a")}
    else:
        yield "Done."


def careful_agent(*capabilities) -> Agent:
    model = FunctionModel(stream_function=asks_to_delete)
    agent = Agent(model, output_type=[str, DeferredToolRequests], capabilities=capabilities)

    @agent.tool
    def delete(context: RunContext, path: str) -> str:
        if not context.tool_call_approved:
            raise ApprovalRequired
        return f"{path} is gone"

    return agent


@pytest.mark.parametrize(
    ("answer", "state", "output"),
    [(True, "done", "a is gone"), (ToolDenied("never"), "denied", "never")],
)
async def test_tool_that_needs_approval(answer, state, output, collect) -> None:
    agent = careful_agent()
    async with agent.run_stream_events("Delete a") as events:
        asked = await collect(from_pydantic_ai(events))
        result = events.result
    assert asked.error is None
    assert ToolApproval("call_a", "requested") in asked
    assert asked[-1].reason == "tool-calls"
    assert assembled(asked).tool_calls["call_a"].state == "waiting"

    results = DeferredToolResults(approvals={"call_a": answer})
    resumed = agent.run_stream_events(
        message_history=result.all_messages(), deferred_tool_results=results
    )
    answered = await collect(from_pydantic_ai(resumed))
    assert answered.error is None
    call = assembled([*asked, *answered]).tool_calls["call_a"]
    assert (call.state, call.output) == (state, output)
    assert call.reason == ("never" if state == "denied" else None)


@pytest.mark.parametrize(("answer", "state"), [(True, "done"), (ToolDenied("never"), "denied")])
async def test_tool_approved_within_the_run(answer, state, collect) -> None:
    def decide(context, requests):
        return DeferredToolResults(
            approvals={call.tool_call_id: answer for call in requests.approvals}
        )

    agent = careful_agent(HandleDeferredToolCalls(handler=decide))
    parts = await collect(from_pydantic_ai(agent.run_stream_events("Delete a")))
    assert parts.error is None
    approvals = [part for part in parts if isinstance(part, ToolApproval)]
    assert approvals[0] == ToolApproval("call_a", "requested")
    assert approvals[1].state == ("approved" if state == "done" else "denied")
    assert assembled(parts).tool_calls["call_a"].state == state
    assert parts[-1].reason == "stop"


async def test_hosted_tool(collect) -> None:
    async def searches(messages, info):
        yield {0: NativeToolCallPart("web_search", {"query": "Oslo"}, tool_call_id="srv_1")}
        yield {1: NativeToolReturnPart("web_search", {"hits": 1}, tool_call_id="srv_1")}
        yield "Done."

    agent = Agent(FunctionModel(stream_function=searches))
    parts = await collect(from_pydantic_ai(agent.run_stream_events("Oslo?")))
    assert parts.error is None
    call = assembled(parts).tool_calls["srv_1"]
    assert (call.name, call.input, call.output) == ("web_search", {"query": "Oslo"}, {"hits": 1})


async def test_node_streams(collect) -> None:
    parts = []
    async with weather_agent().iter("Weather?") as run:
        async for node in run:
            if hasattr(node, "stream"):
                async with node.stream(run.ctx) as events:
                    read = await collect(from_pydantic_ai(events))
                    assert read.error is None
                    parts += read
    whole = assembled(parts)
    assert whole.text == "It is 3."
    assert [call.state for call in whole.tool_calls.values()] == ["done", "done"]
    assert whole.finish is None


async def test_failing_model_yields_error_part(collect) -> None:
    async def fails(messages, info):
        yield "Hel"
        raise ModelHTTPError(529, "m", {"message": "overloaded"})

    agent = Agent(FunctionModel(stream_function=fails))
    parts = await collect(from_pydantic_ai(agent.run_stream_events("Hi")))
    assert isinstance(parts.error, ModelHTTPError)
    assert parts[:2] == [Step(0, "start"), TextDelta("Hel")]
    assert isinstance(parts[-1], ErrorPart) and "overloaded" in parts[-1].message
    assert assembled(parts).steps[0].state == "failed"


async def test_failing_tool_yields_error_part(collect) -> None:
    agent = Agent(FunctionModel(stream_function=thinks_and_looks))

    @agent.tool_plain
    def weather(city: str) -> str:
        raise OSError("no network")

    parts = await collect(from_pydantic_ai(agent.run_stream_events("Weather?")))
    assert isinstance(parts.error, OSError)
    whole = assembled(parts)
    assert whole.error == "no network"
    assert {call.state for call in whole.tool_calls.values()} == {"failed"}


async def test_pipe_in_task() -> None:
    answer = streams.define("answer", Part)

    @task
    async def ask() -> None:
        await answer.pipe(from_pydantic_ai(weather_agent().run_stream_events("Weather?")))

    async with connect(store="memory:"):
        run = await ask.trigger()
        whole = await assemble(answer.read(run.id, timeout_s=10))
        assert whole.text == "It is 3." and whole.reasoning == "Hmm."
        assert [step.state for step in whole.steps] == ["done", "done"]
        assert whole.finish.reason == "stop"
        assert (await run.wait()).ok
