"""The AsyncAPI document of the WebSocket, made from the types that encode and decode its frames.

Source:
    AsyncAPI 3.0.0; PROTOCOL.md, sections 4 and 5, for the meaning of frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from gateway import protocol
from gateway.errors import on_the_wire
from gateway.model.runs import Run
from gateway.protocol import gateway_frames as ours
from gateway.protocol.results import RESULTS

_CHANNEL = "connection"
_SCHEMAS = "#/components/schemas/"


@cache
def document(version: str) -> dict[str, Any]:
    """Make the document.

    Args:
        version: The package's version.

    Returns:
        AsyncAPI 3.0 as JSON values. Its `receive` is what the gateway receives.
    """
    sent = list(protocol.ReceivedFrame.__args__)
    received = list(protocol.ClientFrame.__args__)
    messages = {_tag(frame): _message(frame) for frame in (*received, *sent)}
    schemas, values = _schemas([*received, *sent])
    messages |= {_result(frame): _result_message(frame, values[frame]) for frame in RESULTS}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Realtime Streams",
            "version": version,
            "description": "The frames. `gateway/PROTOCOL.md` says what they mean, and in which "
            "order they come.",
        },
        "defaultContentType": "application/json",
        "channels": {
            _CHANNEL: {
                "address": "/v1/ws",
                "title": "One WebSocket for all subscriptions of a client",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "fromClient": _operation("receive", "Frames from the client", map(_tag, received)),
            "fromGateway": _operation("send", "Frames from the gateway", map(_tag, sent)),
            **{_tag(frame): _exchange(frame) for frame in received},
        },
        "components": {"messages": messages, "schemas": schemas},
        "x-errors": _errors(),
    }


def _tag(frame: type[msgspec.Struct]) -> str:
    return str(frame.__struct_config__.tag)


def _result(request: type[msgspec.Struct]) -> str:
    return f"{_tag(request)}_result"


_ANSWERS: dict[type[msgspec.Struct], type[msgspec.Struct]] = {
    protocol.Hello: ours.Welcome,
    protocol.Subscribe: ours.Subscribed,
    protocol.Unsubscribe: ours.Unsubscribed,
    protocol.Token: ours.TokenAccepted,
    protocol.Ping: ours.Pong,
    protocol.Append: ours.Appended,
}


def _operation(action: str, title: str, names: Iterable[str]) -> dict[str, Any]:
    return {
        "action": action,
        "title": title,
        "channel": {"$ref": f"#/channels/{_CHANNEL}"},
        "messages": _messages(names),
    }


def _messages(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{_CHANNEL}/messages/{name}"} for name in names]


def _exchange(frame: type[msgspec.Struct]) -> dict[str, Any]:
    """Describe one frame of the client with its possible responses."""
    answer = _tag(_ANSWERS[frame]) if frame in _ANSWERS else _result(frame)
    answers = [answer] if frame is protocol.Ping else [answer, _tag(ours.ErrorFrame)]
    reply = {"channel": {"$ref": f"#/channels/{_CHANNEL}"}, "messages": _messages(answers)}
    operation = _operation("receive", f"`{_tag(frame)}` and its answer", [_tag(frame)])
    return {**operation, "reply": reply}


def _message(frame: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": _tag(frame),
        "summary": (frame.__doc__ or "").partition("\n")[0],
        "payload": {"$ref": _SCHEMAS + frame.__name__},
    }


def _result_message(request: type[msgspec.Struct], value: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": _tag(ours.ResultFrame),
        "summary": f"Answer to `{_tag(request)}`.",
        "payload": {
            "allOf": [
                {"$ref": _SCHEMAS + ours.ResultFrame.__name__},
                {"properties": {"value": value}},
            ]
        },
    }


def _errors() -> list[dict[str, Any]]:
    return [
        {
            "code": error.code,
            "http_status": error.http_status,
            "close_code": error.close_code,  # closes the connection if the error has no `id`
            "retryable": error.retryable,
            "meaning": (error.__doc__ or "").partition("\n")[0],
        }
        for error in on_the_wire()
    ]


_Schema = dict[str, Any]


def _schemas(
    frames: list[type[msgspec.Struct]],
) -> tuple[dict[str, _Schema], dict[type[msgspec.Struct], _Schema]]:
    """Make the schemas of all frames, and of each request's result."""
    starts = [protocol.FromPosition, protocol.FromLast]
    found, schemas = msgspec.json.schema_components(
        [*RESULTS.values(), *frames, *starts, Run], ref_template=_SCHEMAS + "{name}"
    )
    values = dict(zip(RESULTS, found, strict=False))
    # msgspec cannot distinguish the two objects, so the type leaves them out.
    schemas["Subscribe"]["properties"]["start"] = {
        "anyOf": [
            {"enum": ["beginning", "latest"]},
            *({"$ref": _SCHEMAS + start.__name__} for start in starts),
        ],
        "default": "beginning",
    }
    # These are written from encoded bytes, so their types leave them out too.
    run = {"$ref": _SCHEMAS + Run.__name__}
    schemas["Subscribed"]["properties"]["run"] = run
    for name in ("Subscribed", "Reset"):
        schemas[name]["properties"]["runs"] = {"type": "array", "items": run}
    schemas["ResultFrame"]["properties"]["value"] = {
        "description": "The reply of each request's operation has its shape."
    }
    schemas["ErrorFrame"]["properties"]["code"] = {
        "description": "Others may be added.",
        "anyOf": [{"enum": [error.code for error in on_the_wire()]}, {"type": "string"}],
    }
    return schemas, values
