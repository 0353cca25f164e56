"""Reject loop variables of `rx.foreach` among the arguments of a hook."""

from __future__ import annotations

import re
from typing import Any

from reflex.vars import LiteralVar
from reflex_base.constants.state import FIELD_MARKER


class LoopVariableError(TypeError):
    """A hook was called with a loop variable of `rx.foreach`.

    React allows no hook in a loop. Make the item a component with `@rx.memo` instead.
    """

    def __init__(self, argument: str, loop_variable: str) -> None:
        super().__init__(
            f"{argument} reads {loop_variable!r}, a loop variable of rx.foreach, and a hook cannot "
            "be called in a loop. Make the item a component:\n\n"
            "    @rx.memo\n"
            "    def run_card(run_id: rx.Var[str]) -> rx.Component:\n"
            "        progress = use_realtime_stream(run_id, stream=..., access_token=...)\n"
            "        return rx.text(progress.status)\n\n"
            "    rx.foreach(State.run_ids, lambda run_id: run_card(run_id=run_id))"
        )


# Reflex marks names of fields and of loop variables alike. A field is always read from its state
# (`state.field_rx_state_`), so a marked name without a dot before it is a loop variable. An index
# that the application does not name is called after a hash.
_LOOP_VARIABLE = re.compile(
    rf"(?<![\w.$])(?:([A-Za-z_]\w*?){FIELD_MARKER}|(index_[0-9a-f]{{32}}))(?!\w)"
)
_STRING_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')


def reject_loop_variable(option: str, value: Any) -> None:
    """Reject an option of a hook that reads a loop variable.

    Args:
        option: Its name in the client's JavaScript.
        value: Its value.

    Raises:
        LoopVariableError: names the option and the loop variable.
    """
    code = _STRING_LITERAL.sub('""', str(LiteralVar.create(value)))
    found = _LOOP_VARIABLE.search(code)
    if found:
        raise LoopVariableError(_snake_case(option), found[1] or "index")


def _snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
