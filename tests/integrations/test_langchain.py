"""LangChain's own runnables, with its fake models, read as parts."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    FakeListChatModelError,
    FakeMessagesListChatModel,
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from gateway import connect, streams, task
from gateway.integrations.langchain import from_langchain
from gateway.sdk.assembler import assemble
from gateway.sdk.parts import (
    ErrorPart,
    Finish,
    Part,
    ReasoningDelta,
    Source,
    Step,
    TextDelta,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
)
from tests.support.sdk.parts import assembled


class ChunkModel(GenericFakeChatModel):
    """LangChain's fake model, with answers in chunks."""

    def _stream(self, messages: Any, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in next(self.messages):
            yield ChatGenerationChunk(message=chunk)


def model(*answers: list[AIMessageChunk]) -> ChunkModel:
    # Not validated, because the field's type is that of complete messages.
    return ChunkModel.model_construct(messages=iter(answers))


def called(index: int, args: str, id: str | None = None, name: str | None = None) -> AIMessageChunk:
    chunk = tool_call_chunk(name=name, args=args, id=id, index=index)
    return AIMessageChunk(content="", tool_call_chunks=[chunk])


def used(**counts: Any) -> AIMessageChunk:
    usage = {"input_tokens": 9, "output_tokens": 12, "total_tokens": 21, **counts}
    return AIMessageChunk(content="", usage_metadata=usage)


@tool
def weather(city: str) -> str:
    """Return the weather."""
    if city == "Atlantis":
        raise ValueError("no such city")
    return "3 degrees"


LOOKS = [
    AIMessageChunk(content="Let me look. "),
    called(0, '{"city":', "call_a", "weather"),
    called(0, ' "Oslo"}'),
    AIMessageChunk(content="", response_metadata={"finish_reason": "tool_calls"}),
    used(),
]


async def test_model_text(collect) -> None:
    fake = GenericFakeChatModel(messages=iter(["Hello there"]))
    assert await collect(from_langchain(fake.astream("Hi"))) == [
        TextDelta("Hello"),
        TextDelta(" "),
        TextDelta("there"),
        Finish("stop", None),
    ]


async def test_reasoning_sources_usage_and_reason(collect) -> None:
    cited = {"type": "citation", "url": "https://a.example", "title": "A"}
    fake = model([
        AIMessageChunk(content=[{"type": "reasoning", "reasoning": "Hm."}]),
        AIMessageChunk(content=[{"type": "text", "text": "Hi", "annotations": [cited]}]),
        AIMessageChunk(content="", response_metadata={"stop_reason": "max_tokens"}),
        used(input_token_details={"cache_read": 4}, output_token_details={"reasoning": 7}),
    ])  # fmt: skip
    parts = await collect(from_langchain(fake.astream("Hi")))
    assert parts.error is None
    assert parts == [
        ReasoningDelta("Hm."),
        TextDelta("Hi"),
        Source(None, "https://a.example", "A"),
        Finish("length", {
            "input_tokens": 9, "output_tokens": 12, "total_tokens": 21,
            "cached_input_tokens": 4, "reasoning_tokens": 7,
        }),
    ]  # fmt: skip


async def test_model_tool_calls(collect) -> None:
    both = [called(0, '{"n":', "a", "f"), called(1, "{}", "b", "g"), called(0, " 1}")]
    assert await collect(from_langchain(model(both).astream("Hi"))) == [
        ToolInputStart("a", "f"),
        ToolInputDelta("a", '{"n":'),
        ToolInputStart("b", "g"),
        ToolInputDelta("b", "{}"),
        ToolInputDelta("a", " 1}"),
        ToolCall("a", "f", {"n": 1}),
        ToolCall("b", "g", {}),
        Finish("tool-calls", None),
    ]


async def test_graph_messages(collect) -> None:
    async def graph():
        metadata = {"langgraph_node": "agent"}
        for chunk in LOOKS:
            yield chunk.model_copy(update={"id": "m1"}), metadata
        yield ToolMessage("3 degrees", tool_call_id="call_a"), metadata
        yield "messages", (AIMessageChunk(content="It is 3.", id="m2"), metadata)
        yield HumanMessage("not of the answer"), metadata

    parts = await collect(from_langchain(graph()))
    assert parts.error is None
    whole = assembled(parts)
    assert whole.text == "Let me look. It is 3."
    assert whole.finish.usage["total_tokens"] == 21


async def test_complete_messages(collect) -> None:
    call = {"name": "weather", "args": {"city": "Oslo"}, "id": "call_a"}
    broken = {
        "name": "now",
        "args": "{",
        "id": "call_b",
        "error": "no JSON",
        "type": "invalid_tool_call",
    }
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    said = AIMessage("Let me look.", tool_calls=[call], usage_metadata=usage)

    async def messages():
        yield said
        yield AIMessage("", invalid_tool_calls=[broken], id="m2")
        yield ToolMessage("no such city", tool_call_id="call_a", status="error")

    assert await collect(from_langchain(messages())) == [
        TextDelta("Let me look."),
        ToolCall("call_a", "weather", {"city": "Oslo"}),
        Finish("tool-calls", usage),
        ToolCall("call_b", "now", "{"),
        Finish("tool-calls", None),
        ToolResult("call_a", "no such city", is_error=True),
    ]


def agent(fake: ChunkModel) -> RunnableLambda:
    """Two steps of an agent, as `create_agent` makes them: model, tool, model."""

    async def steps(question: str) -> Any:
        said = await fake.ainvoke(question)
        results = [await weather.ainvoke(call | {"type": "tool_call"}) for call in said.tool_calls]
        return await fake.ainvoke([question, said, *results])

    return RunnableLambda(steps)


async def test_agent_events(collect) -> None:
    fake = model(LOOKS, [AIMessageChunk(content="It is 3."), used()])
    events = agent(fake).astream_events("Weather?", version="v2")
    parts = await collect(from_langchain(events))
    assert parts.error is None
    assert parts[:5] == [
        Step(0, "start"),
        TextDelta("Let me look. "),
        ToolInputStart("call_a", "weather"),
        ToolInputDelta("call_a", '{"city":'),
        ToolInputDelta("call_a", ' "Oslo"}'),
    ]
    whole = assembled(parts)
    assert whole.text == "Let me look. It is 3."
    assert [step.state for step in whole.steps] == ["done", "done"]
    (call,) = whole.tool_calls.values()
    assert (call.input, call.output, call.state) == ({"city": "Oslo"}, "3 degrees", "done")
    assert (whole.finish.reason, whole.finish.usage["total_tokens"]) == ("stop", 42)


async def test_events_of_model_without_streaming(collect) -> None:
    fake = FakeMessagesListChatModel(responses=[AIMessage("Hello there")])
    parts = await collect(from_langchain(fake.astream_events("Hi", version="v2")))
    assert parts == [
        Step(0, "start"),
        TextDelta("Hello there"),
        Step(0, "finish"),
        Finish("stop", None),
    ]


@pytest.mark.parametrize(
    ("input", "id"),
    [
        ({"city": "Oslo"}, None),
        (
            {"name": "weather", "args": {"city": "Oslo"}, "id": "call_a", "type": "tool_call"},
            "call_a",
        ),
    ],
)
async def test_events_of_tool_without_model_request(input, id, collect) -> None:
    parts = await collect(from_langchain(weather.astream_events(input, version="v2")))
    call, result = parts
    assert call == ToolCall(id or call.id, "weather", {"city": "Oslo"})
    assert result == ToolResult(call.id, "3 degrees")


async def test_events_of_failing_tool(collect) -> None:
    fake = model([called(0, '{"city": "Atlantis"}', "call_a", "weather")])
    events = agent(fake).astream_events("Weather?", version="v2")
    parts = await collect(from_langchain(events))
    assert isinstance(parts.error, ValueError)
    assert ToolResult("call_a", "no such city", is_error=True) in parts
    assert parts[-1] == ErrorPart("no such city")
    assert [part for part in parts if isinstance(part, ToolCall)] == [
        ToolCall("call_a", "weather", {"city": "Atlantis"})
    ]


async def test_failing_model_yields_error_part(collect) -> None:
    fake = FakeListChatModel(responses=["Hello"], error_on_chunk_number=2)
    parts = await collect(from_langchain(fake.astream("Hi")))
    assert isinstance(parts.error, FakeListChatModelError)
    assert parts == [TextDelta("H"), TextDelta("e"), ErrorPart("FakeListChatModelError")]


async def test_pipe_in_task() -> None:
    answer = streams.define("answer", Part)

    @task
    async def ask() -> None:
        fake = model(LOOKS, [AIMessageChunk(content="It is 3."), used()])
        await answer.pipe(from_langchain(agent(fake).astream_events("Weather?", version="v2")))

    async with connect(store="memory:"):
        run = await ask.trigger()
        whole = await assemble(answer.read(run.id, timeout_s=10))
        assert whole.text == "Let me look. It is 3."
        assert (await run.wait()).ok
