"""`realtime copy`: migrate all streams and runs to another store, with their positions."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.cli._output import JsonOption, emit, info
from gateway.cli._target import check_store_available
from gateway.cli.backup import progress_bar
from gateway.errors import ConfigurationError
from gateway.sdk.session import opened
from gateway.stores.factory import open_movable_store
from gateway.stores.migration import CopySummary, Progress, copy_store


def copy(
    source: Annotated[
        str, typer.Argument(help="sqlite:PATH or redis://…; stop its gateways first.")
    ],
    target: Annotated[
        str, typer.Argument(help="Empty store, or one with an interrupted copy of the same source.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Copy all streams and runs to another store, with their positions, and compare the result.

    Clients resume at their positions once their gateway has the new store and the same secret. Stop
    all gateways and workers of the source first: an append during the copy is detected and fails
    the command. To continue an interrupted copy, execute the same command again.
    """
    if source == target:
        raise ConfigurationError("the source and the target are the same store")
    check_store_available(source)
    check_store_available(target, create=True)
    with progress_bar("Copying") as progress:  # no URL: it may contain a password
        moved = asyncio.run(_copy(source, target, progress))
    if as_json:
        emit(moved._asdict())
        return
    typer.echo(
        f"{moved.runs} runs, {moved.streams} streams, {moved.records} records: copied and compared"
    )
    info("set the same REALTIME_SECRET_KEY for the gateways of the new store; it was not copied")


async def _copy(source: str, target: str, progress: Progress) -> CopySummary:
    async with (
        opened(open_movable_store(source)) as from_,
        opened(open_movable_store(target)) as to,
    ):
        return await copy_store(from_, to, progress)
