"""OpenAI's own client, over HTTP, read as parts."""

from typing import Any

import httpx2
import openai
import pytest

from gateway import connect, streams, task
from gateway.integrations._model_streams import ModelStreamError
from gateway.integrations.openai import from_openai
from gateway.sdk.parts import (
    ErrorPart,
    Finish,
    Part,
    ReasoningDelta,
    Source,
    TextDelta,
    ToolApproval,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
)
from tests.support.sdk.parts import assembled

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def client(provider):
    async with openai.AsyncOpenAI(
        api_key="sk-test",
        base_url=provider.url,
        max_retries=0,
        http_client=httpx2.AsyncClient(trust_env=False),
    ) as client:
        yield client


# ---- chat completions ----


def chunk(*, finish: str | None = None, index: int = 0, usage: Any = None, **delta: Any) -> dict:
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices if delta or finish else [],
        "usage": usage,
    }


def called(index: int | None, arguments: str = "", id: str | None = None, name: str | None = None):
    call = {"index": index, "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [call if id is None else call | {"id": id, "type": "function"}]}


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 12,
    "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 7},
}


def chat(client: openai.AsyncOpenAI):
    return client.chat.completions.create(model="m", messages=MESSAGES, stream=True)


async def test_chat_text_reasoning_and_usage(provider, client, collect) -> None:
    provider.will_send(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="Hm"),
        chunk(reasoning="m."),
        chunk(content="Hel"),
        chunk(
            content="lo",
            annotations=[
                {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A"}}
            ],
        ),
        chunk(content="another choice", index=1),
        chunk(finish="stop"),
        chunk(usage=USAGE),
        done=True,
    )
    parts = await collect(from_openai(chat(client)))
    assert parts.error is None
    assert parts == [
        ReasoningDelta("Hm"),
        ReasoningDelta("m."),
        TextDelta("Hel"),
        TextDelta("lo"),
        Source(url="https://a.example", title="A"),
        Finish("stop", {
            "input_tokens": 9, "output_tokens": 12, "total_tokens": 21,
            "cached_input_tokens": 4, "reasoning_tokens": 7,
        }),
    ]  # fmt: skip
    assert provider.requests[0]["stream"] is True


async def test_chat_interleaved_tool_calls(provider, client, collect) -> None:
    provider.will_send(
        chunk(**called(0, "", "call_a", "weather")),
        chunk(**called(0, '{"city":')),
        chunk(**called(1, "", "call_b", "now")),
        chunk(**called(0, ' "Oslo"}')),
        chunk(finish="tool_calls"),
        done=True,
    )
    assert await collect(from_openai(await chat(client))) == [
        ToolInputStart("call_a", "weather"),
        ToolInputDelta("call_a", '{"city":'),
        ToolInputStart("call_b", "now"),
        ToolInputDelta("call_a", ' "Oslo"}'),
        ToolCall("call_a", "weather", {"city": "Oslo"}),
        ToolCall("call_b", "now", {}),
        Finish("tool-calls", None),
    ]


@pytest.mark.parametrize(
    "deltas",
    [
        [(0, '{"n":1}', "a", "f"), (0, '{"n":2}', "b", "f")],  # one index for all
        [(None, '{"n":1}', "a", "f"), (None, '{"n":', "b", "f"), (None, "2}")],  # no index
        [(0, '{"n":', "a", "f"), (0, "1}", "a"), (1, '{"n":2}', "b", "f")],  # an id in every piece
    ],
)
async def test_chat_tool_calls_with_unusual_indexes(deltas, provider, client, collect) -> None:
    provider.will_send(*(chunk(**called(*delta)) for delta in deltas), chunk(finish="stop"))
    parts = await collect(from_openai(chat(client)))
    assert [(part.id, part.input) for part in parts if isinstance(part, ToolCall)] == [
        ("a", {"n": 1}),
        ("b", {"n": 2}),
    ]
    assert parts[-1] == Finish("tool-calls", None)


