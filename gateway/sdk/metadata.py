"""Metadata: a small JSON object of a run that tasks change while they execute and pages show.

    from gateway import metadata

    metadata.set("status", "reading")
    metadata.parent.increment("done")              # exact, however many children do it at once
    state = metadata.typed(ImportState)            # keys and values checked against a model
    state.set("total", 12)

Operations are sent about every 100 ms and at the end of the run; `await metadata.flush()` sends
them now.
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
    """What can be done to metadata. From the event loop and from plain threads, without await.

    Every method may raise:
        InvalidValue: the value is no JSON, or the model refuses it; names the key.
        MetadataTooLarge: the value alone is over 256 KiB.
        NotInRun: called outside a task.
        NoParent: `parent` in a run without one.
        RunCanceled: the calling run, a plain function, is being canceled.

    What the store refuses (the sum of all over 256 KiB, a list where a number is needed, a run that
    has ended) comes from `flush`, or fails the run at its end. The other operations are carried
    out.
    """

    def __init__(self, target: str) -> None:
        self._target = target

    def set(self, key: str, value: Any) -> None:
        """Set a key; None makes it null, which is not the same as `delete`."""
        self._put("set", key, value)

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._put("delete", key, None)

    def append(self, key: str, value: Any) -> None:
        """Add a value to the end of a list; the first makes the list."""
        self._put("append", key, value)

    def remove(self, key: str, value: Any) -> None:
        """Take every equal value out of a list."""
        self._put("remove", key, value)

    def increment(self, key: str, by: float = 1) -> None:
        """Add to a number; one that is not there is 0."""
        self._put("increment", key, by)

    def decrement(self, key: str, by: float = 1) -> None:
        """Subtract from a number; one that is not there is 0."""
        self._put("increment", key, -by)

    @run_on_sdk_loop
    async def flush(self) -> None:
        """Send what waits, also to parent and root, and wait until it is durable.

        Raises:
            RealtimeError: the first operation that was refused and that nobody has been told of;
                or the store cannot be reached: nothing is lost then, and the next flush goes on.
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
        except (AttributeError, UnicodeEncodeError):  # no text, or half a character
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
        """The metadata of the run at the top; this run's own if it has no parent."""
        return Metadata("root")

    def current(self) -> dict[str, Any]:
        """Return the metadata as this run knows it.

        That is what it was when the attempt began or when the last operations were sent, and the
        run's own operations since. Of a parent or root it is what the last operations found.
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
            InvalidValue: a type that has no fields, or that Pydantic can make no schema of.
        """
        return TypedMetadata(self._target, _Model(model))


class TypedMetadata(_MetadataOps, Generic[M]):
    """Metadata whose keys and values a model describes. Made by `Metadata.typed`."""

    def __init__(self, target: str, model: _Model) -> None:
        super().__init__(target)
        self._model = model

    @property
    def parent(self) -> TypedMetadata[M]:
        """The same of the run that triggered this one."""
        return TypedMetadata("parent", self._model)

    @property
    def root(self) -> TypedMetadata[M]:
        """The same of the run at the top."""
        return TypedMetadata("root", self._model)

    def current(self) -> M:
        """Return the metadata as this run knows it, as the model.

        Raises:
            InvalidValue: it does not fit (a field that has no default was not set); names it.
        """
        value: M = self._model.read(self._view())
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """Return one key, checked against its field.

        Raises:
            InvalidValue: it does not fit, or the model has no such field.
        """
        view = self._view()
        return self._model.value(key, view[key]) if key in view else default

    def _encode(self, op: str, key: str, value: Any) -> bytes:
        return self._model.encode(op, key, value)


@dataclass(frozen=True)
class _Model:
    type: Any

    def __post_init__(self) -> None:
        _ = self._values, self._whole  # say what is wrong with the type

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
        """Return a key's value if its field takes it."""
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
