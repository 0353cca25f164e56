"""Runs in lists and sets: large fields are omitted, and the size of an answer is limited."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from gateway.model.limits import LEAST_LISTED_RUNS, LIST_BYTES, LISTED_FIELD_BYTES
from gateway.model.runs import Run

_LARGE: Mapping[str, Any] = {
    "payload": None,
    "output": None,
    "error": None,
    "last_error": None,
    "metadata": {},
}
"""Fields that may be omitted, and the value that replaces each."""


class ListedRun(NamedTuple):
    """A run of a list or a set.

    Attributes:
        run: The run without its large fields.
        size: The bytes that the store read for it.
    """

    run: Run
    size: int


def in_set(run: Run) -> Run:
    """Return a run as sets show it: without its large fields, which its `omitted` then names.

    The metadata is always included, because the set's log continues with merge patches of it.
    """
    return _without(run, [name for name in _LARGE if name != "metadata"])


def in_list(shown: ListedRun) -> ListedRun:
    """Return a run as lists show it, from the run as sets show it."""
    if shown.size <= LISTED_FIELD_BYTES:  # true for most runs
        return shown
    return ListedRun(_without(shown.run, ["metadata"]), shown.size)


def _without(run: Run, names: Iterable[str]) -> Run:
    sizes = {name: len(orjson.dumps(getattr(run, name))) for name in names}
    large = {name: size for name, size in sizes.items() if size > LISTED_FIELD_BYTES}
    if not large:
        return run
    empty = {name: _LARGE[name] for name in large}
    return dataclasses.replace(run, omitted={**run.omitted, **large}, **empty)


def encode_listed(run: Run, snapshot_size: int) -> bytes:
    """Encode the shortened copy of a run for lists and sets; empty if nothing is omitted.

    Args:
        run: The whole run.
        snapshot_size: Bytes of the whole run as JSON; most runs are so small that no field is
            measured.
    """
    if snapshot_size <= LISTED_FIELD_BYTES:
        return b""
    shown = in_set(run)
    return orjson.dumps(shown.to_wire()) if shown.omitted else b""


def decode_listed(data: bytes) -> ListedRun:
    """Decode a run as sets show it, from the whole run or from the copy of `encode_listed`."""
    run = from_list(orjson.loads(data))
    return ListedRun(in_set(run) if len(data) > LISTED_FIELD_BYTES else run, len(data))


def from_list(wire: Mapping[str, Any]) -> Run:
    """Read a run of a list from its JSON fields.

    Raises:
        InvalidValue: a field is missing or of the wrong type.
    """
    return dataclasses.replace(Run.from_wire(wire), omitted=dict(wire.get("omitted") or {}))


def is_full(count: int, size: int) -> bool:
    """Whether an answer has no room for the next run.

    Args:
        count: The number of runs in the answer.
        size: Bytes of these runs and of the next one.
    """
    return count >= LEAST_LISTED_RUNS and size > LIST_BYTES


def that_fit(found: Iterable[ListedRun]) -> list[Run]:
    """Return the first runs that fit into `LIST_BYTES`, but at least `LEAST_LISTED_RUNS`."""
    runs: list[Run] = []
    size = 0
    for each in found:
        size += each.size
        if is_full(len(runs), size):
            break
        runs.append(each.run)
    return runs
