"""client: the JavaScript client as an npm package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli._output import note
from gateway.errors import ConfigurationError


def client(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder; it is made if it is not there.")
    ],
) -> None:
    """Write the JavaScript client as a folder that npm can install: code, types, package.json.

    Its version is that of this package. A file of another package in the folder is not replaced.
    """
    from gateway.server.api import client_assets as served

    files = served.package()
    manifest = output / "package.json"
    if manifest.exists() and '"realtime-streams-client"' not in manifest.read_text("utf-8"):
        raise ConfigurationError(f"{manifest} is of another package: choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output / name).write_text(text, "utf-8")
    note(f"{output}: {', '.join(files)}")
