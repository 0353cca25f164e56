"""Optional dependencies: the error of a failed import names the extra to install.

with needs("celery"):
from celery import Celery
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from gateway.errors import MissingExtra

_OURS = ("gateway", "ui", "demo_app")


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import the packages of an extra in this block.

    Args:
        extra: Its name in `pyproject.toml`.

    Raises:
        MissingExtra: a package of the extra, or one that such a package imports, is not installed.
    """
    try:
        yield
    except MissingExtra:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        raise _missing(extra, package) from None


def require(extra: str, *packages: str) -> None:
    """Check that packages of an extra are installed, without importing them.

    Args:
        extra: Its name in `pyproject.toml`.
        packages: Their names in Python.

    Raises:
        MissingExtra: a package is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise _missing(extra, package)


def _missing(extra: str, package: str) -> MissingExtra:
    return MissingExtra(
        f"the package {package} is not installed; the extra {extra!r} brings it: "
        f'pip install "realtime-streams[{extra}]"'
    )
