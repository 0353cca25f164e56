"""Generate tables of PROTOCOL.md from the code.

`python -m tests.tools.protocol_tables` writes them into PROTOCOL.md;
`tests/protocol/test_document.py` asserts that they are up to date.
"""

import dataclasses
import json
from pathlib import Path

import gateway
from gateway.errors import on_the_wire
from gateway.model import limits
from gateway.model.runs import _FIXED_FIELDS, FINAL_STATUSES, STATUSES, TRANSITIONS, Run

PROTOCOL = Path(gateway.__file__).with_name("PROTOCOL.md")


def value_limits() -> str:
    """List each limit of a value, and the error of a value over it."""
    lines = ["| value | at most | error |", "|---|---|---|"]
    for limit in limits.VALUE_LIMITS:
        most = f"{limit.most:.0f} {limit.unit}".rstrip()
        error = f"`{limit.error.code}`" if limit.error else "none; the answer is cut and says so"
        lines.append(f"| {limit.what} | {most} | {error} |")
    return "\n".join(lines) + "\n"


def errors() -> str:
    """List each error that the gateway may send to a client."""
    lines = ["| code | HTTP | close code | retryable | meaning |", "|---|---|---|---|---|"]
    for error in on_the_wire():
        meaning = (error.__doc__ or "").strip().splitlines()[0]
        close = error.close_code or ""
        retryable = "yes" if error.retryable else "no"
        lines.append(
            f"| `{error.code}` | {error.http_status} | {close} | {retryable} | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def transitions() -> str:
    """Mark, for each status that is not final, the statuses that may follow it."""
    lines = [f"| from | {' | '.join(f'`{status}`' for status in STATUSES)} |"]
    lines.append("|---" * (len(STATUSES) + 1) + "|")
    for status in STATUSES:
        if status not in FINAL_STATUSES:
            marks = ["✓" if each in TRANSITIONS[status] else "" for each in STATUSES]
            lines.append(f"| `{status}` | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def run_fields() -> str:
    """List the fields of a run: required or default in `run_create`, and changeable by a patch."""
    lines = ["| field | in `run_create` | a patch may change it |", "|---|---|---|"]
    for field in dataclasses.fields(Run):
        if field.name == "omitted":  # only in the answer to a list
            continue
        may = "no" if field.name in _FIXED_FIELDS else "yes"
        lines.append(f"| `{field.name}` | {_default(field)} | {may} |")
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    if field.default is not dataclasses.MISSING:
        return f"`{json.dumps(field.default)}`"
    return "required"


TABLES = {
    "limits": value_limits,
    "transitions": transitions,
    "run-fields": run_fields,
    "errors": errors,
}


def _place(text: str, name: str) -> slice:
    begin = f"<!-- {name}:begin -->\n"
    return slice(text.index(begin) + len(begin), text.index(f"<!-- {name}:end -->\n"))


def written(name: str) -> str:
    text = PROTOCOL.read_text()
    return text[_place(text, name)]


def write() -> None:
    for name, table in TABLES.items():
        text = PROTOCOL.read_text()
        place = _place(text, name)
        PROTOCOL.write_text(text[: place.start] + table() + text[place.stop :])


if __name__ == "__main__":
    write()
