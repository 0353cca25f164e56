"""Chunks of the Chat Completions API as parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.integrations._model_streams import (
    ModelStreamError,
    finish_reason,
    get,
    items_of,
    text_of,
    text_parts,
    to_json,
    token_counts,
)
from gateway.integrations._tool_inputs import ToolInputs
from gateway.integrations.openai.annotations import source_part
from gateway.sdk.parts import Finish, Part, ReasoningDelta


class ChatReader:
    """Reads chat completion chunks: choices whose deltas are assembled by index."""

    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._choices = _Choices()
        self._reason = ""
        self._usage: dict[str, Any] | None = None

    @property
    def finish(self) -> Finish | None:
        """The final part, once the answer has a finish reason."""
        return Finish(self._reason, self._usage) if self._reason else None

    def read(self, chunk: Any) -> Iterator[Part]:
        """See `Reader.read`."""
        # Events of the client's `.stream()` helper also arrive here; they repeat the chunks.
        self._update_usage(get(chunk, "usage"))
        choices = items_of(get(chunk, "choices"))
        error = get(chunk, "error")
        if error and not choices:
            raise ModelStreamError(text_of(get(error, "message", error)))
        for choice in choices:
            for selected in self._choices.read(choice):
                yield from self._choice(selected, text_of(get(chunk, "id")))

    def end(self) -> Iterator[Part]:
        """See `Reader.end`."""
        if not self._reason:
            for choice in self._choices.take_pending():
                yield from self._choice(choice, "")
        # With a forced tool choice the API's reason is `stop`.
        if self._reason == "stop" and self._inputs.count:
            self._reason = "tool-calls"
        if self._reason:
            yield from self._inputs.finish_all(self._reason)

    def _update_usage(self, usage: Any) -> None:
        if usage is not None:
            self._usage = _chat_usage(usage) or self._usage

    def _choice(self, choice: Any, answer_id: str) -> Iterator[Part]:
        self._update_usage(get(choice, "usage"))  # Moonshot sends it here
        delta = get(choice, "delta", get(choice, "message"))
        yield from text_parts(get(choice, "text"))
        if delta is not None:
            yield from self._delta(delta, answer_id or "call")
        self._reason = finish_reason(get(choice, "finish_reason")) or self._reason

    def _delta(self, delta: Any, answer_id: str) -> Iterator[Part]:
        if isinstance(delta, str):
            yield from text_parts(delta)
            return
        # Not OpenAI's own: reasoning of vLLM, DeepSeek and OpenRouter, possibly in two fields.
        names = ("reasoning_content", "reasoning", "thinking")
        reasoning = next((value for name in names if (value := get(delta, name))), None)
        yield from text_parts(reasoning, ReasoningDelta)
        yield from text_parts(get(delta, "content"))
        yield from text_parts(get(delta, "refusal"))
        for call in items_of(get(delta, "tool_calls")):
            yield from self._call(call, answer_id)
        if get(delta, "function_call") is not None:  # the predecessor of `tool_calls`
            yield from self._call({"function": get(delta, "function_call")}, answer_id)
        for annotation in items_of(get(delta, "annotations")):
            cited = get(to_json(annotation), "url_citation")
            if cited:
                yield from source_part(cited)

    def _call(self, call: Any, answer_id: str) -> Iterator[Part]:
        function = get(call, "function", get(call, "custom", call))
        id = get(call, "id") or get(function, "id")
        arguments = get(function, "arguments", get(function, "input"))
        yield from self._inputs.feed(
            get(call, "index"), id, get(function, "name"), arguments, prefix=answer_id
        )


_CONTENT_FIELDS = ("delta", "message", "text", "finish_reason")


class _Choices:
    """Selects the choices of the answer: those of the first index.

    Some servers number the chunks in this field. A choice of another index therefore stays pending
    until the meaning of the indexes is known: a repeated index shows that they number choices.
    """

    MAX_CHOICES = 8  # with more indexes and no repetition, the indexes number the chunks

    def __init__(self) -> None:
        self._seen: list[Any] = []
        self._pending: list[Any] = []
        self._number_choices = self._number_chunks = False

    def read(self, choice: Any) -> list[Any]:
        index = get(choice, "index")
        has_content = any(
            get(choice, name) for name in ("delta", "message", "text", "finish_reason")
        )
        if not has_content or not isinstance(index, int) or self._number_chunks:
            return [choice]
        is_known = index in self._seen
        if not self._seen or (is_known and index == self._seen[0]):
            if is_known:
                self._treat_as_choices()
            else:
                self._seen.append(index)
            return [choice]
        if is_known:
            self._treat_as_choices()
        elif not self._number_choices:
            self._seen.append(index)
            self._pending.append(choice)
        if len(self._pending) > self.MAX_CHOICES:
            self._number_chunks = True
            return self.take_pending()
        return []

    def take_pending(self) -> list[Any]:
        """Return the pending choices, for an answer that would be incomplete without them."""
        pending, self._pending = self._pending, []
        return pending

    def _treat_as_choices(self) -> None:
        self._number_choices = True
        self._pending.clear()


def _chat_usage(usage: Any) -> dict[str, Any] | None:
    return token_counts(
        input_tokens=get(usage, "prompt_tokens"),
        output_tokens=get(usage, "completion_tokens"),
        total_tokens=get(usage, "total_tokens"),
        cached_input_tokens=get(get(usage, "prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=get(get(usage, "completion_tokens_details"), "reasoning_tokens"),
    )
