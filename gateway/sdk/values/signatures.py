"""A task's function as a schema: its arguments and its result, checked and stored as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import orjson
from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, create_model

from gateway._internal.name_lists import listed
from gateway.errors import AbortTask, InvalidValue
from gateway.model.limits import MAX_PAYLOAD_BYTES
from gateway.sdk.values.encoding import Values
from gateway.sdk.values.equality import shown

R = TypeVar("R")


class InvalidPayload(AbortTask):
    """The payload in the store does not fit the task's function."""


class Signature(Generic[R]):
    """The parameters and the result of a function, from its annotations. Read on first use.

    Args:
        task_id: Id of the task, for messages.
        function: The task's function.
    """

    def __init__(self, task_id: str, function: Callable[..., Any]) -> None:
        self._task_id = task_id
        self._function = function

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make the payload of a call.

        Raises:
            InvalidValue: the arguments do not fit the function, or have no JSON.
        """
        self._check_names(kwargs)
        try:
            bound = inspect.signature(self._function).bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidValue(f"task {self._task_id!r}: {error}") from None
        return self.bind_keywords(bound.arguments)

    def bind_keywords(self, payload: Mapping[str, Any]) -> Any:
        """Make the payload of a call with keyword arguments.

        Raises:
            InvalidValue: they do not fit the function, or have no JSON.
        """
        if not isinstance(payload, Mapping):
            raise InvalidValue(
                f"task {self._task_id!r}: a payload is an object of arguments, not {payload!r:.60}"
            )
        self._check_names(payload)
        data = self._payload.encode(dict(payload))
        if len(data) > MAX_PAYLOAD_BYTES:
            raise InvalidValue(
                f"task {self._task_id!r}: the payload is {len(data)} bytes; "
                f"the limit is {MAX_PAYLOAD_BYTES}"
            )
        return msgspec.json.decode(data)

    def _check_names(self, arguments: Mapping[str, Any]) -> None:
        unknown = [name for name in arguments if name not in self._parameters]
        if unknown:
            name = str(unknown[0])
            known = listed(name, self._parameters)
            takes = f"the arguments are {known}" if known else "the task has no arguments"
            raise InvalidValue(
                f"task {self._task_id!r}: unexpected keyword argument {shown(name)}; {takes}"
            )

    def check_arguments(self, arguments: Mapping[str, bytes | None]) -> None:
        """Check keyword arguments of which some are not known yet.

        Args:
            arguments: Each as JSON; None: the value is not known yet.

        Raises:
            InvalidValue: an argument is unknown or missing, or does not fit its annotation.
        """
        self._check_names(arguments)
        for name, data in arguments.items():
            if data is not None:
                hint, _ = self._parameters[name]
                Values(hint, f"task {self._task_id!r}: parameter {name!r}").decode(data)
        for name, (_, default) in self._parameters.items():
            if default is inspect.Parameter.empty and name not in arguments:
                raise InvalidValue(
                    f"task {self._task_id!r}: parameter {name!r} is not given and has no default"
                )

    def arguments_of(self, payload: Any) -> dict[str, Any]:
        """Decode the keyword arguments of a payload.

        Raises:
            InvalidPayload: it does not fit the function.
        """
        try:
            model = self._payload.decode(orjson.dumps(payload))
        except InvalidValue as error:
            raise InvalidPayload(error.message) from None
        return {name: getattr(model, field) for name, field in self._fields.items()}

    def output_to_json(self, output: Any) -> Any:
        """Encode the function's return value as JSON values.

        Raises:
            InvalidValue: it does not fit the annotation, or has no JSON.
        """
        return self._output.plain(output)

    def output_of(self, value: Any) -> R:
        """Decode the function's return value from JSON values.

        Raises:
            InvalidValue: it does not fit the annotation: another version of the task returned it.
        """
        return self._output.decode(orjson.dumps(value))

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        hints = get_type_hints(self._function, include_extras=True)
        parameters = inspect.signature(self._function).parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise InvalidValue(
                    f"task {self._task_id!r}: parameter {parameter} is not allowed: "
                    "name each parameter"
                )
        return {p.name: (hints.get(p.name, Any), p.default) for p in parameters}

    @property
    def _fields(self) -> dict[str, str]:
        # A parameter may start with an underscore or have the name of a model's method; a field may
        # not. Pydantic accepts a field's name too, so it must be one that no parameter can have.
        return {name: f"parameter {name}" for name in self._parameters}

    @cached_property
    def _payload(self) -> Values[Any]:
        fields: dict[str, Any] = {}
        for name, (hint, default) in self._parameters.items():
            value = ... if default is inspect.Parameter.empty else default
            fields[self._fields[name]] = (hint, Field(value, alias=name))
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=False, serialize_by_alias=True)
        try:
            model = create_model(f"{self._task_id} payload", __config__=config, **fields)
        except PydanticSchemaGenerationError as error:
            raise InvalidValue(f"task {self._task_id!r}: {error}") from None
        return Values(model, f"task {self._task_id!r}")

    @cached_property
    def _output(self) -> Values[R]:
        return Values(self.output_type, f"task {self._task_id!r}: the output")

    @property
    def parameter_types(self) -> dict[str, Any]:
        """The type of each parameter, by its name."""
        return {name: hint for name, (hint, _) in self._parameters.items()}

    @property
    def output_type(self) -> Any:
        """The type of a run's output; Any without an annotation."""
        hint = get_type_hints(self._function, include_extras=True).get("return", Any)
        if get_origin(hint) in (Awaitable, Coroutine):
            return get_args(hint)[-1]  # a plain function that returns an awaitable
        return hint
