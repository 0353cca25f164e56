"""Events of the Responses API as parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.integrations._model_streams import (
    ModelStreamError,
    finish_reason,
    get,
    items_of,
    parse_json,
    text_of,
    text_parts,
    to_json,
    token_counts,
)
from gateway.integrations._tool_inputs import ToolInputs
from gateway.integrations.openai.annotations import source_part
from gateway.sdk.parts import Finish, Part, ReasoningDelta, TextDelta, ToolApproval, ToolResult

_RESULT_FIELDS = ("output", "outputs", "results", "result", "error")
_OTHER_FIELDS = ("id", "call_id", "type", "status", "name", "approval_request_id")


class ResponsesReader:
    """Reads the Responses API: typed events about output items.

    Content that no delta delivered is taken from the events that repeat it completely.
    """

    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._has_text = False
        self._pieces: list[str] = []  # the pieces of the current content
        self._is_complete = False  # whether a content of the message was complete
        self._results: set[str] = set()
        self._unanswered: set[str] = set()  # calls that the caller has to answer
        self.finish: Finish | None = None

    def read(self, event: Any) -> Iterator[Part]:
        """See `Reader.read`."""
        match text_of(get(event, "type")):
            case "response.output_text.delta" | "response.refusal.delta":
                yield from self._text(get(event, "delta"))
            case "response.output_text.done" | "response.refusal.done":
                yield from self._text_done(get(event, "text", get(event, "refusal")))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield from text_parts(get(event, "delta"), ReasoningDelta)
            case "response.reasoning_summary_part.added" if get(event, "summary_index", 0) != 0:
                yield ReasoningDelta("\n\n")
            case "response.output_text.annotation.added":
                yield from source_part(to_json(get(event, "annotation")))
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
                yield from self._finish_response(get(event, "response"))
            case "response.failed":
                error = get(get(event, "response"), "error")
                raise ModelStreamError(text_of(get(error, "message", "the response failed")))
            case "error":
                error = get(event, "error", event)
                raise ModelStreamError(text_of(get(error, "message", "the response failed")))

    def end(self) -> Iterator[Part]:
        """See `Reader.end`."""
        if self.finish is not None:
            yield from self._inputs.finish_all(self.finish.reason)

    def _text(self, content: Any) -> Iterator[Part]:
        for part in text_parts(content):
            if isinstance(part, TextDelta):
                self._has_text = True
                self._pieces.append(part.text)
            yield part

    def _text_done(self, content: Any) -> Iterator[Part]:
        """Yield the rest of a content that no delta delivered."""
        full = "".join(part.text for part in text_parts(content) if isinstance(part, TextDelta))
        before = "".join(self._pieces)
        if full.startswith(before):
            yield from self._text(full[len(before) :])
        self._pieces.clear()
        self._is_complete = True

    def _item_added(self, item: Any) -> Iterator[Part]:
        type_ = text_of(get(item, "type"))
        if type_ == "message":
            self._is_complete = False
            if self._has_text:
                yield TextDelta("\n\n")  # separates a second message
        elif type_.endswith("_call"):
            yield from self._inputs.start(get(item, "id"), _call_id(item), _name(item))

    def _item_done(self, item: Any) -> Iterator[Part]:
        type_ = text_of(get(item, "type"))
        if type_ == "message" and not self._is_complete:
            yield from self._text_done(get(item, "content"))
        elif type_ in ("function_call", "custom_tool_call"):
            self._unanswered.add(_call_id(item))
            yield from self._function_call(item, type_)
        elif type_.endswith("_call"):
            yield from self._hosted_call(item)
            if _awaits_caller(item):
                self._unanswered.add(_call_id(item))
        elif type_.endswith("_call_output"):
            self._unanswered.discard(_call_id(item))
            yield from self._result(_call_id(item), to_json(get(item, "output")), is_error=False)
        elif type_ == "mcp_approval_request":
            id = text_of(get(item, "id"))
            self._unanswered.add(id)
            call = [*self._inputs.complete(id, _name(item), _input(get(item, "arguments")))]
            yield from call
            if call:
                yield ToolApproval(id, "requested")

    def _function_call(self, item: Any, type_: str) -> Iterator[Part]:
        id, name = _call_id(item), _name(item)
        arguments = get(item, "input" if type_ == "custom_tool_call" else "arguments")
        if arguments is None:
            return  # only its pieces have arrived
        is_valid, input = True, arguments
        if type_ == "function_call" and isinstance(arguments, str):
            is_valid, input = parse_json(arguments or "{}")
        # The input of a truncated call stays incomplete.
        if is_valid or get(item, "status") != "incomplete":
            yield from self._inputs.complete(id, name, to_json(input) if is_valid else arguments)
        else:
            self._inputs.drop(id)

    def _hosted_call(self, item: Any) -> Iterator[Part]:
        """Yield the call of a hosted tool, and its result if the provider executed it."""
        known = to_json(item)
        fields = {name: value for name, value in known.items() if value is not None}
        if fields.get("type") == "image_generation_call":
            fields.pop("result", None)  # the complete image, larger than a record's limit
        results = {name: fields.pop(name) for name in _RESULT_FIELDS if name in fields}
        input = {name: value for name, value in fields.items() if name not in _OTHER_FIELDS}
        id = _call_id(item)
        whole = _input(input["arguments"]) if "arguments" in input else input
        yield from self._inputs.complete(id, _name(item), whole)
        if not _awaits_caller(item):
            output = next(iter(results.values())) if len(results) == 1 else results or None
            failed = "error" in results or fields.get("status") == "failed"
            yield from self._result(id, output, is_error=failed)

    def _result(self, id: str, output: Any, *, is_error: bool) -> Iterator[Part]:
        if id not in self._results:
            self._results.add(id)
            yield ToolResult(id, output, is_error=is_error)

    def _finish_response(self, response: Any) -> Iterator[Part]:
        for item in items_of(get(response, "output")):
            is_text = text_of(get(item, "type")) == "message"
            if not (is_text and self._has_text):  # otherwise deltas have delivered it
                yield from self._item_done(item)
        reason = finish_reason(get(get(response, "incomplete_details"), "reason"))
        called = self._unanswered or self._inputs.has_open
        self.finish = Finish(
            reason or ("tool-calls" if called else "stop"), _usage(get(response, "usage"))
        )


def _call_id(item: Any) -> str:
    # The item of a call differs from the item of its approval request.
    ids = (text_of(get(item, name)) for name in ("call_id", "approval_request_id", "id"))
    return next((id for id in ids if id), "call")


def _name(item: Any) -> str:
    return text_of(get(item, "name")) or text_of(get(item, "type")).removesuffix("_call")


def _awaits_caller(item: Any) -> bool:
    # A call without an id for its answer was executed by the provider.
    return bool(get(item, "call_id"))


def _input(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return to_json(arguments or {})
    is_valid, input = parse_json(arguments or "{}")
    return input if is_valid else arguments


def _usage(usage: Any) -> dict[str, Any] | None:
    return token_counts(
        input_tokens=get(usage, "input_tokens"),
        output_tokens=get(usage, "output_tokens"),
        total_tokens=get(usage, "total_tokens"),
        cached_input_tokens=get(get(usage, "input_tokens_details"), "cached_tokens"),
        reasoning_tokens=get(get(usage, "output_tokens_details"), "reasoning_tokens"),
    )