async def test_chat_tool_calls_without_ids_get_generated_ids(provider, client, collect) -> None:
    provider.will_send(
        chunk(**called(0, "{}", None, "f")),
        chunk(**called(1, "{}", None, "g")),
        chunk(finish="stop"),
    )
    calls = [p for p in await collect(from_openai(chat(client))) if isinstance(p, ToolCall)]
    assert calls == [ToolCall("chatcmpl-1-0", "f", {}), ToolCall("chatcmpl-1-1", "g", {})]


async def test_chat_invalid_json_arguments(provider, client, collect) -> None:
    broken = chunk(**called(0, '{"city": Oslo}', "a", "f"))
    provider.will_send(broken, chunk(finish="tool_calls"))
    parts = await collect(from_openai(chat(client)))
    assert ToolCall("a", "f", '{"city": Oslo}') in parts
    provider.will_send(chunk(**called(0, '{"city": "Os', "a", "f")), chunk(finish="length"))
    parts = await collect(from_openai(chat(client)))
    assert not any(isinstance(part, ToolCall) for part in parts)
    assert assembled(parts).tool_calls["a"].state == "failed"


async def test_chat_refusal_and_content_filter(provider, client, collect) -> None:
    provider.will_send(chunk(refusal="I can't."), chunk(finish="content_filter"))
    parts = await collect(from_openai(chat(client)))
    assert parts == [TextDelta("I can't."), Finish("content-filter", None)]


async def test_chat_stream_helper_of_client(provider, client, collect) -> None:
    provider.will_send(
        chunk(role="assistant", content="Hi"),
        chunk(**called(0, '{"n":1}', "a", "f")),
        chunk(finish="tool_calls"),
        chunk(usage=USAGE),
        done=True,
    )
    stream = client.chat.completions.stream(model="m", messages=MESSAGES)
    parts = await collect(from_openai(stream))
    assert parts.error is None
    assert parts[0] == TextDelta("Hi")
    assert parts[-2:] == [
        ToolCall("a", "f", {"n": 1}),
        Finish("tool-calls", parts[-1].usage),
    ]
    assert parts[-1].usage["total_tokens"] == 21


# ---- responses ----


def item(type: str, **fields: Any) -> dict:
    return {"type": type, "id": "it_1", "status": "completed", **fields}


def response(status: str = "completed", **fields: Any) -> dict:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": status,
        "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "usage": {
            "input_tokens": 9, "output_tokens": 12, "total_tokens": 21,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 7},
        },
        **fields,
    }  # fmt: skip


USED = {
    "input_tokens": 9,
    "output_tokens": 12,
    "total_tokens": 21,
    "cached_input_tokens": 4,
    "reasoning_tokens": 7,
}


def events(*events: tuple[str, dict]) -> list[dict]:
    return [
        {"type": f"response.{type}" if type != "error" else type, "sequence_number": n, **fields}
        for n, (type, fields) in enumerate(events)
    ]


def text(delta: str, item_id: str = "msg_1") -> tuple[str, dict]:
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    return "output_text.delta", {"delta": delta, "logprobs": [], **place}


def added(item: dict) -> tuple[str, dict]:
    return "output_item.added", {"output_index": 0, "item": item}


def done(item: dict) -> tuple[str, dict]:
    return "output_item.done", {"output_index": 0, "item": item}


COMPLETED = ("completed", {"response": response()})


def respond(client: openai.AsyncOpenAI):
    return client.responses.create(model="m", input="Hi", stream=True)


