"""Streams of OpenAI's client, and of every server with its chat completions API, as parts.

client = AsyncOpenAI()
await answer.pipe(from_openai(client.responses.create(model=..., input=..., stream=True)))

    annotations       annotations of texts as source parts
    chat_completions  chunks of the Chat Completions API
    responses         events of the Responses API
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from gateway.integrations._model_streams import (
    ModelStream,
    ModelStreamError,
    get,
    read_parts,
    text_of,
    unsupported_stream,
)
from gateway.integrations.openai.chat_completions import ChatReader
from gateway.integrations.openai.responses import ResponsesReader
from gateway.sdk.parts import Part

_EXPECTED = "client.responses.create(stream=True) or chat.completions.create(stream=True)"


def from_openai(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a stream of OpenAI's client as parts.

    Supports both APIs: `client.responses.create(stream=True)` and
    `client.chat.completions.create(stream=True)` (for usage there, set
    `stream_options={"include_usage": True}`), and the streams of their `.stream()`. Of several
    choices the first is read. Chunks may come from other servers and be dicts: variations that
    OpenAI itself never sends (no choices, calls without ids or with one index, a list as content)
    are accepted.

    Args:
        stream: The stream, or the coroutine of `create`.

    Yields:
        Parts; the last one is `finish`, or `error` before an exception.

    Raises:
        ModelStreamError: the API reported a failure, or the answer is incomplete.
        openai.APIError: raised by the client.
    """
    return read_parts(stream, _Reader(), _EXPECTED)


class _Reader:
    """Selects the reader of the API by the first recognized event."""

    def __init__(self) -> None:
        self._reader: ChatReader | ResponsesReader | None = None
        self._unrecognized: Any = None  # the first event of neither API

    def read(self, event: Any) -> Iterator[Part]:
        type_ = text_of(get(event, "type"))
        event = get(event, "chunk", event) if type_ == "chunk" else event
        if self._reader is None:
            self._reader = _reader_of(event, type_)
            self._unrecognized = event if self._unrecognized is None else self._unrecognized
        if self._reader is not None:
            yield from self._reader.read(event)

    def end(self) -> Iterator[Part]:
        if self._reader is not None:
            yield from self._reader.end()
        elif self._unrecognized is not None:
            raise unsupported_stream(self._unrecognized, _EXPECTED)
        if self._reader is None or self._reader.finish is None:
            raise ModelStreamError("the stream ended before the answer was complete")
        yield self._reader.finish


def _reader_of(event: Any, type_: str) -> ChatReader | ResponsesReader | None:
    if type_.startswith(("response.", "error")):
        return ResponsesReader()
    is_chat = "completion" in text_of(get(event, "object")) or get(event, "choices") is not None
    return ChatReader() if is_chat or get(event, "error") else None
