"""The inputs of an answer's tool calls, assembled from streamed pieces.

Servers identify the pieces of a call in different ways: by an index, by one index for all calls, by
an id in every piece, or not at all. `ToolInputs.feed` finds the call of a piece by the first of
these rules:

    same id             that call
    same index          that call, unless the piece has another id, another name, or the start of
                        a second JSON value
    no index            the last call, with the same exceptions
    otherwise           a new call
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.integrations._model_streams import key as key_of
from gateway.integrations._model_streams import parse_json, text_of, to_json
from gateway.sdk.part_limits import mended
from gateway.sdk.parts import Part, ToolCall, ToolInputDelta, ToolInputStart

# Finish reasons with which an input may be incomplete.
CUT_OFF = ("length", "content-filter")


@dataclass
class _Call:
    id: str  # id of its parts
    given_id: str  # the provider's id; "" until it sends one
    name: str
    input: Any = field(default_factory=dict)  # the input if no piece arrives
    pieces: list[str] = field(default_factory=list)
    has_started: bool = False

    @property
    def text(self) -> str:
        if len(self.pieces) > 1 and not self._is_cumulative():
            return mended("".join(self.pieces))
        return mended(self.pieces[-1]) if self.pieces else ""

    def _is_cumulative(self) -> bool:
        """Return whether each piece repeats the ones before it, and joined they are not JSON."""
        if not all(map(str.startswith, self.pieces[1:], self.pieces)):
            return False
        return not parse_json("".join(self.pieces))[0]


class ToolInputs:
    """The tool calls of one answer."""

    def __init__(self) -> None:
        self._open: list[_Call] = []
        self._by_key: dict[Any, _Call] = {}
        self._ids: set[str] = set()  # ids of parts
        self._completed_ids: set[str] = set()  # provider ids of completed calls
        self.count = 0
        """Number of calls so far."""

    def feed(
        self, key: Any, id: Any, name: Any, arguments: Any, *, prefix: str = "call"
    ) -> Iterator[Part]:
        """Process a piece of a call: its first one, or a continuation.

        Args:
            key: The call's index, or None.
            id: The call's id, or None.
            name: Name of the tool, or None.
            arguments: A piece of JSON, the complete input as an object, or None.
            prefix: Prefix of generated ids, for calls without an id.
        """
        key, id, name, piece = key_of(key), text_of(id), text_of(name), _piece(arguments)
        if id in self._completed_ids:
            return  # a repetition
        call = self._find(key, id)
        if call is not None:
            same = bool(id) and call.given_id == id
            if piece and _starts_value(piece) and _is_complete(call.text):
                if _is_same(call.text, piece) and (same or not name):
                    return  # a repetition
                if call.text.strip() == "{}" and (same or not name):
                    call.pieces, call.has_started = [], False  # `{}` was only a placeholder
                else:
                    name = name or call.name
                    call = None
            elif name and call.name and not same and (name != call.name or _is_complete(call.text)):
                call = None
        if call is None:
            call = self._begin(key, id, name, prefix)
        call.name = call.name or name
        call.given_id = call.given_id or id
        yield from self._announce(call)
        yield from self._add(call, piece)

    def start(self, key: Any, id: Any, name: Any, input: Any = None) -> Iterator[Part]:
        """Start an announced call; `input` is its input unless pieces follow."""
        key, id = key_of(key), text_of(id)
        call = self._by_key.get(key)
        if id in self._completed_ids or (call is not None and id and call.given_id == id):
            return  # a repetition
        call = self._begin(key, id, text_of(name), "call")
        call.input = call.input if input is None else input
        yield from self._announce(call)

    def add(self, key: Any, piece: Any) -> Iterator[Part]:
        """Add a piece to the call with a key; with an unknown key, to the last call."""
        call = self._by_key.get(key_of(key)) or (self._open[-1] if self._open else None)
        if call is not None:
            yield from self._add(call, _piece(piece))

    def finish(self, key: Any) -> Iterator[Part]:
        """Yield the call with a key if its input is complete; otherwise it stays open."""
        call = self._by_key.pop(key_of(key), None)
        if call is not None and call in self._open:
            text = call.text
            if not text or _is_complete(text):
                yield from self._finish(call)

    def complete(self, id: str, name: str, input: Any) -> Iterator[Part]:
        """Yield a call with a complete input from the provider, once for each id."""
        self._open = [call for call in self._open if call.given_id != id]
        if id not in self._completed_ids:
            self._completed_ids.add(id)
            self._ids.add(id)
            yield ToolCall(id, name, input)

    @property
    def has_open(self) -> bool:
        """Whether a call has started and is not completed."""
        return bool(self._open)

    def drop(self, id: str) -> None:
        """Close a call whose input stays incomplete."""
        self._open = [call for call in self._open if call.given_id != id]

    def finish_all(self, reason: str) -> Iterator[Part]:
        """Yield all open calls, but no invalid JSON if the reason may have truncated it."""
        for call in list(self._open):
            text = call.text
            if not text or _is_complete(text) or reason not in CUT_OFF:
                yield from self._finish(call)
            elif not call.has_started:
                yield ToolInputStart(call.id, call.name)
        self._open.clear()
        self._by_key.clear()

    def _find(self, key: Any, id: str) -> _Call | None:
        by_key = self._by_key.get(key) if key is not None else None
        if by_key is not None and (not id or by_key.given_id in ("", id)):
            return by_key
        if id:
            named = next((call for call in self._open if call.given_id == id), None)
            if named is not None or by_key is not None or key is not None:
                return named
        last = self._open[-1] if self._open and key is None else None
        return None if last is not None and id and last.given_id not in ("", id) else last

    def _begin(self, key: Any, id: str, name: str, prefix: str) -> _Call:
        own = id
        if not own or own in self._ids:
            own = f"{own or prefix}-{self.count}"
        call = _Call(own, id, name)
        self.count += 1
        self._ids.add(own)
        self._open.append(call)
        self._by_key[key] = call
        return call

    def _announce(self, call: _Call) -> Iterator[Part]:
        # The start of a call waits for its name, and the pieces wait for the start.
        if call.name and not call.has_started:
            call.has_started = True
            yield ToolInputStart(call.id, call.name)
            if call.pieces:
                yield ToolInputDelta(call.id, "".join(call.pieces))

    def _add(self, call: _Call, piece: str) -> Iterator[Part]:
        if piece:
            call.pieces.append(piece)
            if call.has_started:
                yield ToolInputDelta(call.id, piece)

    def _finish(self, call: _Call) -> Iterator[Part]:
        self._open.remove(call)
        if call.given_id:
            self._completed_ids.add(call.given_id)
        text = call.text
        is_valid, input = parse_json(text) if text else (True, call.input)
        if is_valid and isinstance(input, str):
            inner, value = parse_json(input)  # JSON encoded twice
            input = value if inner and isinstance(value, dict) else input
        yield ToolCall(call.id, call.name, input if is_valid else text)


def _piece(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(to_json(arguments), ensure_ascii=False)


def _starts_value(piece: str) -> bool:
    return piece.lstrip()[:1] in ("{", "[", '"')


def _is_complete(text: str) -> bool:
    # The last character is checked first: parsing after every piece would be quadratic.
    return text.rstrip()[-1:] in ("}", "]", '"') and parse_json(text)[0]


def _is_same(text: str, piece: str) -> bool:
    is_valid, value = parse_json(piece)
    if is_valid and isinstance(value, str):
        is_valid, value = parse_json(value)
    return is_valid and bool(value == parse_json(text)[1])
