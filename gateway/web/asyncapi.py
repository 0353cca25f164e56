"""The AsyncAPI description of the WebSocket, made from the types that read and write its frames.

Source:
    AsyncAPI 3.0.0; what the frames mean is in PROTOCOL.md, sections 4 and 5.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from gateway import protocol

_CHANNEL = "connection"
_SCHEMAS = "#/components/schemas/"


@cache
def document(version: str) -> dict[str, Any]:
    """Make the document.

    Args:
        version: Of the package.

    Returns:
        AsyncAPI 3.0, as JSON-able values. What it calls `receive` the gateway receives.
    """
    ours = list(protocol.ReceivedFrame.__args__)
    theirs = list(protocol.ClientFrame.__args__)
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
                "messages": {
                    _tag(frame): {"$ref": f"#/components/messages/{_tag(frame)}"}
                    for frame in (*theirs, *ours)
                },
            }
        },
        "operations": {
            "fromClient": _operation("receive", "Frames from the client", theirs),
            "fromGateway": _operation("send", "Frames from the gateway", ours),
        },
        "components": {
            "messages": {_tag(frame): _message(frame) for frame in (*theirs, *ours)},
            "schemas": _schemas([*theirs, *ours]),
        },
    }


def _tag(frame: type[msgspec.Struct]) -> str:
    return str(frame.__struct_config__.tag)


def _operation(action: str, title: str, frames: list[type[msgspec.Struct]]) -> dict[str, Any]:
    messages = f"#/channels/{_CHANNEL}/messages/"
    return {
        "action": action,
        "title": title,
        "channel": {"$ref": f"#/channels/{_CHANNEL}"},
        "messages": [{"$ref": messages + _tag(frame)} for frame in frames],
    }


def _message(frame: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": _tag(frame),
        "summary": (frame.__doc__ or "").partition("\n")[0],
        "payload": {"$ref": _SCHEMAS + frame.__name__},
    }


def _schemas(frames: list[type[msgspec.Struct]]) -> dict[str, Any]:
    starts = [protocol.FromPosition, protocol.FromLast]
    _, schemas = msgspec.json.schema_components(
        [*frames, *starts], ref_template=_SCHEMAS + "{name}"
    )
    # msgspec cannot tell the two objects apart, so the type says nothing of them.
    schemas["Subscribe"]["properties"]["start"] = {
        "anyOf": [
            {"enum": ["beginning", "latest"]},
            *({"$ref": _SCHEMAS + start.__name__} for start in starts),
        ],
        "default": "beginning",
    }
    return schemas
