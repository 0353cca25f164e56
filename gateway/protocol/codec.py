"""Reads and writes frames: the only place where they are text."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import FrameTooLarge, MalformedFrame, UnknownFrame
from gateway.model.limits import DEFAULT_LIMITS, FRAME_DEPTH, JSON_DEPTH, Limits
from gateway.model.untrusted_json import NotJson, check_values, why_not_json
from gateway.protocol.client_frames import (
    Append,
    ClientFrame,
    FromLast,
    FromPosition,
    Start,
    Subscribe,
)
from gateway.protocol.gateway_frames import GatewayFrame, LimitFields, ReceivedFrame


class _Tag(msgspec.Struct):
    type: Any = None
    id: Any = None


_client_frames = msgspec.json.Decoder(ClientFrame)
_tags = msgspec.json.Decoder(_Tag)
_encoder = msgspec.json.Encoder()
_gateway_frames = msgspec.json.Decoder(ReceivedFrame)
_KNOWN = frozenset(str(frame.__struct_config__.tag) for frame in ClientFrame.__args__)

_QUOTE = 34  # what a text begins with
MAX_REASON_CHARACTERS = 300  # a field that is not known is repeated in it

# These carry what users have made, and may be as large as that is.
_DATA_FRAMES = frozenset({"append", "run_create", "run_patch", "register"})


def decode(
    text: str | bytes, limits: Limits = DEFAULT_LIMITS, *, is_first: bool = False
) -> ClientFrame:
    """Read a client's frame.

    Args:
        text: One WebSocket text message.
        limits: How large it may be.
        is_first: Nothing is known of the client yet, so that no frame may carry data.

    Returns:
        One of the client's frames.

    Raises:
        FrameTooLarge: states both numbers.
        UnknownFrame: names the type.
        MalformedFrame: says which field is wrong.
    """
    size = size_of(text)
    if size > limits.frame_bytes:
        carries_data = not is_first and _tag(text).type in _DATA_FRAMES
        _check_size(size, limits.data_frame_bytes if carries_data else limits.frame_bytes)
    try:
        frame: ClientFrame = _client_frames.decode(text)
        _check_values(frame, text)
    except (msgspec.DecodeError, NotJson, UnicodeError, RecursionError) as error:
        raise _fault(text, error) from None
    return frame


def _check_values(frame: ClientFrame, text: str | bytes) -> None:
    """Refuse values that msgspec takes and others do not: of the whole frame, since that is cheap.

    Source:
        PROTOCOL.md, section 2.
    """
    data = text.encode() if isinstance(text, str) else text
    if not isinstance(frame, Append):
        check_values(data, FRAME_DEPTH)
    elif len(frame.records) != 1 or memoryview(frame.records[0])[0] != _QUOTE:  # no single text
        check_values(data, JSON_DEPTH + 2)  # a record is in the frame and in its array


def size_of(text: str | bytes) -> int:
    """Return how many bytes a message has."""
    if isinstance(text, bytes) or text.isascii():
        return len(text)
    return len(text.encode(errors="surrogatepass"))


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise FrameTooLarge(f"the frame is {size} bytes; the limit is {limit}")


def check_sent(frame: ClientFrame, text: str, limits: LimitFields) -> None:
    """Check a client's frame before it is sent: one over the limit may cost the connection.

    Args:
        frame: The frame to encode.
        text: The same as text.
        limits: As `welcome` says.

    Raises:
        FrameTooLarge: names the frame and states both numbers.
    """
    type_ = str(frame.__struct_config__.tag)
    is_data = type_ in _DATA_FRAMES
    limit = limits.data_frame_bytes if is_data else limits.frame_bytes
    if (size := size_of(text)) > limit:
        setting = "REALTIME_DATA_FRAME_BYTES" if is_data else "REALTIME_FRAME_BYTES"
        raise FrameTooLarge(
            f"{type_}: the frame is {size} bytes; the limit is {limit} ({setting} of the gateway)"
        )


def _fault(text: str | bytes, error: Exception) -> MalformedFrame | UnknownFrame:
    type_ = _tag(text).type
    if isinstance(type_, str) and type_ not in _KNOWN:
        return UnknownFrame(f"no frame has the type {type_[:40]!r}")
    why = str(error)
    if not isinstance(error, msgspec.ValidationError):
        why = why_not_json(text, FRAME_DEPTH) or why
    return MalformedFrame(f"the frame cannot be read: {why[:MAX_REASON_CHARACTERS]}")


def _tag(text: str | bytes) -> _Tag:
    try:
        return _tags.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Tag()


def id_of(text: str | bytes) -> int | None:
    """Find the `id` in a frame that could not be read, so that the error can name it."""
    id = _tag(text).id
    return id if type(id) is int and 0 <= id < 2**32 else None


def start_of(frame: Subscribe) -> Start:
    """Read where a subscription starts.

    Raises:
        MalformedFrame: it is none of the forms.
    """
    if isinstance(frame.start, str) and frame.start in ("beginning", "latest"):
        return frame.start  # type: ignore[return-value]
    for form in (FromPosition, FromLast):
        try:
            return msgspec.convert(frame.start, form)
        except msgspec.ValidationError:
            continue
    raise MalformedFrame(
        '`start` is none of "beginning", "latest", {"position": "…"}, {"last": 1 to 1000000}'
    )


def encode(frame: GatewayFrame | ClientFrame) -> str:
    """Write a frame as the text of one WebSocket message."""
    return _encoder.encode(frame).decode()


def decode_gateway(text: str | bytes) -> ReceivedFrame | None:
    """Read a gateway's frame: the client's side of the wire.

    Returns:
        The frame; None for a type that this version does not know, which a client ignores.

    Raises:
        MalformedFrame: a known frame in another shape.
    """
    try:
        frame: ReceivedFrame = _gateway_frames.decode(text)
    except msgspec.ValidationError as error:
        if "Invalid value" in str(error) and "$.type" in str(error):
            return None
        raise MalformedFrame(f"the gateway's frame cannot be read: {error}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedFrame(f"the gateway's frame is no JSON: {error}") from None
    return frame
