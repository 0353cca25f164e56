"""types: TypeScript types of streams."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import typescript
from gateway.cli._http import ask
from gateway.cli._output import note
from gateway.cli._target import LOCAL_URL, Target, TokenOption, UrlOption
from gateway.errors import ConfigurationError
from gateway.sdk import stream_registry

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file to write; default: stdout.")
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Write nothing; exit code 1 if the file is not up to date."),
]


def types(
    modules: Annotated[
        list[str] | None,
        typer.Argument(help="Modules that define streams, myapp.streams; default: ask a gateway."),
    ] = None,
    output: OutputOption = None,
    check: CheckOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Write TypeScript types of streams, for `gateway.stream<Streams["progress"]>(…)`.

    Of the streams that modules define, or of those that a running gateway defines and the inputs
    of its workers.
    """
    if check and output is None:
        raise ConfigurationError("--check compares with a file: name it with --output")
    schemas = _defined_in(modules) if modules else asyncio.run(_known_at(url, token))
    text = typescript.declare(schemas)
    if output is None:
        typer.echo(text, nl=False)
    elif not check:
        output.write_text(text, "utf-8")
        note(f"{output}: {len(schemas)} streams")
    elif not output.exists() or output.read_text("utf-8") != text:
        note(f"{output} is not up to date: write it anew with `realtime types`")
        raise typer.Exit(1)


def _defined_in(modules: list[str]) -> dict[str, dict[str, Any]]:
    sys.path.insert(0, os.getcwd())  # as `python -m` has it
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(f"module {name!r} cannot be imported: {error}") from None
    return stream_registry.json_schemas()


async def _known_at(url: str | None, token: str | None) -> dict[str, dict[str, Any]]:
    reach = Target.of(url or os.environ.get("REALTIME_URL") or LOCAL_URL, token, None)
    answer = await ask(reach, "GET", "/v1/schemas", None, "read:runs:*")
    return dict(answer.value["streams"])
