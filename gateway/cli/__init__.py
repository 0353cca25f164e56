"""The command line: `realtime`, or `python -m gateway`.

Each command group has one module. This room may import every other room.

    _http          requests to a gateway over HTTP
    _output        output formats: tables and lines for terminals, JSON lines for scripts
    _target        options that select a gateway or a store, and how a command opens it
    append         `append`
    backup         `backup`, `restore`
    bench          `bench`
    client         `client`
    copy           `copy`
    doctor         `doctor`; its checks are in `local_checks` and `network_checks`
    export         `export`, `import`
    runs           `runs list`, `runs show`, `runs cancel`, `runs watch`, `trigger`
    runs_watch     the table of runs that `runs watch` keeps up to date
    serve          `serve`
    streams        `streams`
    tail           `tail`
    token_inspect  the checks of `token show`
    tokens         `token mint`, `token show`, `token revoke`
    types          `types`
    typescript     JSON Schemas as TypeScript types
"""

from __future__ import annotations

from typing import Annotated

import typer

from gateway import __version__
from gateway.cli import (
    append,
    backup,
    bench,
    client,
    copy,
    doctor,
    export,
    runs,
    serve,
    streams,
    tail,
    tokens,
    types,
)
from gateway.cli._output import info
from gateway.errors import RealtimeError

app = typer.Typer(
    name="realtime",
    help="Realtime Streams: durable, typed streams from Python tasks to any frontend.",
    epilog=(
        "Exit codes: 0 success; 1 an error, described on stderr; 2 an invalid command line;"
        " 130 Ctrl-C. `tail` and `trigger --follow` exit with the final status:"
        " 0 completed, 10 failed, 11 canceled, 12 crashed, 13 expired, 14 timed_out, 15 deleted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
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
    """Handle the options that precede a command."""


app.command()(serve.serve)
app.command()(tail.tail)
app.command()(append.append)
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
    """Run the command line. A `RealtimeError` becomes one line on stderr and exit code 1."""
    try:
        app()
    except RealtimeError as error:
        info(error.message)
        raise SystemExit(1) from None
