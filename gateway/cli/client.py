"""`realtime client`: the JavaScript client as an npm package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli._output import info
from gateway.errors import ConfigurationError


def client(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the package; created if missing.")
    ],
) -> None:
    """Write the JavaScript client as an npm package: code, types and package.json.

    Its version is the version of this Python package. A folder with another package is rejected.
    """
    from gateway.server.api import client_assets as served

    files = served.package()
    manifest = output / "package.json"
    if manifest.exists() and '"realtime-streams-client"' not in manifest.read_text("utf-8"):
        raise ConfigurationError(f"{manifest} belongs to another package: choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output / name).write_text(text, "utf-8")
    info(f"{output}: {', '.join(files)}")
