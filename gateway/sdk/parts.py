"""What an AI answer is streamed as: a tagged union of parts, for `streams.define("answer", Part)`.

A page assembles them (`use_realtime_stream(...).parts`): text so far, reasoning so far, tool calls
by id with their state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field


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
class ToolCall:
    """The model asks for a tool; `id` joins it with its result."""

    id: str
    name: str
    input: dict[str, Any] = field(default_factory=dict)
    type: Literal["tool-call"] = "tool-call"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned, or why it failed."""

    id: str
    output: Any = None
    is_error: bool = False
    type: Literal["tool-result"] = "tool-result"


@dataclass(frozen=True, slots=True)
class ErrorPart:
    """The answer could not go on."""

    message: str
    type: Literal["error"] = "error"


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is whole."""

    reason: str = "stop"
    usage: dict[str, Any] | None = None
    type: Literal["finish"] = "finish"


Part = Annotated[
    TextDelta | ReasoningDelta | ToolCall | ToolResult | ErrorPart | Finish,
    Field(discriminator="type"),
]
