"""`realtime copy`: all streams and runs of a store into another, with positions kept."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.cli._output import JsonOption, emit, note
from gateway.cli._target import check_own_store
from gateway.cli.backup import progress_bar
from gateway.errors import ConfigurationError
from gateway.sdk.session import opened
from gateway.stores.factory import open_movable_store
from gateway.stores.migration import CopySummary, Progress, copy_store


def copy(
    source: Annotated[str, typer.Argument(help="sqlite:PATH or redis://…; stop its gateways.")],
    target: Annotated[
        str, typer.Argument(help="Another; empty, or left by a copy of the same that was cut off.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Copy all streams and runs into another store, with their positions, and compare what came.

    Clients go on where they were once their gateway has the new store and the same secret. Stop
    all gateways and workers of the source first: what is appended meanwhile is noticed, and is an
    error. A copy that was interrupted goes on where it was when the command is given again.
    """
    if source == target:
        raise ConfigurationError("the source and the target are the same store")
    check_own_store(source)
    check_own_store(target, make=True)
    with progress_bar("Copying") as progress:  # a URL may have a password in it
        moved = asyncio.run(_copy(source, target, progress))
    if as_json:
        emit(moved._asdict())
        return
    typer.echo(
        f"{moved.runs} runs, {moved.streams} streams, {moved.records} records: copied and compared"
    )
    note("give the gateways of the new store the same REALTIME_SECRET_KEY; it was not copied")


async def _copy(source: str, target: str, progress: Progress) -> CopySummary:
    async with opened(open_movable_store(source)) as one, opened(open_movable_store(target)) as two:
        return await copy_store(one, two, progress)
