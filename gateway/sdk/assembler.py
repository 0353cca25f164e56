"""Put the parts of an AI answer together again: text so far, tool calls with their state.

    so_far = Assembler()
    async for part in answer.read(run.id):
        so_far.add(part)                       # so_far.text, so_far.tool_calls["call_1"].state, …

    whole = await assemble(answer.read(run.id))
    of_each = await assemble_by_source(answer.read_records(run.id))

The browser does the same (`ui/client/parts_assembler.js`), and both are held to the same cases
(`tests/protocol/cases.json`). The state of a tool call follows from the first true condition:

    denied      its approval was denied
    failed      its result is an error
    done        it has its result
    failed      the answer broke off (`error`), or was over (`finish`) with the input unwritten
    waiting     its approval is requested
    running     its input is complete, or it was approved
    streaming   otherwise: its input is being written

So the parts of one call may arrive in any order, and a lost part does not make the others wrong. A
finished call starts again when a part with its id arrives, because some providers number the calls
of each step from 0.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gateway.sdk.parts import (
    PART,
    DataPart,
    ErrorPart,
    Finish,
    Part,
    ReasoningDelta,
    Source,
    Step,
    TextDelta,
    ToolApproval,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
)

if TYPE_CHECKING:
    from gateway.sdk.stream_reader import ReadRecord

CallState: TypeAlias = Literal["streaming", "waiting", "running", "done", "failed", "denied"]
Approval: TypeAlias = Literal["requested", "approved", "denied"]
StepState: TypeAlias = Literal["running", "done", "failed"]

_CallPart: TypeAlias = ToolInputStart | ToolInputDelta | ToolCall | ToolApproval | ToolResult


@dataclass(frozen=True)
class AssembledCall:
    """A tool call of an AI answer and its state.

    Attributes:
        id: Joins its parts.
        name: Name of the tool; "" until a part has it.
        input: The tool's input; None until it is complete.
        input_text: The input as text while it is being written, "" afterwards.
        output: The tool's output, or the reason of its failure.
        state: `streaming`, `waiting`, `running`, `done`, `failed` or `denied`.
        approval: `requested`, `approved` or `denied`; None if no approval was requested.
        reason: Reason of the approval.
    """

    id: str
    name: str
    input: Any
    input_text: str
    output: Any
    state: CallState
    approval: Approval | None
    reason: str | None


@dataclass(frozen=True)
class AssembledSource:
    """A source of an AI answer."""

    id: str | None
    url: str | None
    title: str | None


@dataclass(frozen=True)
class AssembledStep:
    """A step of an AI answer: `running`, `done` or `failed`."""

    index: int
    state: StepState


@dataclass(frozen=True)
class AssembledFinish:
    """The reason why an AI answer, or its last step, is complete, and the usage of all steps."""

    reason: str
    usage: dict[str, Any] | None


@dataclass(frozen=True)
class AssembledParts:
    """An AI answer so far, assembled from its parts.

    Attributes:
        text: All text.
        reasoning: All reasoning.
        tool_calls: In the order of their first parts.
        sources: Each once.
        data: The newest value of each name.
        steps: In the order of their first parts.
        finish: The last `finish`, with the usage of all steps; None before the first.
        error: The reason why the answer broke off; None if it did not.
    """

    text: str
    reasoning: str
    tool_calls: list[AssembledCall]
    sources: list[AssembledSource]
    data: dict[str, Any]
    steps: list[AssembledStep]
    finish: AssembledFinish | None
    error: str | None


class Assembler:
    """An AI answer as far as its parts were added."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[str, _Call] = {}
        self._sources: dict[Any, AssembledSource] = {}
        self._steps: dict[int, StepState] = {}
        self.data: dict[str, Any] = {}
        """The newest value of each name."""
        self.finish: AssembledFinish | None = None
        """The last `finish`, with the usage of all; None before the first."""
        self.error: str | None = None
        """Why the answer could not go on; None when it could."""

    def add(self, part: Part | Mapping[str, Any]) -> None:
        """Take the next part. Only `error` and `finish` look at what came before.

        Args:
            part: Also as the plain dict that a stream without a type reads. A part of a type that
                is not known changes nothing.

        Raises:
            ValidationError: the dict is no part.
        """
        match PART.validate_python(dict(part)) if isinstance(part, Mapping) else part:
            case TextDelta(text):
                self._text.append(text)
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case (
                ToolInputStart()
                | ToolInputDelta()
                | ToolCall()
                | ToolApproval()
                | ToolResult() as of
            ):
                self._add_to_call(of)
            case Source() as source:
                self._add_source(source)
            case DataPart(name, value):
                self.data[name] = value
            case Step(index, state):
                self._steps[index] = "running" if state == "start" else "done"
            case ErrorPart(message):
                self._break_off(message)
            case Finish() as finish:
                self._finish(finish)

    def _add_to_call(self, part: _CallPart) -> None:
        call = self._calls.get(part.id)
        if call is None or call.is_made_again_by(part):
            call = self._calls[part.id] = _Call()
        call.add(part)

    def _add_source(self, source: Source) -> None:
        key: object = source.url if source.id is None else ("id", source.id)
        key = object() if key is None else key  # one that nothing else has
        before = self._sources.get(key, AssembledSource(None, None, None))
        self._sources[key] = AssembledSource(
            source.id if source.id is not None else before.id,
            source.url if source.url is not None else before.url,
            source.title if source.title is not None else before.title,
        )

    def _break_off(self, message: str) -> None:
        self.error = message
        for call in self._calls.values():
            call.broken_off = True
        for index, state in self._steps.items():
            self._steps[index] = "failed" if state == "running" else state

    def _finish(self, part: Finish) -> None:
        used = self.finish.usage if self.finish is not None else None
        self.finish = AssembledFinish(part.reason, add_usage(used, part.usage))
        for call in self._calls.values():
            call.broken_off = call.broken_off or call.state == "streaming"

    @property
    def text(self) -> str:
        """All text so far."""
        return _joined(self._text)

    @property
    def reasoning(self) -> str:
        """All that the model thought so far."""
        return _joined(self._reasoning)

    @property
    def tool_calls(self) -> dict[str, AssembledCall]:
        """The tool calls by id, in the order in which they were first heard of."""
        return {id: call.assembled(id) for id, call in self._calls.items()}

    @property
    def sources(self) -> list[AssembledSource]:
        """What the answer rests on, each once."""
        return list(self._sources.values())

    @property
    def steps(self) -> list[AssembledStep]:
        """The steps, in the order in which they were first heard of."""
        return [AssembledStep(index, state) for index, state in self._steps.items()]

    @property
    def parts(self) -> AssembledParts:
        """All of it as one value, in the form in which a page has it."""
        return AssembledParts(
            self.text,
            self.reasoning,
            list(self.tool_calls.values()),
            self.sources,
            dict(self.data),
            self.steps,
            self.finish,
            self.error,
        )


