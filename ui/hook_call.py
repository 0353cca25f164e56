"""A call of a hook of the client: one line of JavaScript, and the Vars that read its result."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import GenericAlias
from typing import Any

from reflex.event import EventChain
from reflex.vars import LiteralVar, Var, VarData
from reflex_base.utils.exceptions import EventHandlerArgTypeMismatchError
from reflex_base.utils.imports import ImportVar

from .client import register_client
from .foreach_guard import reject_loop_variable
from .gateway_check import warn_without_gateway


@dataclass(frozen=True)
class HookCall:
    """A call of one of the client's hooks.

    Two equal calls emit the same line, so that a component calls the hook once, however many of
    its Vars it uses.

    Attributes:
        function: Name of the hook in `hooks.js`.
        options: Its options; plain values and Vars.
        companion: A call that every component with this call makes too, because of its handlers.
    """

    function: str
    options: Mapping[str, Any]
    companion: HookCall | None = None

    @cached_property
    def _options_var(self) -> Var[Any]:
        return LiteralVar.create({"handlerKey": self._digest(self.options), **self.options})

    @staticmethod
    def _digest(options: Mapping[str, Any]) -> str:
        text = str(LiteralVar.create(dict(options)))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def name(self) -> str:
        """The JavaScript variable that holds the result; the same in every build."""
        return f"realtime_{hashlib.sha256(self._source.encode()).hexdigest()[:12]}"

    @cached_property
    def _source(self) -> str:
        return f"{self.function}({self._options_var!s})"

    @cached_property
    def _var_data(self) -> VarData:
        line = f"const {self.name} = {self._source}"
        # Reflex writes a hook below the hooks that its Var data names, and this line reads those.
        own = VarData(
            imports={register_client(): [ImportVar(tag=self.function)]},
            hooks={line: self._options_var._get_all_var_data()},
        )
        if self.companion is None:
            return own
        return VarData.merge(self.companion._var_data, own) or own

    def with_options(self, **options: Any) -> HookCall:
        """Return the call with further options. Handlers of both calls are called once."""
        handler_key = self._digest(self.options)
        return replace(self, options={**self.options, "handlerKey": handler_key, **options})

    def read(self, js: str, type_: Any, *arguments: Any) -> Any:
        """Return a Var of an expression in which `$` stands for the hook's result.

        Args:
            js: The expression.
            type_: The type of its value.
            arguments: If given, the expression is a function, and is called with these values and
                Vars.
        """
        expression = js.replace("$", self.name)
        if arguments:
            given = ", ".join(str(LiteralVar.create(argument)) for argument in arguments)
            expression = f"{expression}({given})"
        return Var(_js_expr=expression, _var_type=type_, _var_data=self._var_data).guess_type()


def make_call(function: str, options: Mapping[str, Any]) -> HookCall:
    """Make the call of a hook of the client, without the options that are None.

    Raises:
        LoopVariableError: an option is a loop variable of `rx.foreach`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if options.get("maxRecords", 0) is None:
        given["maxRecords"] = None  # None means all records; left out, it means 1000
    for name, value in given.items():
        reject_loop_variable(name, value)
    if "gatewayUrl" not in given:
        warn_without_gateway()
    return HookCall(function, given)


def event_handler(handler: Any, *arguments: Mapping[str, Any]) -> Var[Any] | None:
    """Return a handler that dispatches through Reflex's event queue, as a component's trigger does.

    Args:
        handler: The argument of the hook.
        arguments: Names and types of the event's arguments. With several mappings, the handler may
            declare any of them.

    Raises:
        EventHandlerArgTypeMismatchError: the handler takes arguments of other types.
    """
    if handler is None:
        return None
    mismatches: list[EventHandlerArgTypeMismatchError] = []
    for each in arguments:
        try:
            return LiteralVar.create(EventChain.create(handler, args_spec=_args_spec(each)))
        except EventHandlerArgTypeMismatchError as error:
            mismatches.append(error)
    raise mismatches[0]


def _args_spec(arguments: Mapping[str, Any]) -> Callable[..., tuple[Var[Any], ...]]:
    # Reflex reads the names and types of an event's arguments from a function's signature. The type
    # of a record is known only when the hook is called.
    def spec(*values: Var[Any]) -> tuple[Var[Any], ...]:
        return values

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in arguments]
    annotations = {name: GenericAlias(Var, (type_,)) for name, type_ in arguments.items()}
    spec.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spec.__annotations__ = {
        **annotations,
        "return": GenericAlias(tuple, tuple(annotations.values())),
    }
    return spec
