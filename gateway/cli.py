"""The command line: `realtime`, or `python -m gateway`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from gateway import tokens
from gateway.errors import RealtimeError
from gateway.key_files import resolve_keys
from gateway.settings import Settings

app = typer.Typer(
    name="realtime",
    help="Realtime Streams: durable, typed streams from Python tasks to any frontend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8400,
    store: Annotated[
        str | None,
        typer.Option(
            help="sqlite:PATH or memory:; default REALTIME_STORE or sqlite:.realtime/realtime.db"
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a gateway until Ctrl-C."""
    from gateway.web.server import serve as run_server

    settings = _settings(store)
    resolve_keys(settings)  # say what is wrong with it before anything is started
    run_server(settings, host=host, port=port, log_level=log_level)


@app.command()
def token(
    scopes: Annotated[list[str], typer.Argument(help="For example read:runs:run_1")],
    ttl_s: Annotated[float, typer.Option(help="Life in seconds.")] = tokens.DEFAULT_TTL_S,
    subject: Annotated[str, typer.Option(help="Who it is for.")] = "",
    store: Annotated[
        str | None, typer.Option(help="The store beside which the secret lies.")
    ] = None,
) -> None:
    """Mint an access token and print it."""
    keys = resolve_keys(_settings(store))
    typer.echo(tokens.mint(scopes, ttl_s=ttl_s, subject=subject, keys=keys, now_s=time.time()))


def _settings(store: str | None) -> Settings:
    settings = Settings.from_env()
    return replace(settings, store=store) if store else settings


def main() -> None:
    """Run the command line; an error of ours is one line and exit code 1."""
    try:
        app()
    except RealtimeError as error:
        typer.echo(f"realtime: {error.message}", err=True)
        raise SystemExit(1) from None
