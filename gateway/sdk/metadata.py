"""Metadata: a small JSON object of a run. Tasks change it while they execute; pages show it.

    from gateway import metadata

    metadata.set("status", "reading")
    metadata.parent.increment("done")              # exact, even with many concurrent children
    state = metadata.typed(ImportState)            # keys and values checked against a model
    state.set("total", 12)

Operations are sent about every 100 ms and at the end of the run. `await metadata.flush()` sends
them immediately.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

import msgspec
import orjson
from pydantic import BaseModel

from gateway.errors import InvalidValue, MetadataTooLarge, NotInRun
from gateway.model.limits import MAX_METADATA_BYTES
from gateway.model.patches import Operation
from gateway.sdk.context import current_run
from gateway.sdk.loops.bridge import run_on_sdk_loop
from gateway.sdk.loops.sync_calls import make_sync
from gateway.sdk.runtime import current_runtime
from gateway.sdk.values.encoding import Values
from gateway.sdk.values.equality import shown
from gateway.sdk.writers.metadata_writer import MetadataWriter

M = TypeVar("M")


class _MetadataOps:
    """The operations on metadata. Call them on the event loop or in plain threads, without await.

    Every method may raise:
        InvalidValue: the value has no JSON, or does not fit the model; names the key.
        MetadataTooLarge: the value alone is over 256 KiB.
        NotInRun: called outside a task.
        NoParent: `parent` in a run without one.
        RunCanceled: the calling run, a plain function, is being canceled.

    The store refuses an operation if the metadata would exceed 256 KiB, if a list is where a number
    is needed, or if the run has ended. Then `flush` raises, or the run fails at its end. All other
    operations are applied.
    """

    def __init__(self, target: str) -> None:
        self._target = target

    def set(self, key: str, value: Any) -> None:
        """Set a key. None sets it to null, which differs from `delete`."""
        self._put("set", key, value)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._put("delete", key, None)

    def append(self, key: str, value: Any) -> None:
        """Append a value to a list, which is created if the key is missing."""
        self._put("append", key, value)

    def remove(self, key: str, value: Any) -> None:
        """Remove every equal value from a list."""
        self._put("remove", key, value)

    def increment(self, key: str, by: float = 1) -> None:
        """Add to a number; a missing one counts as 0."""
        self._put("increment", key, by)

    def decrement(self, key: str, by: float = 1) -> None:
        """Subtract from a number; a missing one counts as 0."""
        self._put("increment", key, -by)

    @run_on_sdk_loop
    async def flush(self) -> None:
        """Send the queued operations, also to parent and root, and wait until they are durable.

        Raises:
            RealtimeError: the first refusal that has reached no caller; or the store is
                unavailable, and the operations stay queued.
            NotInRun: called outside a task.
        """
        context = current_run()
        if context is None:
            raise NotInRun("metadata belongs to a run: it can be flushed inside a task")
        await current_runtime().flush_metadata(context.id)

    flush_sync = make_sync(flush)

    def _encode(self, op: str, key: str, value: Any) -> bytes:
        try:
            return _ANY.encode(value)
        except InvalidValue as error:
            raise InvalidValue(
                f"metadata {key!r}: {shown(value)} is no JSON: {error.message}"
            ) from None

    def _put(self, op: Any, key: str, value: Any) -> None:
        try:
            key.encode()
        except (AttributeError, UnicodeEncodeError):  # no text, or a lone surrogate
            raise InvalidValue(
                f"metadata {key!r:.80}: a key is a text of whole characters"
            ) from None
        data = self._encode(op, key, value)
        if len(data) > MAX_METADATA_BYTES:
            raise MetadataTooLarge(
                f"metadata {key!r}: the value is {len(data)} bytes; "
                f"the limit is {MAX_METADATA_BYTES}"
            )
        self._writer().put(Operation(op, key, msgspec.json.decode(data)), len(data))

    def _writer(self) -> MetadataWriter:
        return current_runtime().metadata_writer(self._target)

    def _view(self) -> dict[str, Any]:
        return self._writer().view()


class Metadata(_MetadataOps):
    """The metadata of the calling run, its parent or its root. Use `gateway.metadata`."""

    @property
    def parent(self) -> Metadata:
        """The metadata of the run that triggered this one."""
        return Metadata("parent")

    @property
    def root(self) -> Metadata:
        """The metadata of the run at the top of the tree; this run's own if it has no parent."""
        return Metadata("root")

    def current(self) -> dict[str, Any]:
        """Return the metadata as this run knows it.

        For the run's own metadata, that is the state when the attempt began or when operations were
        last sent, with the run's later operations applied. For a parent or root, it is the state
        that the last operations found.
        """
        return self._view()

    def get(self, key: str, default: Any = None) -> Any:
        """Return one key of `current()`."""
        return self._view().get(key, default)

    def typed(self, model: type[M]) -> TypedMetadata[M]:
        """Check keys and values against a model.

        Args:
            model: A Pydantic model, a dataclass or a TypedDict; its fields are the keys.

        Raises:
            InvalidValue: the type has no fields, or Pydantic can make no schema of it.
        """
        return TypedMetadata(self._target, _Model(model))


