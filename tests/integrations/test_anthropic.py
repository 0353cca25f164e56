"""Anthropic's own client, over HTTP, read as parts."""

from typing import Any

import anthropic
import httpx2
import pytest

from gateway.integrations._model_streams import ModelStreamError
from gateway.integrations.anthropic import from_anthropic
from gateway.sdk.assembler import Assembler
from gateway.sdk.parts import (
    ErrorPart,
    Finish,
    ReasoningDelta,
    Source,
    TextDelta,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
)

REQUEST = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def client(provider):
    async with anthropic.AsyncAnthropic(
        api_key="sk-test",
        base_url=provider.url,
        max_retries=0,
        http_client=httpx2.AsyncClient(trust_env=False),
    ) as client:
        yield client


def create(client: anthropic.AsyncAnthropic):
    return client.messages.create(**REQUEST, stream=True)


def begin(**usage: int) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 1, **usage}
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    return {"type": "message_start", "message": message}


def start(index: int, type: str, **block: Any) -> dict[str, Any]:
    block = {"type": type, **block}
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, type: str, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": type, **delta}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str, **usage: Any) -> list[dict[str, Any]]:
    change = {"stop_reason": reason, "stop_sequence": None}
    usage = {"output_tokens": 5, **usage}
    return [
        {"type": "message_delta", "delta": change, "usage": usage},
        {"type": "message_stop"},
    ]


USED = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
TEXT = [start(0, "text", text=""), delta(0, "text_delta", text="Hi"), stop(0)]


