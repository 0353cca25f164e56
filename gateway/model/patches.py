"""Changes of a run's JSON: merge patches (RFC 7396) and operations on metadata. No I/O.

The store folds operations, so they are exact even when many tasks send them concurrently. The run's
log contains the resulting merge patch, so a reader does not have to know the operations.

In a merge patch, null deletes a member, so a patch cannot set a member to null. Therefore a change
replaces fields with users' values (`REPLACED`) as a whole, and lists the nulls of its metadata
separately.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Literal

import msgspec
import orjson

from gateway.errors import InvalidValue
from gateway.model.limits import MAX_INTEGER
from gateway.model.run_limits import check_metadata_key

REPLACED = frozenset({"payload", "output", "error", "last_error"})  # never merged
METADATA_NULLS = "metadata_nulls"  # the member of a change that lists the nulls of its metadata


class Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change of one key of a run's metadata.

    Attributes:
        op: The operation.
        key: A top-level key of the metadata.
        value: Any JSON; for `increment` the amount; unused for `delete`.

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
        nulls: The members of the patch that become null instead of being deleted, as an object of
            the same nesting whose innermost members are null.

    Source:
        RFC 7396, section 2, extended by `nulls`.
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
    """Return the fields of a run after a change from its log.

    Args:
        run: Its fields as on the wire; not modified. None if the change is the first of the log.
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
    """Return the merge patch from `before` to `after`, and the nulls that it sets.

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
    """Return the tree of null members: None for null itself, {} for a value without nulls.

    A merge patch replaces arrays as a whole, so nulls inside arrays are not listed.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        return {}
    found = {name: _nulls_in(member) for name, member in value.items()}
    return {name: nulls for name, nulls in found.items() if nulls != {}}


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; `true` is not 1, and 1 is not 1.0."""
    if one is other:  # unchanged by the operations
        return True
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def carry_out(metadata: Mapping[str, Any], operations: Iterable[Operation]) -> dict[str, Any]:
    """Fold operations into metadata, all of them or none.

    The cost is linear in the sizes of the metadata and of the operations: a list is copied, and its
    items are compared, once for all operations on it.

    Args:
        metadata: The current metadata; not modified.
        operations: The operations, in order.

    Returns:
        The metadata after the operations.

    Raises:
        InvalidValue: an operation does not fit the value of its key; the message names both.
    """
    fold = Fold(metadata)
    for operation in operations:
        fold.add(operation)
    return fold.result()


class Fold:
    """Folds operations into metadata, one at a time.

    Args:
        metadata: The current metadata; not modified.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._values = dict(metadata)
        self._lists: dict[str, _List] = {}  # replace the values of their keys in `_values`

    def add(self, operation: Operation) -> None:
        """Apply one operation completely, or not at all.

        Raises:
            InvalidValue: it does not fit the value of its key; the message names both.
        """
        check_metadata_key(operation.key)
        if operation.op not in _STEPS:
            raise InvalidValue(
                f"metadata {operation.key!r}: {operation.op!r:.40} is none of {', '.join(_STEPS)}"
            )
        _STEPS[operation.op](self, operation.key, operation.value)

    def result(self) -> dict[str, Any]:
        """Return the metadata after all operations."""
        return self._values | {key: items.result() for key, items in self._lists.items()}

    def _set(self, key: str, value: Any) -> None:
        self._lists.pop(key, None)
        self._values[key] = value

    def _delete(self, key: str, _: Any) -> None:
        self._lists.pop(key, None)
        self._values.pop(key, None)

    def _append(self, key: str, value: Any) -> None:
        self._list_at(key, "append to").append(value)

    def _remove(self, key: str, value: Any) -> None:
        if key in self._values or key in self._lists:
            self._list_at(key, "remove from").remove(value)

    def _list_at(self, key: str, what: str) -> _List:
        if (items := self._lists.get(key)) is None:
            there = self._values.get(key, [])
            if not isinstance(there, list):
                raise InvalidValue(f"metadata {key!r} is {there!r:.80}: no list to {what}")
            items = self._lists[key] = _List(there)
        return items

    def _increment(self, key: str, by: Any) -> None:
        there = self._lists[key].result() if key in self._lists else self._values.get(key, 0)
        if not (_is_number(there) and _is_number(by) and _is_number(there + by)):
            raise InvalidValue(
                f"metadata {key!r} is {there!r:.80}: it cannot be incremented by {by!r:.80}"
            )
        self._values[key] = there + by


class _List:
    """A list with efficient appends and removals by value."""

    def __init__(self, items: list[Any]) -> None:
        self._before = items
        self._items = list(items)
        # The indexes of equal items; built by the first removal.
        self._places: dict[Any, list[int]] | None = None
        self._removed: set[int] = set()

    def append(self, value: Any) -> None:
        if self._places is not None:
            self._places.setdefault(_identity(value), []).append(len(self._items))
        self._items.append(value)

    def remove(self, value: Any) -> None:
        if self._places is None:
            self._places = {}
            for place, item in enumerate(self._items):
                self._places.setdefault(_identity(item), []).append(place)
        self._removed.update(self._places.pop(_identity(value), ()))

    def result(self) -> list[Any]:
        if not self._removed and len(self._items) == len(self._before):
            return self._before  # the same object, so that `is_same` need not compare
        return [item for place, item in enumerate(self._items) if place not in self._removed]


def _identity(value: Any) -> Any:
    """Return a key that two values share if, and only if, they are the same JSON (`is_same`)."""
    if value is None or type(value) in (str, int, bool):
        return type(value), value
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)  # ten times as fast as `json`
    except orjson.JSONEncodeError:
        return json.dumps(value, sort_keys=True)  # such a value is rejected before it is stored


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER


_STEPS: dict[str, Callable[[Fold, str, Any], None]] = {
    "set": Fold._set,
    "delete": Fold._delete,
    "append": Fold._append,
    "remove": Fold._remove,
    "increment": Fold._increment,
}
