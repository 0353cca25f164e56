"""`realtime backup` and `realtime restore`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli._target import StoreOption, settings_of
from gateway.model.store_urls import sqlite_file
from gateway.stores.sqlite import backup as sqlite_backup


def backup(
    file: Annotated[Path, typer.Argument(help="The copy.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    store: StoreOption = None,
) -> None:
    """Copy a SQLite store, also while a gateway uses it."""
    path = sqlite_file(settings_of(store).store)
    with progress_bar(f"Copying {path}") as progress:
        copied = sqlite_backup.backup(path, file, force=force, progress=progress)
    typer.echo(f"{file}: {copied.runs} runs, {copied.bytes / 1e6:.1f} MB, checked")


def restore(
    file: Annotated[Path, typer.Argument(help="Made by `realtime backup`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a store that is there: what it holds is lost.")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Put a copy back in the place of a SQLite store; stop its gateway first.

    Clients who hold positions of the lost store are told to start over.
    """
    path = sqlite_file(settings_of(store).store)
    with progress_bar(f"Copying {file}") as progress:
        copied = sqlite_backup.restore(file, path, force=force, progress=progress)
    typer.echo(f"{path}: {copied.runs} runs, {copied.bytes / 1e6:.1f} MB, checked")


@contextmanager
def progress_bar(label: str) -> Iterator[sqlite_backup.Progress]:
    """Show how far something is, as a bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    with typer.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, of: int) -> None:
            bar.length = max(of, 1)
            bar.update(done - bar.pos)

        yield show
