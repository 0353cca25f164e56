"""The sources that a census can read: their files, and the split of the files into shares.

A source is the standard library, an installed package or this project. Other files are never read,
whatever source id a browser sends.
"""

import heapq
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

MAX_SHARES = 64  # with more shares, bookkeeping costs more than parallel work saves
PROJECT_FOLDERS = ("gateway", "ui", "demo_app")

_ROOT = Path(__file__).resolve().parents[2]
_PRUNED = {"__pycache__", "node_modules", "site-packages", "dist-packages"}
_SOURCE_ID = re.compile(r"stdlib|project|package:[a-z0-9][a-z0-9.-]{0,99}")


class UnknownSource(ValueError):
    """The source id is not listed by `sources`."""

    def __init__(self, source_id: str) -> None:
        """Add the id to the message, cut to 60 characters."""
        shown = source_id if len(source_id) <= 60 else source_id[:60] + "…"
        super().__init__(f"unknown source {shown!r}; sources() lists what can be read")


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """A source as the form shows it; its id is `stdlib`, `project` or `package:<name>`."""

    id: str
    label: str
    file_count: int


@dataclass(frozen=True, slots=True)
class _Source:
    choice: SourceChoice
    root: Path
    files: tuple[Path, ...]


def sources() -> list[SourceChoice]:
    """List the sources: the standard library, the project, each installed package."""
    return [source.choice for source in _catalog().values()]


def resolve(source_id: str) -> list[Path]:
    """Return the `.py` files of a source, sorted by path.

    Raises:
        UnknownSource: `sources` does not list `source_id`.
    """
    return list(_source(source_id).files)


def root_of(source_id: str) -> Path:
    """Return the folder that contains all files of a source; module names are relative to it.

    Raises:
        UnknownSource: `sources` does not list `source_id`.
    """
    return _source(source_id).root


def share(source_id: str, part: int, parts: int) -> list[Path]:
    """Return the files of one share.

    A task's payload has only the number of its share. No path comes from a payload.

    Args:
        source_id: The source; see `sources`.
        part: The number of the share, from 0.
        parts: The number of shares, at most `MAX_SHARES`.

    Raises:
        UnknownSource: `sources` does not list `source_id`.
        ValueError: `part` or `parts` is out of range.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part is {part}; with {parts} parts it must be from 0 to {parts - 1}")
    return split(resolve(source_id), parts)[part]


def _source(source_id: str) -> _Source:
    # Check the pattern first: a hostile id must not reach the file system.
    if not isinstance(source_id, str) or not _SOURCE_ID.fullmatch(source_id):
        raise UnknownSource(str(source_id))
    source = _catalog().get(source_id)
    if source is None:
        raise UnknownSource(source_id)
    return source


@cache
def _catalog() -> dict[str, _Source]:
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    project = [path for name in PROJECT_FOLDERS for path in _walk(_ROOT / name, _ROOT)]
    packages = sorted(_packages(), key=lambda source: source.choice.id)
    listed = [
        _make("stdlib", "Python standard library", stdlib, _walk(stdlib, stdlib)),
        _make("project", "Realtime Streams", _ROOT, project),
        *packages,
    ]
    return {source.choice.id: source for source in listed if source.files}


def _make(source_id: str, label: str, root: Path, files: Iterable[Path]) -> _Source:
    ordered = tuple(sorted(files))
    return _Source(SourceChoice(source_id, label, len(ordered)), root, ordered)


def _packages() -> Iterator[_Source]:
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        source_id = "package:" + re.sub(r"[-_.]+", "-", name).lower()
        if source_id in seen or not _SOURCE_ID.fullmatch(source_id):
            continue
        seen.add(source_id)
        root = Path(str(distribution.locate_file(""))).resolve()
        listed = (root / str(path) for path in distribution.files or () if path.suffix == ".py")
        files = (path for path in listed if is_allowed(path, root))
        yield _make(source_id, f"{name} {distribution.version}", root, files)


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):  # os.walk does not follow links to folders
        folders[:] = [name for name in folders if name not in _PRUNED and name[0] != "."]
        paths = (Path(parent, name) for name in names if name.endswith(".py"))
        yield from (path for path in paths if is_allowed(path, root))


def is_allowed(path: Path, root: Path) -> bool:
    """Return whether the path, after following links, is a `.py` file below the root."""
    real = path.resolve()
    return real.suffix == ".py" and real.is_relative_to(root) and real.is_file()


def split(files: Sequence[Path], parts: int) -> list[list[Path]]:
    """Divide files into shares of about the same size in bytes.

    The result depends only on the arguments and the file sizes. Each share keeps the files' order.

    Returns:
        Exactly `parts` lists. Some are empty if there are fewer files than parts.

    Raises:
        ValueError: `parts` is not between 1 and `MAX_SHARES`.
    """
    if not 1 <= parts <= MAX_SHARES:
        raise ValueError(f"parts is {parts}; it must be from 1 to {MAX_SHARES}")
    sizes = [size_of(path) for path in files]
    heap = [(0, part) for part in range(parts)]
    shares: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(range(len(files)), key=lambda index: -sizes[index]):
        weight, part = heap[0]  # the largest remaining file goes to the lightest share
        shares[part].append(index)
        heapq.heapreplace(heap, (weight + sizes[index], part))
    return [[files[index] for index in sorted(indices)] for indices in shares]


def size_of(path: Path) -> int:
    """Return a file's size in bytes, or 0 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
