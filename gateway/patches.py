"""How a run's JSON changes: merge patches (RFC 7396) and operations on metadata. No I/O.

The store folds operations, so that they are exact however many tasks send them at once. The run's
log holds the merge patch that they come to: a reader needs to know nothing of operations.

A merge patch cannot set a member to null: there null deletes. So a change replaces the fields that
users' values fill (`REPLACED`) as a whole, and names the nulls of its metadata beside it.
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
REPLACED = frozenset({"payload", "output", "error", "last_error"})  # never merged
METADATA_NULLS = "metadata_nulls"  # the member of a change that names the nulls of its metadata


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


_NO_NULLS: Mapping[str, Any] = {}


def merge_patch(target: Any, patch: Any, nulls: Mapping[str, Any] = _NO_NULLS) -> Any:
    """Apply a JSON merge patch and return the result; no argument is changed.

    Args:
        target: Any JSON.
        patch: Any JSON; a null member deletes.
        nulls: The members of the patch that are null in the result instead: an object of the same
            nesting whose innermost members are null.

    Source:
        RFC 7396, section 2, but for `nulls`.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        deeper = nulls.get(name, _NO_NULLS)
        if value is None and deeper is not None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value, deeper)
    return merged


def fold_change(run: Mapping[str, Any] | None, change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a run after a change of its log.

    Args:
        run: Its fields as on the wire; not changed. None: the change is the first of the log.
        change: A record of the log, or the `patch` of a set's log.

    Source:
        PROTOCOL.md, section 6.
    """
    if run is None:
        return dict(change)
    patch = {name: value for name, value in change.items() if name not in REPLACED}
    nulls = patch.pop(METADATA_NULLS, _NO_NULLS)
    whole = {name: value for name, value in change.items() if name in REPLACED}
    return {**merge_patch(run, patch, {"metadata": nulls}), **whole}


def difference(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the merge patch that makes `after` of `before`, and the nulls that it sets.

    Returns:
        `patch` and `nulls` such that `merge_patch(before, patch, nulls)` is `after`.
    """
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    nulls: dict[str, Any] = {}
    deeper: dict[str, Any] | None
    for name, value in after.items():
        old = before.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            change, deeper = difference(old, value)
            if not change:
                continue
        elif name in before and is_same(old, value):
            continue
        else:
            change, deeper = value, _nulls_in(value)
        patch[name] = change
        if deeper != {}:
            nulls[name] = deeper
    return patch, nulls


def _nulls_in(value: Any) -> dict[str, Any] | None:
    """Return the tree of null members: None for null itself, nothing for a value without any.

    A merge patch replaces arrays as a whole, so the nulls inside them need no mention.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        return {}
    found = {name: _nulls_in(member) for name, member in value.items()}
    return {name: nulls for name, nulls in found.items() if nulls != {}}


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; `true` is not 1, and 1 is not 1.0."""
    if one is other:  # what an operation leaves as it was
        return True
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def carry_out(metadata: Mapping[str, Any], operations: Iterable[Operation]) -> dict[str, Any]:
    """Fold operations into metadata, all of them or none.

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
    metadata[key] = value


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
