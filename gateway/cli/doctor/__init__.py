"""`realtime doctor`: check a deployment, and print a remedy for each problem.

local_checks    settings, keys and the store, without a network
network_checks  the gateway, its clock, and the way through a proxy
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.cli._output import JsonOption, emit, escape_control
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.cli.doctor.local_checks import Check, check_configuration, check_store, check_tokens
from gateway.cli.doctor.network_checks import check_clock, check_gateway, check_public
from gateway.errors import ConfigurationError

COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


def doctor(
    public: Annotated[
        str | None,
        typer.Option(help="Address used by browsers, such as wss://app.example; checked too."),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(help="With --public: origin of your pages, such as https://app.example."),
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Check the configuration, the store, the clock, tokens and the connection through a proxy.

    Prints each problem and its remedy; the exit code is 1 if there is any. With a gateway (--url or
    REALTIME_URL) the gateway is checked, otherwise the store. With --public the command creates a
    run, checks that its records are delivered, and deletes it.
    """
    checks = asyncio.run(run_checks(url, token, store, public, origin))
    for check in checks:
        if as_json:
            emit(check._asdict())
            continue
        mark = typer.style(f"{check.verdict:<5}", fg=COLOURS[check.verdict], bold=True)
        typer.echo(f"{mark} {check.subject}: {escape_control(check.what)}")
        if check.advice:
            typer.echo(f"      -> {escape_control(check.advice)}")
    wrong = sum(check.verdict == "wrong" for check in checks)
    if not as_json:
        typer.echo(f"{wrong} wrong" if wrong else "no problems")
    if wrong:
        raise typer.Exit(1)


async def run_checks(
    url: str | None, token: str | None, store: str | None, public: str | None, origin: str | None
) -> list[Check]:
    """Run all checks.

    A check whose prerequisite failed is skipped, so that only the failed prerequisite is reported.
    """
    try:
        target = Target.from_options(url, token, store)
    except ConfigurationError as error:
        return [Check("wrong", "configuration", error.message, "correct the named variable")]
    checks = check_configuration(target.settings)
    checks += check_tokens(target)
    if any(check.verdict == "wrong" for check in checks):
        return checks
    if target.settings.url is None:
        checks += await check_store(target.settings)
    else:
        checks += await check_gateway(target, target.settings.url)
        checks += await check_clock(target)
    if public is not None:
        checks += await check_public(target, public, origin)
    return checks