async def test_text_thinking_and_usage(provider, client, collect) -> None:
    provider.will_send(
        begin(cache_read_input_tokens=30, cache_creation_input_tokens=2),
        {"type": "ping"},
        start(0, "thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="Hm."),
        delta(0, "signature_delta", signature="c2ln"),
        stop(0),
        start(1, "redacted_thinking", data="eHh4"),
        stop(1),
        start(2, "text", text=""),
        delta(2, "text_delta", text="Hel"),
        delta(2, "text_delta", text="lo"),
        stop(2),
        *end("end_turn", output_tokens_details={"thinking_tokens": 3}),
    )
    parts = await collect(from_anthropic(create(client)))
    assert parts.error is None
    assert parts == [
        ReasoningDelta("Hm."),
        TextDelta("Hel"),
        TextDelta("lo"),
        Finish("stop", {
            "input_tokens": 42, "output_tokens": 5, "total_tokens": 47,
            "cached_input_tokens": 30, "reasoning_tokens": 3,
        }),
    ]  # fmt: skip


async def test_block_starts_may_have_content(provider, client, collect) -> None:
    provider.will_send(
        begin(),
        start(0, "thinking", thinking="Hm.", signature=""),
        stop(0),
        start(1, "text", text="Hi"),
        stop(1),
        *end("end_turn"),
    )
    assert await collect(from_anthropic(create(client))) == [
        ReasoningDelta("Hm."),
        TextDelta("Hi"),
        Finish("stop", USED),
    ]


async def test_tool_calls(provider, client, collect) -> None:
    provider.will_send(
        begin(),
        *TEXT,
        start(1, "tool_use", id="toolu_1", name="weather", input={}),
        delta(1, "input_json_delta", partial_json=""),
        delta(1, "input_json_delta", partial_json='{"city":'),
        delta(1, "input_json_delta", partial_json=' "Oslo"}'),
        stop(1),
        start(2, "tool_use", id="toolu_2", name="now", input={}),
        stop(2),
        *end("tool_use"),
    )
    assert await collect(from_anthropic(await create(client))) == [
        TextDelta("Hi"),
        ToolInputStart("toolu_1", "weather"),
        ToolInputDelta("toolu_1", '{"city":'),
        ToolInputDelta("toolu_1", ' "Oslo"}'),
        ToolCall("toolu_1", "weather", {"city": "Oslo"}),
        ToolInputStart("toolu_2", "now"),
        ToolCall("toolu_2", "now", {}),
        Finish("tool-calls", USED),
    ]


async def test_truncated_and_invalid_tool_inputs(provider, client, collect) -> None:
    call = [
        start(0, "tool_use", id="toolu_1", name="weather", input={}),
        delta(0, "input_json_delta", partial_json='{"city": Os'),
        stop(0),
    ]
    provider.will_send(begin(), *call, *end("max_tokens"))
    parts = await collect(from_anthropic(create(client)))
    assert parts[2:] == [Finish("length", USED)]
    assembler = Assembler()
    for part in parts:
        assembler.add(part)
    assert assembler.tool_calls["toolu_1"].state == "failed"
    provider.will_send(begin(), *call, *end("tool_use"))
    parts = await collect(from_anthropic(create(client)))
    assert parts[2:] == [ToolCall("toolu_1", "weather", '{"city": Os'), Finish("tool-calls", USED)]


async def test_hosted_tools_and_citations(provider, client, collect) -> None:
    found = {
        "type": "web_search_result", "url": "https://a.example", "title": "A",
        "encrypted_content": "x" * 100, "page_age": None,
    }  # fmt: skip
    web = {
        "type": "web_search_result_location", "url": "https://a.example", "title": "A",
        "cited_text": "…", "encrypted_index": "x",
    }  # fmt: skip
    document = {
        "type": "char_location", "document_index": 0, "document_title": "Report",
        "cited_text": "…", "start_char_index": 0, "end_char_index": 1, "file_id": None,
    }  # fmt: skip
    failed = {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}
    provider.will_send(
        begin(),
        start(0, "server_tool_use", id="srv_1", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json='{"query": "Oslo"}'),
        stop(0),
        start(1, "web_search_tool_result", tool_use_id="srv_1", content=[found]),
        stop(1),
        start(2, "server_tool_use", id="srv_2", name="web_search", input={"query": "Rome"}),
        stop(2),
        start(3, "web_search_tool_result", tool_use_id="srv_2", content=failed),
        stop(3),
        start(4, "text", text="", citations=[]),
        delta(4, "citations_delta", citation=web),
        delta(4, "citations_delta", citation=document),
        delta(4, "text_delta", text="Hi"),
        stop(4),
        start(5, "a_block_of_tomorrow", id="x"),
        delta(5, "a_delta_of_tomorrow", data="x"),
        stop(5),
        {"type": "an_event_of_tomorrow"},
        *end("pause_turn"),
    )
    parts = await collect(from_anthropic(create(client)))
    assert parts.error is None
    results = [part for part in parts if isinstance(part, ToolResult)]
    assert [(result.id, result.is_error) for result in results] == [
        ("srv_1", False),
        ("srv_2", True),
    ]
    assert results[0].output[0]["url"] == "https://a.example"
    assert "encrypted_content" not in results[0].output[0]
    assert results[1].output["error_code"] == "max_uses_exceeded"
    assert ToolCall("srv_1", "web_search", {"query": "Oslo"}) in parts
    assert ToolCall("srv_2", "web_search", {"query": "Rome"}) in parts
    assert Source(None, "https://a.example", "A") in parts
    assert Source("document_0", None, "Report") in parts
    assert parts[-1] == Finish("pause_turn", USED)


@pytest.mark.parametrize(
    ("reason", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("refusal", "content-filter"),
        ("model_context_window_exceeded", "length"),
        ("a_reason_of_tomorrow", "a_reason_of_tomorrow"),
    ],
)
async def test_finish_reasons(reason, ours, provider, client, collect) -> None:
    provider.will_send(begin(), *TEXT, *end(reason))
    assert (await collect(from_anthropic(create(client))))[-1] == Finish(ours, USED)


async def test_stream_helper_of_client(provider, client, collect) -> None:
    call = [
        start(1, "tool_use", id="toolu_1", name="weather", input={}),
        delta(1, "input_json_delta", partial_json='{"city": "Oslo"}'),
        stop(1),
    ]
    provider.will_send(begin(), *TEXT, *call, *end("tool_use"))
    parts = await collect(from_anthropic(client.messages.stream(**REQUEST)))
    assert (parts.error, list(parts)) == (None, [
        TextDelta("Hi"),
        ToolInputStart("toolu_1", "weather"),
        ToolInputDelta("toolu_1", '{"city": "Oslo"}'),
        ToolCall("toolu_1", "weather", {"city": "Oslo"}),
        Finish("tool-calls", USED),
    ])  # fmt: skip


async def test_beta_client(provider, client, collect) -> None:
    mcp = start(1, "mcp_tool_use", id="mcp_1", name="look", input={"q": 1}, server_name="s")
    result = start(2, "mcp_tool_result", tool_use_id="mcp_1", is_error=True,
                   content=[{"type": "text", "text": "no"}])  # fmt: skip
    provider.will_send(begin(), *TEXT, mcp, stop(1), result, stop(2), *end("end_turn"))
    parts = await collect(from_anthropic(client.beta.messages.create(**REQUEST, stream=True)))
    assert parts.error is None
    assert ToolCall("mcp_1", "look", {"q": 1}) in parts
    answered = next(part for part in parts if isinstance(part, ToolResult))
    assert answered.is_error and answered.output[0]["text"] == "no"


async def test_rejected_request_yields_error_part(provider, client, collect) -> None:
    provider.will_refuse(529, {"type": "error", "error": {"type": "overloaded_error",
                                                          "message": "Overloaded"}})  # fmt: skip
    parts = await collect(from_anthropic(create(client)))
    assert isinstance(parts.error, anthropic.APIStatusError)
    assert len(parts) == 1 and "Overloaded" in parts[0].message


async def test_error_event_yields_error_part(provider, client, collect) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    provider.will_send(begin(), *TEXT, error)
    parts = await collect(from_anthropic(create(client)))
    assert isinstance(parts.error, anthropic.APIStatusError)
    assert parts[0] == TextDelta("Hi") and isinstance(parts[1], ErrorPart)
    assert "Overloaded" in parts[1].message


async def test_incomplete_stream_yields_error_part(provider, client, collect) -> None:
    provider.will_send(begin(), *TEXT)
    parts = await collect(from_anthropic(create(client)))
    assert isinstance(parts.error, ModelStreamError)
    assert parts[-1] == ErrorPart("the stream ended before the answer was complete")
    provider.will_send(begin(), *TEXT, whole=False)
    parts = await collect(from_anthropic(create(client)))
    assert isinstance(parts.error, (anthropic.APIError, httpx2.TransportError))
    assert isinstance(parts[-1], ErrorPart) and parts[-1].message


async def test_closing_the_generator_closes_the_stream(provider, client) -> None:
    provider.will_send(begin(), *TEXT, *end("end_turn"))
    stream = await create(client)
    parts = from_anthropic(stream)
    assert await anext(parts) == TextDelta("Hi")
    await parts.aclose()
    assert stream.response.is_closed
