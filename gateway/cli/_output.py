"""What a command prints: lines for people, JSON lines for scripts, notes on stderr.

Colours and tables are for terminals; elsewhere fields are separated by tabs. What comes from
streams cannot move the cursor: control characters are shown as their codes.
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

JsonOption = Annotated[bool, typer.Option("--json", help="JSON, a value a line, for scripts.")]

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
}  # any other status is red

# C0 but for the tab, DEL and C1: a terminal obeys these.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def note(text: str) -> None:
    """Say something that is no result."""
    typer.echo(f"realtime: {shown(text)}", err=True)


def shown(text: str) -> str:
    """Return a text that a terminal shows as it is."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def line_of(data: bytes) -> str:
    """Return a record's JSON as one line; a raw line break in JSON is never part of a value."""
    return shown(data.replace(b"\r", b" ").replace(b"\n", b" ").decode("utf-8", "replace"))


def named_writer(record: Record) -> dict[str, Any]:
    """Name who wrote a record, as lines of JSON do: `attempt` is left out of the first."""
    source, attempt = record.written_by
    return {"source": source} | ({"attempt": attempt} if attempt > 1 else {})


def emit(value: Any) -> None:
    """Print a value as a line of JSON."""
    write(orjson.dumps(value) + b"\n")


def write(data: bytes) -> None:
    """Print bytes at once: whoever reads along must not wait for more."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def clock(time_ms: int) -> str:
    """Return a time of today's day as people read it, in their zone."""
    return datetime.fromtimestamp(time_ms / 1000).strftime("%H:%M:%S.%f")[:-3]


def age(created_at: str | None, now: datetime | None = None) -> str:
    """Say how long ago a time of a run was."""
    if created_at is None:
        return ""
    then = datetime.fromisoformat(created_at)
    seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def bytes_of(size: float) -> str:
    """Say a number of bytes."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def status(value: str) -> Text:
    """Return a status in its colour."""
    return Text(value, COLOURS.get(value, "red"))


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Make a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(shown(cell)) if isinstance(cell, str) else cell for cell in row))
    return table


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table on a terminal, and lines of fields with tabs between them elsewhere."""
    if sys.stdout.isatty():
        Console(highlight=False).print(table_of(columns, rows))
        return
    for row in rows:
        typer.echo("\t".join(shown(str(cell)) for cell in row))


def end_as(reason: str) -> NoReturn:
    """End the command with the exit code of how something ended."""
    raise typer.Exit(EXIT_CODES.get(reason, 1))
