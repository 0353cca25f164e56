"""The command line: `realtime`, or `python -m gateway`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway import tokens
from gateway.errors import InvalidValue, RealtimeError
from gateway.key_files import resolve_keys
from gateway.sdk.session import connected
from gateway.settings import Settings, sqlite_file
from gateway.stores import sqlite_backup

LOCAL_URL = "ws://127.0.0.1:8400"

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


class _MintsByDefault(TyperGroup):
    """`realtime token SCOPE…` mints; any other command has to be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        rest: list[str] = super().parse_args(ctx, args if is_named else ["mint", *args])
        return rest


token = typer.Typer(
    cls=_MintsByDefault,
    help="Mint an access token (`realtime token SCOPE…`), or revoke some.",
    no_args_is_help=True,
)
app.add_typer(token, name="token")


@token.command()
def mint(
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


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    store: Annotated[str | None, typer.Option(help="sqlite:PATH; default REALTIME_STORE.")] = None,
) -> None:
    """Copy a SQLite store, also while a gateway uses it."""
    path = sqlite_file(_settings(store).store)
    with _progress(f"Copying {path}") as progress:
        copied = sqlite_backup.backup(path, file, force=force, progress=progress)
    typer.echo(f"{file}: {copied.runs} runs, {copied.bytes / 1e6:.1f} MB, checked")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="Made by `realtime backup`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a store that is there: what it holds is lost.")
    ] = False,
    store: Annotated[str | None, typer.Option(help="sqlite:PATH; default REALTIME_STORE.")] = None,
) -> None:
    """Put a copy back in the place of a SQLite store; stop its gateway first.

    Clients who hold positions of the lost store are told to start over.
    """
    path = sqlite_file(_settings(store).store)
    with _progress(f"Copying {file}") as progress:
        copied = sqlite_backup.restore(file, path, force=force, progress=progress)
    typer.echo(f"{path}: {copied.runs} runs, {copied.bytes / 1e6:.1f} MB, checked")


@contextmanager
def _progress(label: str) -> Iterator[sqlite_backup.Progress]:
    """Show a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    with typer.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, of: int) -> None:
            bar.length = max(of, 1)
            bar.update(done - bar.pos)

        yield show


@token.command()
def revoke(
    token_id: Annotated[str | None, typer.Argument(help="One token, or its `jti`.")] = None,
    subject: Annotated[str | None, typer.Option(help="All tokens of this subject.")] = None,
    issued_before: Annotated[
        str | None,
        typer.Option(help="Of a subject: only those up to this time, 2026-11-22T12:56:14Z."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help=f"The running gateway; default REALTIME_URL or {LOCAL_URL}")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The store beside which the secret lies.")
    ] = None,
) -> None:
    """Make tokens good no more, at once and for ever, through a gateway that runs."""
    settings = _settings(store)
    moment = _time(issued_before) if issued_before is not None else None
    settings = replace(settings, url=url or settings.url or LOCAL_URL)
    done = asyncio.run(_revoke(settings, token_id, subject, moment))
    what = f"token {done.token_id}"
    if done.issued_before_s is not None:
        until = datetime.fromtimestamp(done.issued_before_s, UTC).isoformat(" ", "milliseconds")
        what = f"the tokens of {done.subject} that were issued up to {until}"
    typer.echo(f"revoked: {what}")


async def _revoke(
    settings: Settings, token_id: str | None, subject: str | None, moment: datetime | None
) -> tokens.Revocation:
    async with connected(settings):
        if token_id is not None and token_id.count(".") == 2:
            token_id = tokens.id_of(token_id)
        return await tokens.revoke(token_id=token_id, subject=subject, issued_before=moment)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidValue(
            f"--issued-before is {text!r}; it looks like 2026-11-22T12:56:14Z"
        ) from None


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