async def test_responses_text_reasoning_and_sources(provider, client, collect) -> None:
    summary = {"item_id": "rs_1", "output_index": 0}
    citation = {
        "type": "url_citation", "url": "https://a.example", "title": "A",
        "start_index": 0, "end_index": 1,
    }  # fmt: skip
    place = {"item_id": "msg_1", "output_index": 1, "content_index": 0, "annotation_index": 0}
    message = item("message", role="assistant", content=[])
    provider.will_send(
        *events(
            ("created", {"response": response("in_progress", usage=None)}),
            ("reasoning_summary_part.added",
             {**summary, "summary_index": 0, "part": {"type": "summary_text", "text": ""}}),
            ("reasoning_summary_text.delta", {**summary, "summary_index": 0, "delta": "Hm."}),
            ("reasoning_summary_part.added",
             {**summary, "summary_index": 1, "part": {"type": "summary_text", "text": ""}}),
            ("reasoning_summary_text.delta", {**summary, "summary_index": 1, "delta": "So."}),
            added(message),
            text("Hel"),
            text("lo"),
            ("output_text.annotation.added", {**place, "annotation": citation}),
            ("output_text.annotation.added", {**place, "annotation": {
                "type": "file_citation", "file_id": "file_1", "filename": "a.pdf", "index": 0}}),
            done(message),
            added(message | {"id": "msg_2"}),
            text("Bye", "msg_2"),
            ("a_type_of_tomorrow", {"delta": 1}),
            COMPLETED,
        )
    )  # fmt: skip
    parts = await collect(from_openai(respond(client)))
    assert parts.error is None
    assert parts == [
        ReasoningDelta("Hm."),
        ReasoningDelta("\n\n"),
        ReasoningDelta("So."),
        TextDelta("Hel"),
        TextDelta("lo"),
        Source(None, "https://a.example", "A"),
        Source("file_1", None, "a.pdf"),
        TextDelta("\n\n"),
        TextDelta("Bye"),
        Finish("stop", USED),
    ]


async def test_responses_function_and_custom_calls(provider, client, collect) -> None:
    call = item("function_call", id="fc_1", call_id="call_a", name="weather", arguments="")
    custom = item("custom_tool_call", id="ct_1", call_id="call_b", name="shell", input="")
    provider.will_send(
        *events(
            added(call),
            ("function_call_arguments.delta",
             {"item_id": "fc_1", "output_index": 0, "delta": '{"city":'}),
            added(custom),
            ("custom_tool_call_input.delta", {"item_id": "ct_1", "output_index": 1, "delta": "ls"}),
            ("function_call_arguments.delta",
             {"item_id": "fc_1", "output_index": 0, "delta": '"Oslo"}'}),
            done(call | {"arguments": '{"city":"Oslo"}'}),
            done(custom | {"input": "ls"}),
            COMPLETED,
        )
    )  # fmt: skip
    assert await collect(from_openai(await respond(client))) == [
        ToolInputStart("call_a", "weather"),
        ToolInputDelta("call_a", '{"city":'),
        ToolInputStart("call_b", "shell"),
        ToolInputDelta("call_b", "ls"),
        ToolInputDelta("call_a", '"Oslo"}'),
        ToolCall("call_a", "weather", {"city": "Oslo"}),
        ToolCall("call_b", "shell", "ls"),
        Finish("tool-calls", USED),
    ]


async def test_responses_hosted_tools(provider, client, collect) -> None:
    search = item("web_search_call", id="ws_1", action={"type": "search", "query": "Oslo"})
    image = item("image_generation_call", id="ig_1", result="A" * 100)
    mcp = item("mcp_call", id="mcp_1", server_label="s", name="look", arguments='{"q":1}')
    failed = item("code_interpreter_call", id="ci_1", status="failed", code="1/0",
                  container_id="c", outputs=None)  # fmt: skip
    provider.will_send(
        *events(
            added(search | {"status": "in_progress"}),
            done(search),
            done(image),
            added(mcp | {"arguments": ""}),
            (
                "mcp_call_arguments.delta",
                {"item_id": "mcp_1", "output_index": 0, "delta": '{"q":1}'},
            ),
            done(mcp | {"output": "found"}),
            done(
                mcp | {"id": "mcp_2", "error": {"type": "http_error", "code": 500, "message": "x"}}
            ),
            added(failed),
            done(failed),
            COMPLETED,
        )
    )
    parts = await collect(from_openai(respond(client)))
    assert parts.error is None
    calls = assembled(parts).tool_calls
    assert [(call.id, call.name, call.state) for call in calls.values()] == [
        ("ws_1", "web_search", "done"),
        ("ig_1", "image_generation", "done"),
        ("mcp_1", "look", "done"),
        ("mcp_2", "look", "failed"),
        ("ci_1", "code_interpreter", "failed"),
    ]
    assert calls["ws_1"].input["action"]["query"] == "Oslo"
    assert calls["ig_1"].output is None
    assert (calls["mcp_1"].input, calls["mcp_1"].output) == ({"q": 1}, "found")
    assert calls["ci_1"].input["code"] == "1/0"
    assert parts[-1] == Finish("stop", USED)


