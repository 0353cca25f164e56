"""Streams of OpenAI's client, and of every server that speaks its chat completions, as parts.

client = AsyncOpenAI()
await answer.pipe(from_openai(client.responses.create(model=..., input=..., stream=True)))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from gateway.integrations._model_streams import (
    ModelStream,
    ModelStreamError,
    as_json,
    counts,
    each,
    get,
    not_understood,
    parse_json,
    read_parts,
    reason_of,
    said,
    word,
)
from gateway.integrations._tool_inputs import ToolInputs
from gateway.sdk.parts import (
    Finish,
    Part,
    ReasoningDelta,
    Source,
    TextDelta,
    ToolApproval,
    ToolResult,
)

_WANTED = "client.responses.create(stream=True) or chat.completions.create(stream=True)"


def from_openai(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a stream of OpenAI's client as parts.

    Takes both of its APIs: `client.responses.create(stream=True)` and
    `client.chat.completions.create(stream=True)` (for the usage there, ask with
    `stream_options={"include_usage": True}`), and what their `.stream()` gives. Of several choices
    the first is read. Chunks may come from other servers, and be dicts: what OpenAI itself never
    sends (no choices, calls without ids or with one index, a list as content) is understood.

    Args:
        stream: The stream, or the coroutine that `create` returns.

    Yields:
        Parts; the last one is `finish`, or `error` before an exception.

    Raises:
        ModelStreamError: the API reported a failure, or the answer was cut off.
        openai.APIError: as the client raises it.
    """
    return read_parts(stream, _Reader(), _WANTED)


class _Reader:
    """Tells the two APIs apart by their events."""

    def __init__(self) -> None:
        self._reader: _Chat | _Responses | None = None
        self._odd: Any = None  # the first event that was of neither

    def take(self, event: Any) -> Iterator[Part]:
        type_ = word(get(event, "type"))
        event = get(event, "chunk", event) if type_ == "chunk" else event
        if self._reader is None:
            self._reader = _reader_of(event, type_)
            self._odd = event if self._odd is None else self._odd
        if self._reader is not None:
            yield from self._reader.take(event)

    def end(self) -> Iterator[Part]:
        if self._reader is not None:
            yield from self._reader.end()
        elif self._odd is not None:
            raise not_understood(self._odd, _WANTED)
        if self._reader is None or self._reader.finish is None:
            raise ModelStreamError("the stream ended before the answer was whole")
        yield self._reader.finish


def _reader_of(event: Any, type_: str) -> _Chat | _Responses | None:
    if type_.startswith(("response.", "error")):
        return _Responses()
    is_chat = "completion" in word(get(event, "object")) or get(event, "choices") is not None
    return _Chat() if is_chat or get(event, "error") else None


class _Chat:
    """Chat completions: choices whose deltas are to be put together by index."""

    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._choices = _Choices()
        self._reason = ""
        self._usage: dict[str, Any] | None = None

    @property
    def finish(self) -> Finish | None:
        return Finish(self._reason, self._usage) if self._reason else None

    def take(self, chunk: Any) -> Iterator[Part]:
        # Also the helper's own events come here; they repeat what the chunks say.
        self._use(get(chunk, "usage"))
        choices = each(get(chunk, "choices"))
        error = get(chunk, "error")
        if error and not choices:
            raise ModelStreamError(word(get(error, "message", error)))
        for choice in choices:
            for one in self._choices.read(choice):
                yield from self._choice(one, word(get(chunk, "id")))

    def end(self) -> Iterator[Part]:
        if not self._reason:
            for choice in self._choices.rest():
                yield from self._choice(choice, "")
        # With a forced tool choice the API says `stop`.
        if self._reason == "stop" and self._inputs.count:
            self._reason = "tool-calls"
        if self._reason:
            yield from self._inputs.finish_all(self._reason)

    def _use(self, usage: Any) -> None:
        if usage is not None:
            self._usage = _chat_usage(usage) or self._usage

    def _choice(self, choice: Any, answer_id: str) -> Iterator[Part]:
        self._use(get(choice, "usage"))  # where Moonshot puts it
        delta = get(choice, "delta", get(choice, "message"))
        yield from said(get(choice, "text"))
        if delta is not None:
            yield from self._delta(delta, answer_id or "call")
        self._reason = reason_of(get(choice, "finish_reason")) or self._reason

    def _delta(self, delta: Any, answer_id: str) -> Iterator[Part]:
        if isinstance(delta, str):
            yield from said(delta)
            return
        # Not OpenAI's own: reasoning as vLLM, DeepSeek and OpenRouter send it, perhaps both ways.
        names = ("reasoning_content", "reasoning", "thinking")
        reasoning = next((value for name in names if (value := get(delta, name))), None)
        yield from said(reasoning, ReasoningDelta)
        yield from said(get(delta, "content"))
        yield from said(get(delta, "refusal"))
        for call in each(get(delta, "tool_calls")):
            yield from self._call(call, answer_id)
        if get(delta, "function_call") is not None:  # the form before `tool_calls`
            yield from self._call({"function": get(delta, "function_call")}, answer_id)
        for annotation in each(get(delta, "annotations")):
            cited = get(as_json(annotation), "url_citation")
            if cited:
                yield from _source(cited)

    def _call(self, call: Any, answer_id: str) -> Iterator[Part]:
        function = get(call, "function", get(call, "custom", call))
        id = get(call, "id") or get(function, "id")
        arguments = get(function, "arguments", get(function, "input"))
        yield from self._inputs.take(
            get(call, "index"), id, get(function, "name"), arguments, prefix=answer_id
        )


