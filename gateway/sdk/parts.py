"""The parts of an AI answer: a tagged union, for `streams.define("answer", Part)`.

    answer = streams.define("answer", Part)
    await answer.pipe(from_openai(client.responses.create(..., stream=True)))   # in a task
    so_far = await assemble(answer.read(run.id))                                # in a backend

`gateway.integrations` turns the streams of OpenAI, Anthropic, Pydantic AI and LangChain into
parts; `gateway.sdk.assembler` puts parts together again, and so does a page
(`use_realtime_stream(...).parts`).

Parts show a model's work; they cannot be used to call the model again. They omit signatures, log
probabilities and other data that only the provider understands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str
    type: Literal["text-delta"] = "text-delta"


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning before its answer."""

    text: str
    type: Literal["reasoning-delta"] = "reasoning-delta"


@dataclass(frozen=True, slots=True)
class ToolInputStart:
    """The model starts to write the input of a tool call. All parts of the call have its `id`."""

    id: str
    name: str
    type: Literal["tool-input-start"] = "tool-input-start"


@dataclass(frozen=True, slots=True)
class ToolInputDelta:
    """A piece of a tool call's input as text, usually incomplete JSON."""

    id: str
    delta: str
    type: Literal["tool-input-delta"] = "tool-input-delta"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a tool, and the input is complete. The first part of a call, or the third.

    Attributes:
        id: The same in all parts of the call.
        name: Name of the tool.
        input: The tool's input; if the model wrote invalid JSON, its text.
    """

    id: str
    name: str
    input: Any = field(default_factory=dict)
    type: Literal["tool-call"] = "tool-call"


@dataclass(frozen=True, slots=True)
class ToolApproval:
    """A call needs approval before the tool is executed, or was approved or denied.

    Attributes:
        id: Id of the call.
        state: `requested`, then `approved` or `denied`.
        reason: The reason, for people.
    """

    id: str
    state: Literal["requested", "approved", "denied"]
    reason: str | None = None
    type: Literal["tool-approval"] = "tool-approval"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The output of a tool, or the reason of its failure."""

    id: str
    output: Any = None
    is_error: bool = False
    type: Literal["tool-result"] = "tool-result"


@dataclass(frozen=True, slots=True)
class Source:
    """A source of the answer: a page with a `url`, or a document with an `id`."""

    id: str | None = None
    url: str | None = None
    title: str | None = None
    type: Literal["source"] = "source"


@dataclass(frozen=True, slots=True)
class DataPart:
    """A value of the application, in addition to the answer. The newest value of a name counts."""

    name: str
    value: Any = None
    type: Literal["data"] = "data"


@dataclass(frozen=True, slots=True)
class Step:
    """The start or end of one request to the model; an agent makes several."""

    index: int
    state: Literal["start", "finish"]
    type: Literal["step"] = "step"


@dataclass(frozen=True, slots=True)
class ErrorPart:
    """The answer broke off. Its unfinished tool calls and steps have failed."""

    message: str
    type: Literal["error"] = "error"


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer, or one step of it, is complete.

    Attributes:
        reason: `stop`, `length`, `tool-calls` (another step follows after the results),
            `content-filter`, or a provider's own word.
        usage: Usage of this step, if known: `input_tokens` (including cached tokens),
            `output_tokens` (including reasoning tokens), `total_tokens`, `cached_input_tokens`,
            `reasoning_tokens`. An assembler adds up the usage of all steps.
    """

    reason: str = "stop"
    usage: dict[str, Any] | None = None
    type: Literal["finish"] = "finish"


class UnknownPart(BaseModel):
    """A part of a type that this version does not know, with all its fields.

    Writers and readers may have different versions. So an unknown part is kept unchanged: its
    fields are attributes and in `model_extra`, and it is written with all of them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str


_CLASSES: dict[str, type[Any]] = {
    "text-delta": TextDelta,
    "reasoning-delta": ReasoningDelta,
    "tool-input-start": ToolInputStart,
    "tool-input-delta": ToolInputDelta,
    "tool-call": ToolCall,
    "tool-approval": ToolApproval,
    "tool-result": ToolResult,
    "source": Source,
    "data": DataPart,
    "step": Step,
    "error": ErrorPart,
    "finish": Finish,
}
PARTS = tuple(_CLASSES.values())
_UNKNOWN = "unknown"


def _tag(value: Any) -> str:
    type_ = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return type_ if isinstance(type_, str) and type_ in _CLASSES else _UNKNOWN


class _ByType:
    """Selects the member of the union by `type`; `UnknownPart` for unknown types."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {tag: handler.generate_schema(class_) for tag, class_ in _CLASSES.items()}
        choices[_UNKNOWN] = handler.generate_schema(UnknownPart)
        return core_schema.tagged_union_schema(choices, discriminator=_tag)


# `Discriminator` and `Tag` would do the same, but annotate the members of the union, where
# Reflex looks for the fields of a Var.
Part: TypeAlias = Annotated[
    TextDelta
    | ReasoningDelta
    | ToolInputStart
    | ToolInputDelta
    | ToolCall
    | ToolApproval
    | ToolResult
    | Source
    | DataPart
    | Step
    | ErrorPart
    | Finish
    | UnknownPart,
    _ByType(),
]
"""A part of an AI answer. Unknown types are kept (`UnknownPart`); unknown fields of a known type
are ignored."""

PART: TypeAdapter[Part] = TypeAdapter(Part)  # reads and writes one part
