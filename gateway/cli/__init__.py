"""The command line: `realtime`, or `python -m gateway`.

A module a group of commands; what is in a longer one stands in a module beside it:

    reaching   how a command reaches streams: through a gateway, or the store itself
    output     what a command prints: for people, for scripts
    serving    serve
    tokens     token mint, show, revoke
    streams    tail, append, streams
    runs       runs list, show, cancel, watch; trigger
    files      backup, restore
    copying    copy
    exchange   export, import
    doctor     doctor; its checks are in checks and public
    bench      bench
    types      types
    client     client
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
