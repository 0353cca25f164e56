"""Output of commands: tables and lines for terminals, JSON lines for scripts, messages on stderr.

Without a terminal there are no colours, and tabs separate the fields of a table. Control characters
in data are escaped, so that records cannot move the cursor.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.model.records import Record

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, one value per line, for scripts.")
]

EXIT_CODES = {
    "completed": 0,
    "failed": 10,
    "canceled": 11,
    "crashed": 12,
    "expired": 13,
    "timed_out": 14,
    "deleted": 15,
}
COLOURS = {
    "completed": "green",
    "executing": "cyan",
    "waiting": "cyan",
    "queued": "yellow",
    "delayed": "yellow",
    "canceled": "magenta",
}  # every other status is red

# C0 except the tab, DEL and C1: the characters that terminals interpret.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def info(text: str) -> None:
    """Print a message that is not part of the result, on stderr."""
    typer.echo(f"realtime: {escape_control(text)}", err=True)


def escape_control(text: str) -> str:
    """Replace control characters by their codes, so that a terminal only displays the text."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def to_line(data: bytes) -> str:
    """Return a record's JSON as one line. Raw line breaks in JSON are never part of a value."""
    return escape_control(data.replace(b"\r", b" ").replace(b"\n", b" ").decode("utf-8", "replace"))


def writer_fields(record: Record) -> dict[str, Any]:
    """Return the JSON fields for a record's writer: `source`, and `attempt` from the second on."""
    source, attempt = record.written_by
    return {"source": source} | ({"attempt": attempt} if attempt > 1 else {})


def emit(value: Any) -> None:
    """Print a value as one line of JSON."""
    write(orjson.dumps(value) + b"\n")


def write(data: bytes) -> None:
    """Print bytes and flush, so that a reader of a pipe receives them without delay."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def format_time(time_ms: int) -> str:
    """Return the time of day in the local time zone, with milliseconds."""
    return datetime.fromtimestamp(time_ms / 1000).strftime("%H:%M:%S.%f")[:-3]


def format_age(created_at: str | None, now: datetime | None = None) -> str:
    """Return the age of an ISO 8601 time in its largest unit, such as `5 min`."""
    if created_at is None:
        return ""
    then = datetime.fromisoformat(created_at)
    seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def format_bytes(size: float) -> str:
    """Return a number of bytes with a decimal unit, such as `1.5 MB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def styled_status(value: str) -> Text:
    """Return a status in its colour."""
    return Text(value, COLOURS.get(value, "red"))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table for a terminal. Cells of plain text are escaped."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        cells = (Text(escape_control(cell)) if isinstance(cell, str) else cell for cell in row)
        table.add_row(*cells)
    return table


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table on a terminal; elsewhere, print tab-separated lines."""
    if sys.stdout.isatty():
        Console(highlight=False).print(make_table(columns, rows))
        return
    for row in rows:
        typer.echo("\t".join(escape_control(str(cell)) for cell in row))


def exit_with_status(status: str) -> NoReturn:
    """Exit with the code of a final status, or of the reason why a stream ended."""
    raise typer.Exit(EXIT_CODES.get(status, 1))
