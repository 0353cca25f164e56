"""Folders in which Reflex apps run, and the scope of what tests of pages share."""

import os
import shutil
from pathlib import Path

import pytest_asyncio

from tests.support.browser.reflex_process import ROOT

shared = pytest_asyncio.fixture(scope="package", loop_scope="session")


def project(folder: Path) -> Path:
    """Create a folder in which the demo runs. It uses the sources of the repository."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "rxconfig.py", folder)
    shutil.copytree(ROOT / "assets", folder / "assets", ignore=lambda *_: ["external"])
    shutil.copytree(ROOT / "reflex.lock", folder / "reflex.lock")
    return folder


def link_packages(source: Path, folder: Path) -> None:
    """Link the installed packages of the frontend into another folder."""
    packages = Path(".web") / "node_modules"
    (folder / ".web").mkdir()
    shutil.copytree(
        source / packages, folder / packages, symlinks=True, copy_function=_link_or_copy
    )


def _link_or_copy(source: str, target: str, **_: object) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
