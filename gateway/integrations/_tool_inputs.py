"""The inputs of an answer's tool calls, put together from what a provider streams of them.

Servers name the pieces of a call in many ways: by an index, by one index for all calls, by an id in
every piece, by nothing. `ToolInputs.take` finds the call of a piece by the first of these rules:

    same id             that call
    same index          that call, unless the piece shows another one: another id, another name, or
                        the start of a second JSON value
    no index            the last call, with the same exceptions
    else                a new call
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.integrations._model_streams import as_json, parse_json, word
from gateway.integrations._model_streams import key as key_of
from gateway.sdk.part_limits import mended
from gateway.sdk.parts import Part, ToolCall, ToolInputDelta, ToolInputStart

# An input that ends for one of these reasons has been cut off.
CUT_OFF = ("length", "content-filter")


@dataclass
class _Call:
    id: str  # of its parts
    given_id: str  # by the provider; "" while it has given none
    name: str
    input: Any = field(default_factory=dict)  # what it is if no piece comes
    pieces: list[str] = field(default_factory=list)
    has_started: bool = False

    @property
    def text(self) -> str:
        if len(self.pieces) > 1 and not self._is_cumulative():
            return mended("".join(self.pieces))
        return mended(self.pieces[-1]) if self.pieces else ""

    def _is_cumulative(self) -> bool:
        """Whether every piece repeats those before it, and together they are no JSON."""
        if not all(map(str.startswith, self.pieces[1:], self.pieces)):
            return False
        return not parse_json("".join(self.pieces))[0]


class ToolInputs:
    """The tool calls of one answer."""

    def __init__(self) -> None:
        self._open: list[_Call] = []
        self._by_key: dict[Any, _Call] = {}
        self._ids: set[str] = set()  # of parts
        self._given: set[str] = set()  # ids of the calls that were given
        self.count = 0
        """How many calls there were so far."""

    def take(
        self, key: Any, id: Any, name: Any, arguments: Any, *, prefix: str = "call"
    ) -> Iterator[Part]:
        """Take a piece of a call: the first one, or one that continues it.

        Args:
            key: The call's index, or None.
            id: The call's id, or nothing.
            name: Of the tool, or nothing.
            arguments: A piece of JSON, the whole input as an object, or nothing.
            prefix: Of the id of a call that the provider gives none.
        """
        key, id, name, piece = key_of(key), word(id), word(name), _piece(arguments)
        if id in self._given:
            return  # said again
        call = self._find(key, id)
        if call is not None:
            same = bool(id) and call.given_id == id
            if piece and _starts_value(piece) and _is_whole(call.text):
                if _is_same(call.text, piece) and (same or not name):
                    return  # said again
                if call.text.strip() == "{}" and (same or not name):
                    call.pieces, call.has_started = [], False  # that was only where it begins
                else:
                    name = name or call.name
                    call = None
            elif name and call.name and not same and (name != call.name or _is_whole(call.text)):
                call = None
        if call is None:
            call = self._begin(key, id, name, prefix)
        call.name = call.name or name
        call.given_id = call.given_id or id
        yield from self._announce(call)
        yield from self._add(call, piece)

    def start(self, key: Any, id: Any, name: Any, input: Any = None) -> Iterator[Part]:
        """Begin a call that the provider announces; `input` counts if no piece comes."""
        key, id = key_of(key), word(id)
        call = self._by_key.get(key)
        if id in self._given or (call is not None and id and call.given_id == id):
            return  # said again
        call = self._begin(key, id, word(name), "call")
        call.input = call.input if input is None else input
        yield from self._announce(call)

    def add(self, key: Any, piece: Any) -> Iterator[Part]:
        """Add a piece to the call of a key; to the last one where the key is not known."""
        call = self._by_key.get(key_of(key)) or (self._open[-1] if self._open else None)
        if call is not None:
            yield from self._add(call, _piece(piece))

    def finish(self, key: Any) -> Iterator[Part]:
        """Give the call of a key if its input is whole; else it stays open until `finish_all`."""
        call = self._by_key.pop(key_of(key), None)
        if call is not None and call in self._open:
            text = call.text
            if not text or _is_whole(text):
                yield from self._finish(call)

    def give(self, id: str, name: str, input: Any) -> Iterator[Part]:
        """Give a call whose input the provider gives as a whole; each id once."""
        self._open = [call for call in self._open if call.given_id != id]
        if id not in self._given:
            self._given.add(id)
            self._ids.add(id)
            yield ToolCall(id, name, input)

    @property
    def has_open(self) -> bool:
        """Whether a call was begun and not given."""
        return bool(self._open)

    def drop(self, id: str) -> None:
        """Close a call whose input never became whole."""
        self._open = [call for call in self._open if call.given_id != id]

    def finish_all(self, reason: str) -> Iterator[Part]:
        """Give the calls that are still open; those with broken JSON only if nothing cut it off."""
        for call in list(self._open):
            text = call.text
            if not text or _is_whole(text) or reason not in CUT_OFF:
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
        # Until its name is known a call has no start, and its pieces wait.
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
            self._given.add(call.given_id)
        text = call.text
        whole, input = parse_json(text) if text else (True, call.input)
        if whole and isinstance(input, str):
            inner, value = parse_json(input)  # JSON within JSON
            input = value if inner and isinstance(value, dict) else input
        yield ToolCall(call.id, call.name, input if whole else text)


def _piece(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(as_json(arguments), ensure_ascii=False)


def _starts_value(piece: str) -> bool:
    return piece.lstrip()[:1] in ("{", "[", '"')


def _is_whole(text: str) -> bool:
    # The end is looked at first: to parse at every piece would be quadratic.
    return text.rstrip()[-1:] in ("}", "]", '"') and parse_json(text)[0]


def _is_same(text: str, piece: str) -> bool:
    whole, value = parse_json(piece)
    if whole and isinstance(value, str):
        whole, value = parse_json(value)
    return whole and bool(value == parse_json(text)[1])
