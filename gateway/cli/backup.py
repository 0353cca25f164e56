"""`realtime backup` and `realtime restore`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli._target import StoreOption, load_settings
from gateway.model.store_urls import sqlite_file
from gateway.stores.sqlite import backup as sqlite_backup


def backup(
    file: Annotated[Path, typer.Argument(help="File of the backup.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    store: StoreOption = None,
) -> None:
    """Copy a SQLite store to a file, even while a gateway uses the store."""
    path = sqlite_file(load_settings(store).store)
    with progress_bar(f"Copying {path}") as progress:
        copied = sqlite_backup.backup(path, file, force=force, progress=progress)
    typer.echo(f"{file}: {copied.runs} runs, {copied.bytes / 1e6:.1f} MB, checked")


def restore(
    file: Annotated[Path, typer.Argument(help="File made by `realtime backup`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing store; its data is lost.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Replace a SQLite store by a backup. Stop its gateway first.

    Clients that hold positions of the replaced store receive `reset` and start over.
    """
    path = sqlite_file(load_settings(store).store)
    with progress_bar(f"Copying {file}") as progress:
        copied = sqlite_backup.restore(file, path, force=force, progress=progress)
    typer.echo(f"{path}: {copied.runs} runs, {copied.bytes / 1e6:.1f} MB, checked")


@contextmanager
def progress_bar(label: str) -> Iterator[sqlite_backup.Progress]:
    """Show progress as a bar on a terminal; show nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    with typer.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, of: int) -> None:
            bar.length = max(of, 1)
            bar.update(done - bar.pos)

        yield show
