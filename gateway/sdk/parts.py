"""What an AI answer is streamed as: a tagged union of parts, for `streams.define("answer", Part)`.

    answer = streams.define("answer", Part)
    await answer.pipe(from_openai(client.responses.create(..., stream=True)))   # in a task
    so_far = await assemble(answer.read(run.id))                                # in a backend

`gateway.integrations` turns the streams of OpenAI, Anthropic, Pydantic AI and LangChain into
parts; `gateway.sdk.assembler` puts parts together again, and so does a page
(`use_realtime_stream(...).parts`).

Parts are for showing what a model does, not for calling it again: they leave out signatures,
log probabilities and whatever else only the provider understands.
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
    """A piece of what the model thinks before it answers."""

    text: str
    type: Literal["reasoning-delta"] = "reasoning-delta"


@dataclass(frozen=True, slots=True)
class ToolInputStart:
    """The model begins to write the input of a tool call; `id` joins all parts of the call."""

    id: str
    name: str
    type: Literal["tool-input-start"] = "tool-input-start"


@dataclass(frozen=True, slots=True)
class ToolInputDelta:
    """A piece of a tool call's input as text, usually JSON that is not whole yet."""

    id: str
    delta: str
    type: Literal["tool-input-delta"] = "tool-input-delta"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool, and its input is whole. The first part of a call, or the third.

    Attributes:
        id: Joins the parts of the call.
        name: Of the tool.
        input: What the tool is called with; the text itself where a model wrote no valid JSON.
    """

    id: str
    name: str
    input: Any = field(default_factory=dict)
    type: Literal["tool-call"] = "tool-call"


@dataclass(frozen=True, slots=True)
class ToolApproval:
    """Someone has to agree before the tool is called, or has answered.

    Attributes:
        id: Of the call.
        state: `requested`, then `approved` or `denied`.
        reason: Why, for people.
    """

    id: str
    state: Literal["requested", "approved", "denied"]
    reason: str | None = None
    type: Literal["tool-approval"] = "tool-approval"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned, or why it failed."""

    id: str
    output: Any = None
    is_error: bool = False
    type: Literal["tool-result"] = "tool-result"


@dataclass(frozen=True, slots=True)
class Source:
    """Something that the answer rests on: a page by its `url`, a document by its `id`."""

    id: str | None = None
    url: str | None = None
    title: str | None = None
    type: Literal["source"] = "source"


@dataclass(frozen=True, slots=True)
class DataPart:
    """A value of the application's own beside the answer; the newest of a name counts."""

    name: str
    value: Any = None
    type: Literal["data"] = "data"


@dataclass(frozen=True, slots=True)
class Step:
    """One request to the model, of the several that an agent makes, starts or is over."""

    index: int
    state: Literal["start", "finish"]
    type: Literal["step"] = "step"


@dataclass(frozen=True, slots=True)
class ErrorPart:
    """The answer could not go on: tool calls and steps under way have failed with it."""

    message: str
    type: Literal["error"] = "error"


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is whole, or one step of it is.

    Attributes:
        reason: `stop`, `length`, `tool-calls` (results are awaited, and another step),
            `content-filter`, or a provider's own word.
        usage: Of this step, where it is known: `input_tokens` (cached ones included),
            `output_tokens` (those of the reasoning included), `total_tokens`,
            `cached_input_tokens`, `reasoning_tokens`. An assembler adds up what the steps used.
    """

    reason: str = "stop"
    usage: dict[str, Any] | None = None
    type: Literal["finish"] = "finish"


class UnknownPart(BaseModel):
    """A part of a type that this version does not know, with all its fields.

    Writers and readers may be of different versions, so such a part is kept as it is: its fields
    are attributes and `model_extra`, and it is written again as it was read.
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
    """Tells the members of the union apart by `type`, with a place for what is not known."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {tag: handler.generate_schema(class_) for tag, class_ in _CLASSES.items()}
        choices[_UNKNOWN] = handler.generate_schema(UnknownPart)
        return core_schema.tagged_union_schema(choices, discriminator=_tag)


# `Discriminator` and `Tag` would say the same, but put annotations on the members of the union,
# where Reflex looks for the fields of a Var.
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
"""A part of an AI answer. A type that is not known is kept (`UnknownPart`); a field that a known
type does not have is passed over."""

PART: TypeAdapter[Part] = TypeAdapter(Part)  # reads and writes one part
