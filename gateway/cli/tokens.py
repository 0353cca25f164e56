"""`realtime token …`: mint one, show what is in one, revoke some."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway import tokens
from gateway.auth.key_files import resolve_keys
from gateway.cli._output import JsonOption, emit, shown
from gateway.cli._target import LOCAL_URL, StoreOption, Target, UrlOption, settings_of
from gateway.cli.token_inspect import Finding, inspect
from gateway.errors import InvalidValue
from gateway.sdk.session import connected
from gateway.settings import Settings


class _MintsByDefault(TyperGroup):
    """`realtime token SCOPE…` mints; any other command has to be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        rest: list[str] = super().parse_args(ctx, args if is_named else ["mint", *args])
        return rest


app = typer.Typer(
    cls=_MintsByDefault,
    help="Mint an access token (`realtime token SCOPE…`), show what is in one, or revoke some.",
    no_args_is_help=True,
)


@app.command()
def mint(
    scopes: Annotated[list[str], typer.Argument(help="For example read:runs:run_1")],
    ttl_s: Annotated[float, typer.Option(help="Life in seconds.")] = tokens.DEFAULT_TTL_S,
    subject: Annotated[str | None, typer.Option(help="Who it is for.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Mint an access token and print it."""
    if subject == "":
        raise InvalidValue("--subject is empty: name whom the token is for, or leave it out")
    keys = resolve_keys(settings_of(store))
    now_s = time.time()
    token = tokens.mint(scopes, ttl_s=ttl_s, subject=subject or "", keys=keys, now_s=now_s)
    if as_json:
        emit({"token": token, "id": tokens.id_of(token)})
    else:
        typer.echo(token)


@app.command()
def show(
    token: Annotated[str, typer.Argument(help="The token; - reads it from standard input.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    store: StoreOption = None,
) -> None:
    """Show what a token says, and whether it is good: exit code 0 only if it is.

    The signature is checked with the keys of this environment, and whether it was revoked at the
    gateway or in the store; what cannot be checked here is said.
    """
    text = sys.stdin.read() if token == "-" else token
    reach = replace(Target.of(url, None, store), token=None)
    finding = asyncio.run(inspect(text.strip(), reach, time.time()))
    if as_json:
        emit(finding.to_json())
    else:
        _print_finding(finding)
    if not finding.is_good:
        raise typer.Exit(1)


def _print_finding(finding: Finding) -> None:
    colour = "green" if finding.is_good else "red"
    typer.echo(f"{typer.style(finding.verdict, fg=colour, bold=True)}: {shown(finding.why)}")
    for name, value in finding.lines():
        typer.echo(f"{typer.style(f'{name:<12}', dim=True)} {shown(value)}")


@app.command()
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
    store: StoreOption = None,
) -> None:
    """Make tokens good no more, at once and for ever, through a gateway that runs."""
    settings = settings_of(store)
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