async def test_responses_calls_for_the_caller(provider, client, collect) -> None:
    shell = item("local_shell_call", id="sh_1", call_id="call_a",
                 action={"type": "exec", "command": ["ls"], "env": {}})  # fmt: skip
    request = item(
        "mcp_approval_request", id="ap_1", server_label="s", name="rm", arguments='{"n":1}'
    )
    provider.will_send(*events(added(shell), done(shell), done(request), COMPLETED))
    parts = await collect(from_openai(respond(client)))
    assert ToolCall("ap_1", "rm", {"n": 1}) in parts and ToolApproval("ap_1", "requested") in parts
    calls = assembled(parts).tool_calls
    assert (calls["call_a"].name, calls["call_a"].state) == ("local_shell", "running")
    assert calls["call_a"].input["action"]["command"] == ["ls"]
    assert calls["ap_1"].state == "waiting"
    assert parts[-1].reason == "tool-calls"
    answered = item("mcp_call", id="mcp_1", approval_request_id="ap_1", server_label="s", name="rm",
                    arguments='{"n":1}', output="gone")  # fmt: skip
    provider.will_send(*events(added(answered), done(answered), COMPLETED))
    assert ToolResult("ap_1", "gone") in await collect(from_openai(respond(client)))


async def test_responses_calls_with_separate_output_items(provider, client, collect) -> None:
    shell = item("shell_call", id="sh_1", call_id="call_a", action={"commands": ["ls"]})
    said = {"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}
    answered = item("shell_call_output", id="so_1", call_id="call_a", output=[said])
    over = ("completed", {"response": response(usage=None)})
    provider.will_send(*events(added(shell), done(shell), added(answered), done(answered), over))
    parts = await collect(from_openai(respond(client)))
    assert parts.error is None
    call = assembled(parts).tool_calls["call_a"]
    assert (call.name, call.input["action"]["commands"], call.state) == ("shell", ["ls"], "done")
    assert call.output[0]["stdout"] == "a.txt"
    assert parts[-1] == Finish("stop", None)


@pytest.mark.parametrize(
    ("details", "reason"), [("max_output_tokens", "length"), ("content_filter", "content-filter")]
)
async def test_responses_incomplete(details, reason, provider, client, collect) -> None:
    call = item("function_call", id="fc_1", call_id="call_a", name="f", arguments="")
    half = call | {"arguments": '{"a', "status": "incomplete"}
    over = response("incomplete", incomplete_details={"reason": details})
    provider.will_send(*events(added(call), done(half), ("incomplete", {"response": over})))
    parts = await collect(from_openai(respond(client)))
    assert parts == [ToolInputStart("call_a", "f"), Finish(reason, USED)]


async def test_responses_stream_helper_of_client(provider, client, collect) -> None:
    message = item("message", id="msg_1", role="assistant", content=[])
    part = {"type": "output_text", "text": "", "annotations": []}
    provider.will_send(
        *events(
            ("created", {"response": response("in_progress", usage=None)}),
            added(message),
            ("content_part.added",
             {"item_id": "msg_1", "output_index": 0, "content_index": 0, "part": part}),
            text("Hi"),
            done(message | {"content": [part | {"text": "Hi"}]}),
            COMPLETED,
        )
    )  # fmt: skip
    parts = await collect(from_openai(client.responses.stream(model="m", input="Hi")))
    assert (parts.error, list(parts)) == (None, [TextDelta("Hi"), Finish("stop", USED)])


# ---- failures ----


async def test_rejected_request_yields_error_part(provider, client, collect) -> None:
    provider.will_refuse(429, {"error": {"message": "slow down", "type": "rate_limit"}})
    parts = await collect(from_openai(chat(client)))
    assert isinstance(parts.error, openai.RateLimitError)
    assert len(parts) == 1 and "slow down" in parts[0].message


async def test_chat_error_chunk_yields_error_part(provider, client, collect) -> None:
    provider.will_send(chunk(content="Hel"), {"error": {"message": "overloaded", "code": 500}})
    parts = await collect(from_openai(chat(client)))
    assert parts == [TextDelta("Hel"), ErrorPart("overloaded")]
    assert isinstance(parts.error, openai.APIError)


@pytest.mark.parametrize(
    "failure",
    [
        ("error", {"message": "overloaded", "code": "server_error", "param": None}),
        ("failed", {"response": response("failed",
                                         error={"code": "server_error", "message": "overloaded"})}),
    ],
)  # fmt: skip
async def test_failed_response_yields_error_part(failure, provider, client, collect) -> None:
    provider.will_send(*events(text("Hel"), failure))
    parts = await collect(from_openai(respond(client)))
    assert parts == [TextDelta("Hel"), ErrorPart("overloaded")]
    assert isinstance(parts.error, ModelStreamError)


@pytest.mark.parametrize("sent", [[chunk(content="Hel")], events(text("Hel")), []])
async def test_incomplete_stream_yields_error_part(sent, provider, client, collect) -> None:
    provider.will_send(*sent)
    parts = await collect(
        from_openai(chat(client) if sent and "id" in sent[0] else respond(client))
    )
    assert isinstance(parts.error, ModelStreamError)
    assert parts[-1] == ErrorPart("the stream ended before the answer was complete")


async def test_lost_connection_yields_error_part(provider, client, collect) -> None:
    provider.will_send(chunk(content="Hel"), whole=False)
    parts = await collect(from_openai(chat(client)))
    assert isinstance(parts.error, openai.APIConnectionError)
    assert parts == [TextDelta("Hel"), ErrorPart(str(parts.error))]


async def test_closing_the_generator_closes_the_stream(provider, client) -> None:
    provider.will_send(chunk(content="a"), chunk(content="b"), chunk(finish="stop"), done=True)
    stream = await chat(client)
    parts = from_openai(stream)
    assert await anext(parts) == TextDelta("a")
    await parts.aclose()
    assert stream.response.is_closed


# ---- tasks ----


async def test_task_pipes_two_steps(provider, client) -> None:
    answer = streams.define("answer", Part)
    provider.will_send(
        chunk(content="Let me look. "),
        chunk(**called(0, '{"city":"Oslo"}', "call_a", "weather")),
        chunk(finish="tool_calls"),
        chunk(usage=USAGE),
        done=True,
    )
    provider.will_send(
        chunk(content="It is 3."), chunk(finish="stop"), chunk(usage=USAGE), done=True
    )

    @task
    async def ask() -> None:
        for part in await answer.pipe(from_openai(chat(client))):
            if isinstance(part, ToolCall):
                answer.append(ToolResult(part.id, {"celsius": 3}))
        await answer.pipe(from_openai(chat(client)))

    async with connect(store="memory:"):
        run = await ask.trigger()
        parts = [part async for part in answer.read(run.id, timeout_s=10)]
        assert (await run.wait()).ok
    whole = assembled(parts)
    assert whole.text == "Let me look. It is 3."
    assert whole.tool_calls["call_a"].output == {"celsius": 3}
    assert whole.finish.reason == "stop"
    assert whole.finish.usage["total_tokens"] == 42


async def test_task_fails_with_model_and_page_sees_reason(provider, client) -> None:
    answer = streams.define("answer", Part)
    provider.will_send(chunk(content="Hel"), {"error": {"message": "overloaded"}})

    @task
    async def ask() -> None:
        await answer.pipe(from_openai(chat(client)))

    async with connect(store="memory:"):
        run = await ask.trigger()
        result = await run.wait()
        assert (result.status, result.error.message) == ("failed", "overloaded")
        parts = []
        with pytest.raises(Exception, match="failed"):
            async for part in answer.read(run.id, timeout_s=10):
                parts.append(part)
    assert parts == [TextDelta("Hel"), ErrorPart("overloaded")]