class _Choices:
    """Which choices belong to the answer: those of the first index.

    Some servers number the chunks in this place. So a choice of another index waits until it is
    clear what the indexes mean: once one of them comes again, they are those of choices.
    """

    MAX_CHOICES = 8  # with more indexes, none of which came again, they number the chunks

    def __init__(self) -> None:
        self._seen: list[Any] = []
        self._waiting: list[Any] = []
        self._number_choices = self._number_chunks = False

    def read(self, choice: Any) -> list[Any]:
        index = get(choice, "index")
        says = any(get(choice, name) for name in ("delta", "message", "text", "finish_reason"))
        if not says or not isinstance(index, int) or self._number_chunks:
            return [choice]
        is_known = index in self._seen
        if not self._seen or (is_known and index == self._seen[0]):
            if is_known:
                self._are_choices()
            else:
                self._seen.append(index)
            return [choice]
        if is_known:
            self._are_choices()
        elif not self._number_choices:
            self._seen.append(index)
            self._waiting.append(choice)
        if len(self._waiting) > self.MAX_CHOICES:
            self._number_chunks = True
            return self.rest()
        return []

    def rest(self) -> list[Any]:
        """Return those that waited, for an answer that would not be whole without them."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _are_choices(self) -> None:
        self._number_choices = True
        self._waiting.clear()


def _chat_usage(usage: Any) -> dict[str, Any] | None:
    return counts(
        input_tokens=get(usage, "prompt_tokens"),
        output_tokens=get(usage, "completion_tokens"),
        total_tokens=get(usage, "total_tokens"),
        cached_input_tokens=get(get(usage, "prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=get(get(usage, "completion_tokens_details"), "reasoning_tokens"),
    )


_RESULT_FIELDS = ("output", "outputs", "results", "result", "error")
_OTHER_FIELDS = ("id", "call_id", "type", "status", "name", "approval_request_id")


class _Responses:
    """The Responses API: typed events about output items.

    What its deltas have left out is taken from the events that repeat it as a whole.
    """

    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._has_text = False
        self._said: list[str] = []  # of the content that is being written
        self._is_said = False  # whether a content of the message came as a whole
        self._results: set[str] = set()
        self._awaited: set[str] = set()  # the calls that the caller has to answer
        self.finish: Finish | None = None

    def take(self, event: Any) -> Iterator[Part]:
        match word(get(event, "type")):
            case "response.output_text.delta" | "response.refusal.delta":
                yield from self._text(get(event, "delta"))
            case "response.output_text.done" | "response.refusal.done":
                yield from self._text_done(get(event, "text", get(event, "refusal")))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield from said(get(event, "delta"), ReasoningDelta)
            case "response.reasoning_summary_part.added" if get(event, "summary_index", 0) != 0:
                yield ReasoningDelta("\n\n")
            case "response.output_text.annotation.added":
                yield from _source(as_json(get(event, "annotation")))
            case "response.output_item.added":
                yield from self._item_added(get(event, "item"))
            case "response.output_item.done":
                yield from self._item_done(get(event, "item"))
            case (
                "response.function_call_arguments.delta"
                | "response.custom_tool_call_input.delta"
                | "response.mcp_call_arguments.delta"
                | "response.code_interpreter_call_code.delta"
            ):
                yield from self._inputs.add(get(event, "item_id"), get(event, "delta"))
            case "response.completed" | "response.incomplete":
                yield from self._over(get(event, "response"))
            case "response.failed":
                error = get(get(event, "response"), "error")
                raise ModelStreamError(word(get(error, "message", "the response failed")))
            case "error":
                error = get(event, "error", event)
                raise ModelStreamError(word(get(error, "message", "the response failed")))

    def end(self) -> Iterator[Part]:
        if self.finish is not None:
            yield from self._inputs.finish_all(self.finish.reason)

    def _text(self, content: Any) -> Iterator[Part]:
        for part in said(content):
            if isinstance(part, TextDelta):
                self._has_text = True
                self._said.append(part.text)
            yield part

    def _text_done(self, content: Any) -> Iterator[Part]:
        """Give what no delta gave of a content."""
        whole = "".join(part.text for part in said(content) if isinstance(part, TextDelta))
        before = "".join(self._said)
        if whole.startswith(before):
            yield from self._text(whole[len(before) :])
        self._said.clear()
        self._is_said = True

    def _item_added(self, item: Any) -> Iterator[Part]:
        type_ = word(get(item, "type"))
        if type_ == "message":
            self._is_said = False
            if self._has_text:
                yield TextDelta("\n\n")  # a second message
        elif type_.endswith("_call"):
            yield from self._inputs.start(get(item, "id"), _call_id(item), _name(item))

    def _item_done(self, item: Any) -> Iterator[Part]:
        type_ = word(get(item, "type"))
        if type_ == "message" and not self._is_said:
            yield from self._text_done(get(item, "content"))
        elif type_ in ("function_call", "custom_tool_call"):
            self._awaited.add(_call_id(item))
            yield from self._called(item, type_)
        elif type_.endswith("_call"):
            yield from self._hosted_call(item)
            if _is_for_caller(item):
                self._awaited.add(_call_id(item))
        elif type_.endswith("_call_output"):
            self._awaited.discard(_call_id(item))
            yield from self._result(_call_id(item), as_json(get(item, "output")), is_error=False)
        elif type_ == "mcp_approval_request":
            id = word(get(item, "id"))
            self._awaited.add(id)
            call = [*self._inputs.give(id, _name(item), _input(get(item, "arguments")))]
            yield from call
            if call:
                yield ToolApproval(id, "requested")

    def _called(self, item: Any, type_: str) -> Iterator[Part]:
        id, name = _call_id(item), _name(item)
        given = get(item, "input" if type_ == "custom_tool_call" else "arguments")
        if given is None:
            return  # its pieces are what there is of it
        whole, input = True, given
        if type_ == "function_call" and isinstance(given, str):
            whole, input = parse_json(given or "{}")
        # A call that was cut off stays one whose input never became whole.
        if whole or get(item, "status") != "incomplete":
            yield from self._inputs.give(id, name, as_json(input) if whole else given)
        else:
            self._inputs.drop(id)

    def _hosted_call(self, item: Any) -> Iterator[Part]:
        """Give the call of a tool that the provider knows, and its result if it executed it."""
        known = as_json(item)
        fields = {name: value for name, value in known.items() if value is not None}
        if fields.get("type") == "image_generation_call":
            fields.pop("result", None)  # the whole image, larger than a record may be
        results = {name: fields.pop(name) for name in _RESULT_FIELDS if name in fields}
        input = {name: value for name, value in fields.items() if name not in _OTHER_FIELDS}
        id = _call_id(item)
        whole = _input(input["arguments"]) if "arguments" in input else input
        yield from self._inputs.give(id, _name(item), whole)
        if not _is_for_caller(item):
            output = next(iter(results.values())) if len(results) == 1 else results or None
            failed = "error" in results or fields.get("status") == "failed"
            yield from self._result(id, output, is_error=failed)

    def _result(self, id: str, output: Any, *, is_error: bool) -> Iterator[Part]:
        if id not in self._results:
            self._results.add(id)
            yield ToolResult(id, output, is_error=is_error)

    def _over(self, response: Any) -> Iterator[Part]:
        for item in each(get(response, "output")):
            is_text = word(get(item, "type")) == "message"
            if not (is_text and self._has_text):  # else its deltas have given it
                yield from self._item_done(item)
        reason = reason_of(get(get(response, "incomplete_details"), "reason"))
        called = self._awaited or self._inputs.has_open
        self.finish = Finish(
            reason or ("tool-calls" if called else "stop"), _usage(get(response, "usage"))
        )


def _call_id(item: Any) -> str:
    # What was asked for approval as one item is called as another.
    ids = (word(get(item, name)) for name in ("call_id", "approval_request_id", "id"))
    return next((id for id in ids if id), "call")


def _name(item: Any) -> str:
    return word(get(item, "name")) or word(get(item, "type")).removesuffix("_call")


def _is_for_caller(item: Any) -> bool:
    # Without an id for its answer, the provider has executed it.
    return bool(get(item, "call_id"))


def _input(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return as_json(arguments or {})
    whole, input = parse_json(arguments or "{}")
    return input if whole else arguments


def _source(annotation: Any) -> Iterator[Part]:
    url, file_id = word(get(annotation, "url")), word(get(annotation, "file_id"))
    if url or file_id:
        title = word(get(annotation, "title")) or word(get(annotation, "filename"))
        yield Source(file_id or None, url or None, title or None)


def _usage(usage: Any) -> dict[str, Any] | None:
    return counts(
        input_tokens=get(usage, "input_tokens"),
        output_tokens=get(usage, "output_tokens"),
        total_tokens=get(usage, "total_tokens"),
        cached_input_tokens=get(get(usage, "input_tokens_details"), "cached_tokens"),
        reasoning_tokens=get(get(usage, "output_tokens_details"), "reasoning_tokens"),
    )
