"""`realtime types`: TypeScript types of streams."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import typescript
from gateway.cli._http import request
from gateway.cli._output import info
from gateway.cli._target import LOCAL_URL, Target, TokenOption, UrlOption
from gateway.errors import ConfigurationError
from gateway.sdk import stream_registry

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write; default stdout.")
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Write nothing; exit code 1 if the file is out of date."),
]


def types(
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            help="Modules that define streams, such as myapp.streams; default: ask a gateway."
        ),
    ] = None,
    output: OutputOption = None,
    check: CheckOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Write TypeScript types of streams, for `gateway.stream<Streams["progress"]>(…)`.

    With modules, the types of their streams; without, those of a running gateway's streams and of
    its workers' inputs.
    """
    if check and output is None:
        raise ConfigurationError("--check needs a file to compare with: set --output")
    schemas = (
        _schemas_of_modules(modules) if modules else asyncio.run(_schemas_of_gateway(url, token))
    )
    text = typescript.declare(schemas)
    if output is None:
        typer.echo(text, nl=False)
    elif not check:
        output.write_text(text, "utf-8")
        info(f"{output}: {len(schemas)} streams")
    elif not output.exists() or output.read_text("utf-8") != text:
        info(f"{output} is out of date: write it again with `realtime types`")
        raise typer.Exit(1)


def _schemas_of_modules(modules: list[str]) -> dict[str, dict[str, Any]]:
    sys.path.insert(0, os.getcwd())  # like `python -m`
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(f"cannot import module {name!r}: {error}") from None
    return stream_registry.json_schemas()


async def _schemas_of_gateway(url: str | None, token: str | None) -> dict[str, dict[str, Any]]:
    target = Target.from_options(url or os.environ.get("REALTIME_URL") or LOCAL_URL, token, None)
    response = await request(target, "GET", "/v1/schemas", None, "read:runs:*")
    return dict(response.value["streams"])
