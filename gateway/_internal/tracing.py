"""Spans of OpenTelemetry: one trace from a trigger, through the run and its appends, to the send.

Nothing is imported here that is not there already: an application that wants traces has imported
OpenTelemetry itself to say where they go, and until it has, every function here is a look into a
dictionary. A run carries the context of its trigger in its metadata, under `$trace`, so that
whoever executes it and every gateway that sends its records are part of the same trace.

Source:
    PROTOCOL.md, section 6. W3C Trace Context.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

TRACE_KEY = "$trace"  # of a run's metadata
_HEADERS = ("traceparent", "tracestate")

SpanKind = Literal["internal", "producer", "consumer"]


def is_on() -> bool:
    """Whether this process has said where its traces go."""
    return _tracer() is not None


def _tracer() -> Tracer | None:
    api = sys.modules.get("opentelemetry.trace")
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    tracer: Tracer = api.get_tracer("realtime")
    return tracer


def here() -> Context | None:
    """Return the context of the calling code, for a span that is made elsewhere."""
    if not is_on():
        return None
    from opentelemetry import context

    return context.get_current()


def context_of(carried: object) -> Context | None:
    """Read the context that a run's metadata, or a request's headers, carry.

    Args:
        carried: A mapping with `traceparent`; whatever is none is no context.
    """
    if not is_on() or not isinstance(carried, Mapping) or not carried.get("traceparent"):
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = {name: str(carried[name]) for name in _HEADERS if carried.get(name)}
    return TraceContextTextMapPropagator().extract(headers)


def carried() -> dict[str, Any]:
    """Return what a run's metadata gets, to carry the context of the calling code on."""
    if not is_on():
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return {TRACE_KEY: headers} if headers else {}


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = "internal",
    parent: Context | None = None,
    **attributes: str | int,
) -> Iterator[None]:
    """Make a span of what the block does, if traces are wanted.

    Args:
        name: What it does; few different ones.
        kind: Whether it hands work on or takes it.
        parent: What it is part of; default: what the calling code is part of.
        attributes: Kept as `realtime.` and their name.
    """
    tracer = _tracer()
    if tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    with tracer.start_as_current_span(
        name, context=parent, kind=SpanKind[kind.upper()], attributes=_named(attributes)
    ):
        yield


def past(name: str, *, parent: Context, began_ms: int, **attributes: str | int) -> None:
    """Make a span of what has just come to its end.

    Args:
        name: What it was.
        parent: What it was part of.
        began_ms: When it began, milliseconds since 1970 UTC.
        attributes: As for `span`.
    """
    tracer = _tracer()
    if tracer is None:
        return
    from opentelemetry.trace import SpanKind

    tracer.start_span(
        name,
        context=parent,
        kind=SpanKind.PRODUCER,
        start_time=began_ms * 1_000_000,
        attributes=_named(attributes),
    ).end()


def _named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {f"realtime.{name}": value for name, value in attributes.items()}
