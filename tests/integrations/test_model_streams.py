"""Behaviour that all adapters share, with streams that need no provider."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gateway import streams
from gateway.integrations._model_streams import ModelStreamError, read_parts, to_json
from gateway.sdk.parts import ErrorPart, Finish, Part, ReasoningDelta, TextDelta, ToolInputDelta


class Echo:
    """A reader that reads every event as a piece of text."""

    def read(self, event):
        yield TextDelta(event)

    def end(self):
        yield TextDelta("!")


class Stream:
    """A stream that records whether it was closed."""

    def __init__(self, *events: str, error: BaseException | None = None) -> None:
        self.events, self.error, self.is_closed = events, error, False

    async def __aiter__(self):
        for event in self.events:
            yield event
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        self.is_closed = True


class Manager:
    """A context manager of a stream, like `client.messages.stream()`."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def __aenter__(self) -> Stream:
        return self.stream

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()


async def coroutine_of(stream):
    return stream


@pytest.mark.parametrize(
    "given", [lambda it: it, coroutine_of, Manager, lambda it: coroutine_of(Manager(it))]
)
async def test_stream_is_closed_in_every_form(given, collect) -> None:
    whole, left, broken = Stream("a"), Stream("a", "b"), Stream("a", error=ValueError("no"))
    assert await collect(read_parts(given(whole), Echo())) == [TextDelta("a"), TextDelta("!")]
    parts = read_parts(given(left), Echo())
    assert await anext(parts) == TextDelta("a")
    await parts.aclose()
    collected = await collect(read_parts(given(broken), Echo()))
    assert collected == [TextDelta("a"), ErrorPart("no")]
    assert isinstance(collected.error, ValueError)
    assert whole.is_closed and left.is_closed and broken.is_closed


async def test_stream_that_fails_to_start_yields_error_part(collect) -> None:
    async def refused():
        raise ModelStreamError

    collected = await collect(read_parts(refused(), Echo()))
    assert collected == [ErrorPart("ModelStreamError")]
    assert isinstance(collected.error, ModelStreamError)


async def test_cancellation_yields_no_error_part() -> None:
    parts = read_parts(Stream("a", error=asyncio.CancelledError()), Echo())
    assert await anext(parts) == TextDelta("a")
    with pytest.raises(asyncio.CancelledError):
        await anext(parts)


async def test_lone_surrogate_is_joined_or_replaced(collect) -> None:
    class Both:
        """A reader of text and of a call's input."""

        def read(self, event):
            kind, piece = event
            yield ToolInputDelta("a", piece) if kind == "input" else kind(piece)

        def end(self):
            yield Finish()

    async def halves():
        yield TextDelta, "a\ud83d"
        yield ReasoningDelta, "b\ud83e"
        yield "input", "\ud83d"
        yield TextDelta, ""
        yield TextDelta, "\ude00c\ud83d"
        yield "input", "\ude01"
        yield TextDelta, "d\ude00"

    assert await collect(read_parts(halves(), Both())) == [
        TextDelta("a"),
        ReasoningDelta("b"),
        TextDelta("\U0001f600c"),
        ToolInputDelta("a", "\U0001f601"),
        TextDelta("\ufffdd\ufffd"),
        ReasoningDelta("\ufffd"),
        Finish(),
    ]


async def test_text_over_record_limit_is_split(collect) -> None:
    answer, text = streams.define("answer", Part), "\0\u20ac\U0001f600" * 200_000
    parts = await collect(read_parts(Stream(text), Echo()))
    assert "".join(part.text for part in parts) == text + "!"
    assert all(answer.decode(answer.encode(part)) == part for part in parts)
    assert len(parts) < 10


def test_to_json_converts_unsupported_values_to_text() -> None:
    value = {"when": SimpleNamespace, "bytes": b"\xff", "set": {1}}
    assert to_json(value) == {
        "when": str(SimpleNamespace),
        "bytes": "_w==",
        "set": [1],
    }


def test_adapters_import_no_provider() -> None:
    code = """
import sys
from gateway.integrations import anthropic, langchain, openai, pydantic_ai
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"openai", "anthropic", "pydantic_ai", "langchain_core"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
