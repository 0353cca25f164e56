"""The command line: `realtime`, or `python -m gateway`. One module for each command.

May import every room.

    append         lines into records
    backup         `realtime backup` and `restore`
    bench          `realtime bench`
    client         `realtime client`
    copy           `realtime copy`
    doctor/        `realtime doctor`
    export         `realtime export` and `import`
    runs           `realtime runs` and `trigger`
    runs_watch     `realtime runs watch`
    serve          `realtime serve`
    streams        `realtime tail`, `append` and `streams`
    tail           follows streams and prints records
    token_inspect  `realtime token show`
    tokens         `realtime token`
    types          `realtime types`
    typescript     TypeScript types of JSON Schemas

    _http          HTTP requests of commands
    _output        what commands print
    _target        the gateway or the store that a command works on
"""

from __future__ import annotations

from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import (
    backup,
    bench,
    client,
    copy,
    doctor,
    export,
    runs,
    serve,
    streams,
    tokens,
    types,
)
from gateway.cli._output import note
from gateway.errors import RealtimeError

app = typer.Typer(
    name="realtime",
    help="Realtime Streams: durable, typed streams from Python tasks to any frontend.",
    epilog=(
        "Exit codes: 0 done; 1 something is wrong, as the line on stderr says; 2 the command line"
        " itself is wrong; 130 Ctrl-C. `tail` and `trigger --follow` end as what they follow did:"
        " 0 completed, 10 failed, 11 canceled, 12 crashed, 13 expired, 14 timed_out, 15 deleted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"realtime-streams {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Take the options that belong to no command."""


app.command()(serve.serve)
app.command()(streams.tail)
app.command()(streams.append)
app.command("streams")(streams.list_streams)
app.add_typer(runs.app, name="runs")
app.command()(runs.trigger)
app.add_typer(tokens.app, name="token")
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(types.types)
app.command()(client.client)
app.command()(copy.copy)
app.command()(export.export)
app.command("import")(export.import_run)
app.command()(doctor.doctor)
app.command()(bench.bench)


def main() -> None:
    """Run the command line; an error of ours is one line and exit code 1."""
    try:
        app()
    except RealtimeError as error:
        note(error.message)
        raise SystemExit(1) from None
