"""Spans of OpenTelemetry: one trace from a trigger, through the run and its appends, to the send.

This module never imports OpenTelemetry first. An application that wants traces imports it to
configure an exporter; until then every function here costs one lookup in a dictionary. A run
carries the context of its trigger in its metadata, under `$trace`, so that the worker that executes
the run and the gateways that send its records belong to the same trace.

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


def is_enabled() -> bool:
    """Whether the application has configured a tracer provider."""
    return _tracer() is not None


def _tracer() -> Tracer | None:
    api = sys.modules.get("opentelemetry.trace")
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    tracer: Tracer = api.get_tracer("realtime")
    return tracer


def current_context() -> Context | None:
    """Return the context of the calling code, for a span that other code starts."""
    if not is_enabled():
        return None
    from opentelemetry import context

    return context.get_current()


def extract(carried: object) -> Context | None:
    """Read a trace context from a run's metadata or a request's headers.

    Args:
        carried: A mapping with `traceparent`; any other value has no context.
    """
    if not is_enabled() or not isinstance(carried, Mapping) or not carried.get("traceparent"):
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = {name: str(carried[name]) for name in _HEADERS if carried.get(name)}
    return TraceContextTextMapPropagator().extract(headers)


def inject() -> dict[str, Any]:
    """Return the metadata that carries the context of the calling code."""
    if not is_enabled():
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
    """Record the block as a span, if tracing is enabled.

    Args:
        name: Name of the span; of low cardinality.
        kind: `producer` for work that is handed on, `consumer` for work that is taken.
        parent: Default: the context of the calling code.
        attributes: Recorded as `realtime.NAME`.
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


def record_span(name: str, *, parent: Context, began_ms: int, **attributes: str | int) -> None:
    """Record a span that ends now.

    Args:
        name: Name of the span.
        parent: Its context.
        began_ms: Its start, milliseconds since 1970 UTC.
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