@dataclass
class _Call:
    """What is known of a tool call."""

    name: str = ""
    input: Any = None
    has_input: bool = False
    input_text: list[str] = field(default_factory=list)
    output: Any = None
    is_error: bool | None = None  # None: there is no result
    approval: Approval | None = None
    reason: str | None = None
    broken_off: bool = False

    def is_made_again_by(self, part: _CallPart) -> bool:
        if isinstance(part, ToolCall):
            return self.has_input and (self.is_error is not None or self.approval == "denied")
        return self.has_input and isinstance(part, ToolInputStart)

    def add(self, part: _CallPart) -> None:
        self.broken_off = False
        match part:
            case ToolInputStart(name=name):
                self.name, self.input_text = name, []
            case ToolInputDelta(delta=delta) if not self.has_input:
                self.input_text.append(delta)
            case ToolCall(name=name, input=input):
                self.name, self.input_text = name, []
                self.input, self.has_input = input, True
            case ToolApproval(state=approval, reason=reason):
                self.approval, self.reason = approval, reason
            case ToolResult(output=output, is_error=is_error):
                self.output, self.is_error = output, is_error

    @property
    def state(self) -> CallState:
        if self.approval == "denied":
            return "denied"
        if self.is_error is not None:
            return "failed" if self.is_error else "done"
        if self.broken_off:
            return "failed"
        if self.approval == "requested":
            return "waiting"
        return "running" if self.has_input or self.approval == "approved" else "streaming"

    def assembled(self, id: str) -> AssembledCall:
        return AssembledCall(
            id,
            self.name,
            self.input,
            _joined(self.input_text),
            self.output,
            self.state,
            self.approval,
            self.reason,
        )


def _joined(pieces: list[str]) -> str:
    # Kept joined, so that looking often does not join the same pieces again and again.
    if len(pieces) > 1:
        pieces[:] = ["".join(pieces)]
    return pieces[0] if pieces else ""


def add_usage(before: Any, more: Any) -> Any:
    """Add what a step used to what the steps before it used.

    Numbers are added, objects field by field; of anything else the newer one counts, and null says
    nothing.
    """
    if before is None or more is None:
        return more if before is None else before
    if isinstance(before, Mapping) and isinstance(more, Mapping):
        return {**before, **{name: add_usage(before.get(name), more[name]) for name in more}}
    if _is_number(before) and _is_number(more):
        return before + more
    return more


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


async def assemble(parts: AsyncIterable[Part]) -> Assembler:
    """Assemble all parts of an answer, to its end.

    Args:
        parts: `answer.read(run_id)`, for one; what it raises is raised.

    Returns:
        The whole answer.
    """
    whole = Assembler()
    async for part in parts:
        whole.add(part)
    return whole


async def assemble_by_source(
    records: AsyncIterable[ReadRecord[Part]],
) -> dict[str | None, Assembler]:
    """Assemble what several runs wrote into one stream, each run's answer by itself.

    A sub-agent that appends with `target="parent"` streams into its parent's answer; its pieces of
    text and the parent's would be mixed up in one.

    Args:
        records: `answer.read_records(run_id)`, for one; what it raises is raised.

    Returns:
        The answers by the run that wrote them (None: a client outside any run), in the order in
        which they began.
    """
    answers: dict[str | None, Assembler] = {}
    async for record in records:
        answers.setdefault(record.source, Assembler()).add(record.value)
    return answers
