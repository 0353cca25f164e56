"""Runs as lists and sets show them: without their large fields, and no more of them than fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from gateway.limits import LEAST_LISTED_RUNS, LIST_BYTES, LISTED_FIELD_BYTES
from gateway.runs import Run

_LARGE: Mapping[str, Any] = {
    "payload": None,
    "output": None,
    "error": None,
    "last_error": None,
    "metadata": {},
}
"""Fields that may be left out, and what stands in their place."""


class ListedRun(NamedTuple):
    """A run of a list or a set.

    Attributes:
        run: Without its large fields.
        size: Bytes that were read for it.
    """

    run: Run
    size: int


def in_set(run: Run) -> Run:
    """Return what sets show of a run: all but large fields, which its `omitted` then names.

    The metadata stays whatever its size: the set's log goes on with merge patches of it.
    """
    return _without(run, [name for name in _LARGE if name != "metadata"])


def in_list(shown: ListedRun) -> ListedRun:
    """Make what lists show of a run from what sets show of it."""
    if shown.size <= LISTED_FIELD_BYTES:  # as it is of most
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
    """Write what is kept of a run for lists and sets; nothing if that is the whole run.

    Args:
        run: Whole.
        snapshot_size: Of the whole run as JSON; most are so small that no field is looked at.
    """
    if snapshot_size <= LISTED_FIELD_BYTES:
        return b""
    shown = in_set(run)
    return orjson.dumps(shown.to_wire()) if shown.omitted else b""


def decode_listed(data: bytes) -> ListedRun:
    """Read what sets show of a run, from its whole or from what `encode_listed` wrote."""
    run = from_list(orjson.loads(data))
    return ListedRun(in_set(run) if len(data) > LISTED_FIELD_BYTES else run, len(data))


def from_list(wire: Mapping[str, Any]) -> Run:
    """Read a run of a list from its JSON fields.

    Raises:
        InvalidValue: a field is missing or of the wrong kind.
    """
    return dataclasses.replace(Run.from_wire(wire), omitted=dict(wire.get("omitted") or {}))


def is_full(count: int, size: int) -> bool:
    """Whether an answer takes no further run.

    Args:
        count: Of its runs.
        size: Of these, and of the one that may come next.
    """
    return count >= LEAST_LISTED_RUNS and size > LIST_BYTES


def that_fit(found: Iterable[ListedRun]) -> list[Run]:
    """Return the first runs that have `LIST_BYTES` together; `LEAST_LISTED_RUNS` in any case."""
    runs: list[Run] = []
    size = 0
    for each in found:
        size += each.size
        if is_full(len(runs), size):
            break
        runs.append(each.run)
    return runs
