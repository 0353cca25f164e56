"""How a run's JSON changes: merge patches (RFC 7396) and operations on metadata. No I/O.

Operations are folded where the run is kept, so that they are exact however many tasks send them at
once. What goes into the run's log is the merge patch that they come to: a reader needs to know
nothing of operations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from gateway.errors import InvalidValue

MAX_METADATA_KEY_CHARACTERS = 128
MAX_INTEGER = 2**53  # every client knows whole numbers up to here exactly


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of one key of a run's metadata.

    Attributes:
        op: What is done with `value`.
        key: A name at the top of the metadata.
        value: JSON; the amount of `increment`; nothing for `delete`.

    Source:
        PROTOCOL.md, section 6.
    """

    op: Literal["set", "delete", "append", "remove", "increment"]
    key: str
    value: Any = None


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch and return the result; neither argument is changed.

    Source:
        RFC 7396, section 2.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that makes `after` of `before`.

    What is new or changed in `after` may hold no object with a null member: no merge patch can say
    that. `carry_out` makes none.
    """
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if name in before and is_same(old, value):
            continue
        both = isinstance(old, dict) and isinstance(value, dict)
        patch[name] = difference(old, value) if both else value  # type: ignore[arg-type]
    return patch


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; `true` is not 1, and 1 is not 1.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def carry_out(metadata: Mapping[str, Any], operations: Iterable[Operation]) -> dict[str, Any]:
    """Fold operations into metadata, all of them or none.

    Members of objects that are null are left out, as everywhere in merge patches; to set a key to
    null is to delete it.

    Args:
        metadata: As it is; not changed.
        operations: In order.

    Returns:
        The metadata after them.

    Raises:
        InvalidValue: an operation does not fit what the key holds; names both.
    """
    after = dict(metadata)
    for operation in operations:
        _check(operation)
        _STEPS[operation.op](after, operation.key, operation.value)
    return after


def _check(operation: Operation) -> None:
    key = operation.key
    if not isinstance(key, str) or not 0 < len(key) <= MAX_METADATA_KEY_CHARACTERS:
        raise InvalidValue(
            f"metadata key {key!r:.80} is not allowed: "
            f"it is 1 to {MAX_METADATA_KEY_CHARACTERS} characters"
        )
    if operation.op not in _STEPS:
        raise InvalidValue(f"metadata {key!r}: {operation.op!r:.40} is none of {', '.join(_STEPS)}")


def _set(metadata: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        metadata.pop(key, None)
    else:
        metadata[key] = merge_patch(None, value)


def _delete(metadata: dict[str, Any], key: str, _: Any) -> None:
    metadata.pop(key, None)


def _append(metadata: dict[str, Any], key: str, value: Any) -> None:
    metadata[key] = [*_list_at(metadata, key, "append to"), value]


def _remove(metadata: dict[str, Any], key: str, value: Any) -> None:
    if key in metadata:
        there = _list_at(metadata, key, "remove from")
        metadata[key] = [item for item in there if not is_same(item, value)]


def _list_at(metadata: dict[str, Any], key: str, what: str) -> list[Any]:
    there = metadata.get(key, [])
    if not isinstance(there, list):
        raise InvalidValue(f"metadata {key!r} is {there!r:.80}: no list to {what}")
    return there


def _increment(metadata: dict[str, Any], key: str, by: Any) -> None:
    there = metadata.get(key, 0)
    if not (_is_number(there) and _is_number(by) and _is_number(there + by)):
        raise InvalidValue(
            f"metadata {key!r} is {there!r:.80}: it cannot be incremented by {by!r:.80}"
        )
    metadata[key] = there + by


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER


_STEPS: dict[str, Callable[[dict[str, Any], str, Any], None]] = {
    "set": _set,
    "delete": _delete,
    "append": _append,
    "remove": _remove,
    "increment": _increment,
}