class TypedMetadata(_MetadataOps, Generic[M]):
    """Metadata with the keys and values of a model. Made by `Metadata.typed`."""

    def __init__(self, target: str, model: _Model) -> None:
        super().__init__(target)
        self._model = model

    @property
    def parent(self) -> TypedMetadata[M]:
        """The same metadata of the run that triggered this one."""
        return TypedMetadata("parent", self._model)

    @property
    def root(self) -> TypedMetadata[M]:
        """The same metadata of the run at the top of the tree."""
        return TypedMetadata("root", self._model)

    def current(self) -> M:
        """Return the metadata as this run knows it, as the model.

        Raises:
            InvalidValue: the metadata does not fit, for example because a field without a default
                is not set; names the field.
        """
        value: M = self._model.read(self._view())
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return one key, checked against its field.

        Raises:
            InvalidValue: the value does not fit, or the model has no such field.
        """
        view = self._view()
        return self._model.value(key, view[key]) if key in view else default

    def _encode(self, op: str, key: str, value: Any) -> bytes:
        return self._model.encode(op, key, value)


@dataclass(frozen=True)
class _Model:
    type: Any

    def __post_init__(self) -> None:
        _ = self._values, self._whole  # raise for a type without a schema

    @cached_property
    def _whole(self) -> Values[Any]:
        return Values(self.type, "metadata")

    @cached_property
    def _fields(self) -> dict[str, Any]:
        if isinstance(self.type, type) and issubclass(self.type, BaseModel):
            fields = self.type.model_fields.items()
            return {
                name: Annotated[(field.annotation, *field.metadata)]
                if field.metadata
                else field.annotation
                for name, field in fields
            }
        if dataclasses.is_dataclass(self.type) or hasattr(self.type, "__required_keys__"):
            return get_type_hints(self.type, include_extras=True)
        raise InvalidValue(
            f"{self.type!r} cannot describe metadata: it is a Pydantic model, a dataclass or a "
            "TypedDict"
        )

    @cached_property
    def _values(self) -> dict[str, Values[Any]]:
        return {name: Values(hint, f"metadata {name!r}") for name, hint in self._fields.items()}

    def read(self, metadata: dict[str, Any]) -> Any:
        metadata = {key: value for key, value in metadata.items() if not key.startswith("$")}
        return self._whole.decode(orjson.dumps(metadata))

    def value(self, key: str, value: Any) -> Any:
        """Return a key's value if it fits its field."""
        return self._of(key).decode(orjson.dumps(value))

    def encode(self, op: str, key: str, value: Any) -> bytes:
        """Return an operation's value as JSON if it fits the key's field."""
        values = self._of(key)
        if op == "delete":
            return b"null"
        if op in ("append", "remove"):
            return values.encode([value])[1:-1]
        return values.encode(value)

    def _of(self, key: str) -> Values[Any]:
        if key not in self._values:
            known = ", ".join(self._values)
            raise InvalidValue(f"metadata {key!r}: the model has no such field; it has {known}")
        return self._values[key]


_ANY = Values[Any](Any, "the value")

metadata = Metadata("self")
"""The metadata of the calling run."""
