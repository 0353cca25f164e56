"""`realtime serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.auth.key_files import resolve_keys
from gateway.cli._target import StoreOption, load_settings


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8400,
    store: StoreOption = None,
    log_level: Annotated[str, typer.Option(help="Level: debug, info, warning or error.")] = "info",
) -> None:
    """Serve a gateway until Ctrl-C."""
    from gateway.server.serve import serve as run_server

    settings = load_settings(store)
    resolve_keys(settings)  # reports an invalid key before the server starts
    run_server(settings, host=host, port=port, log_level=log_level)
