"""`realtime doctor`: what is wrong with a deployment, and what to do about it, in plain words.

local_checks    settings, keys, the store
network_checks  a gateway, its clock, the way to it
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.cli._output import JsonOption, emit, shown
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.cli.doctor.local_checks import Check, check_configuration, check_store, check_tokens
from gateway.cli.doctor.network_checks import check_clock, check_gateway, check_public
from gateway.errors import ConfigurationError

COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


def doctor(
    public: Annotated[
        str | None,
        typer.Option(help="The address that browsers use, wss://app.example: it is tried too."),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(help="With --public: the origin of your pages, https://app.example."),
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Check the configuration, the store, the clock, tokens and the way through a proxy.

    Says what is wrong and what to do; exit code 1 if anything is. With a gateway (--url or
    REALTIME_URL) that is asked, otherwise the store is opened. For --public a run is made and
    deleted again, to see records come through.
    """
    checks = asyncio.run(examine(url, token, store, public, origin))
    for check in checks:
        if as_json:
            emit(check._asdict())
            continue
        mark = typer.style(f"{check.verdict:<5}", fg=COLOURS[check.verdict], bold=True)
        typer.echo(f"{mark} {check.subject}: {shown(check.what)}")
        if check.advice:
            typer.echo(f"      -> {shown(check.advice)}")
    wrong = sum(check.verdict == "wrong" for check in checks)
    if not as_json:
        typer.echo(f"{wrong} wrong" if wrong else "nothing is wrong")
    if wrong:
        raise typer.Exit(1)


async def examine(
    url: str | None, token: str | None, store: str | None, public: str | None, origin: str | None
) -> list[Check]:
    """Do all checks that can be done; what one of them needs and is wrong is said by it alone."""
    try:
        reach = Target.of(url, token, store)
    except ConfigurationError as error:
        return [Check("wrong", "configuration", error.message, "mend the variable that it names")]
    checks = check_configuration(reach.settings)
    tokens_are_good = check_tokens(reach)
    checks += tokens_are_good
    if any(check.verdict == "wrong" for check in checks):
        return checks
    if reach.settings.url is None:
        checks += await check_store(reach.settings)
    else:
        checks += await check_gateway(reach, reach.settings.url)
        checks += await check_clock(reach)
    if public is not None:
        checks += await check_public(reach, public, origin)
    return checks
