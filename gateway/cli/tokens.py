"""`realtime token …`: mint, show and revoke access tokens."""

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
from gateway.cli._output import JsonOption, emit, escape_control
from gateway.cli._target import LOCAL_URL, StoreOption, Target, UrlOption, load_settings
from gateway.cli.token_inspect import Finding, inspect
from gateway.errors import InvalidValue
from gateway.sdk.session import connect_with
from gateway.settings import Settings


class _MintByDefault(TyperGroup):
    """`realtime token SCOPE…` is `realtime token mint SCOPE…`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        rest: list[str] = super().parse_args(ctx, args if is_named else ["mint", *args])
        return rest


app = typer.Typer(
    cls=_MintByDefault,
    help="Mint an access token (`realtime token SCOPE…`), show one, or revoke tokens.",
    no_args_is_help=True,
)


@app.command()
def mint(
    scopes: Annotated[list[str], typer.Argument(help="Scopes, such as read:runs:run_1.")],
    ttl_s: Annotated[float, typer.Option(help="Lifetime in seconds.")] = tokens.DEFAULT_TTL_S,
    subject: Annotated[str | None, typer.Option(help="Subject of the token.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Mint an access token and print it."""
    if subject == "":
        raise InvalidValue("--subject is empty: set a subject, or omit the option")
    keys = resolve_keys(load_settings(store))
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
    """Show the claims of a token and whether it is valid; exit code 0 only if it is.

    The signature is checked with the keys of this environment, and revocations at the gateway or in
    the store. The output names each check that is not possible.
    """
    text = sys.stdin.read() if token == "-" else token
    target = replace(Target.from_options(url, None, store), token=None)
    finding = asyncio.run(inspect(text.strip(), target, time.time()))
    if as_json:
        emit(finding.to_json())
    else:
        _print_finding(finding)
    if not finding.is_valid:
        raise typer.Exit(1)


def _print_finding(finding: Finding) -> None:
    colour = "green" if finding.is_valid else "red"
    typer.echo(
        f"{typer.style(finding.verdict, fg=colour, bold=True)}: {escape_control(finding.reason)}"
    )
    for name, value in finding.lines():
        typer.echo(f"{typer.style(f'{name:<12}', dim=True)} {escape_control(value)}")


@app.command()
def revoke(
    token_id: Annotated[str | None, typer.Argument(help="A token, or its `jti`.")] = None,
    subject: Annotated[str | None, typer.Option(help="All tokens of this subject.")] = None,
    issued_before: Annotated[
        str | None,
        typer.Option(
            help="With --subject: only tokens issued up to this time, 2026-11-22T12:56:14Z."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help=f"Address of a running gateway; default REALTIME_URL or {LOCAL_URL}."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Revoke tokens immediately and permanently, through a running gateway."""
    settings = load_settings(store)
    moment = _parse_time(issued_before) if issued_before is not None else None
    settings = replace(settings, url=url or settings.url or LOCAL_URL)
    revocation = asyncio.run(_revoke(settings, token_id, subject, moment))
    revoked = f"token {revocation.token_id}"
    if revocation.issued_before_s is not None:
        until = datetime.fromtimestamp(revocation.issued_before_s, UTC)
        time_text = until.isoformat(" ", "milliseconds")
        revoked = f"the tokens of {revocation.subject} issued up to {time_text}"
    typer.echo(f"revoked: {revoked}")


async def _revoke(
    settings: Settings, token_id: str | None, subject: str | None, moment: datetime | None
) -> tokens.Revocation:
    async with connect_with(settings):
        if token_id is not None and token_id.count(".") == 2:
            token_id = tokens.id_of(token_id)
        return await tokens.revoke(token_id=token_id, subject=subject, issued_before=moment)


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidValue(
            f"--issued-before is {text!r}; the form is 2026-11-22T12:56:14Z"
        ) from None
