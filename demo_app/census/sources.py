"""What a census may read: which sources there are, their files, and each worker's share of them.

Nothing outside the standard library, the installed packages and the project is ever read, whatever
is sent.
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

MAX_SHARES = 64  # more shares than this cost more in bookkeeping than they win
PROJECT_FOLDERS = ("gateway", "ui", "demo_app")

_ROOT = Path(__file__).resolve().parents[2]
_PRUNED = {"__pycache__", "node_modules", "site-packages", "dist-packages"}
_SOURCE_ID = re.compile(r"stdlib|project|package:[a-z0-9][a-z0-9.-]{0,99}")


class UnknownSource(ValueError):
    """The visitor asked for something that `sources` does not list."""

    def __init__(self, source_id: str) -> None:
        """Name what was asked for, cut to a length that fits a message."""
        shown = source_id if len(source_id) <= 60 else source_id[:60] + "…"
        super().__init__(f"unknown source {shown!r}; sources() lists what can be read")


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """One thing a visitor may pick: `stdlib`, `project` or `package:<name>`."""

    id: str
    label: str
    file_count: int


@dataclass(frozen=True, slots=True)
class _Source:
    choice: SourceChoice
    root: Path
    files: tuple[Path, ...]


def sources() -> list[SourceChoice]:
    """List what a visitor may pick: the standard library, the project, each installed package."""
    return [source.choice for source in _catalog().values()]


def resolve(source_id: str) -> list[Path]:
    """Return the `.py` files of a source, in the order of their paths.

    Raises:
        UnknownSource: `sources` does not list `source_id`.
    """
    return list(_source(source_id).files)


def root_of(source_id: str) -> Path:
    """Return the folder below which all files of a source lie; module names start there.

    Raises:
        UnknownSource: `sources` does not list `source_id`.
    """
    return _source(source_id).root


def share(source_id: str, part: int, parts: int) -> list[Path]:
    """Return one worker's files, so that a task is sent a number and never a path.

    Args:
        source_id: What to read; see `sources`.
        part: Which share, from 0.
        parts: How many shares there are, at most `MAX_SHARES`.

    Raises:
        UnknownSource: `sources` does not list `source_id`.
        ValueError: `part` or `parts` is out of range.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part is {part}; with {parts} parts it goes from 0 to {parts - 1}")
    return split(resolve(source_id), parts)[part]


def _source(source_id: str) -> _Source:
    # The pattern comes first: a hostile id is refused before anything looks at a disk.
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
    for parent, folders, names in os.walk(folder):  # does not enter linked folders
        folders[:] = [name for name in folders if name not in _PRUNED and name[0] != "."]
        paths = (Path(parent, name) for name in names if name.endswith(".py"))
        yield from (path for path in paths if is_allowed(path, root))


def is_allowed(path: Path, root: Path) -> bool:
    """Say whether the path, with all links followed, is a `.py` file below the root."""
    real = path.resolve()
    return real.suffix == ".py" and real.is_relative_to(root) and real.is_file()


def split(files: Sequence[Path], parts: int) -> list[list[Path]]:
    """Share the files out so that all shares weigh about the same in bytes.

    The result depends only on the arguments and the sizes; each share keeps the files' order.

    Returns:
        Exactly `parts` lists; some are empty where there are fewer files than parts.

    Raises:
        ValueError: `parts` is not between 1 and `MAX_SHARES`.
    """
    if not 1 <= parts <= MAX_SHARES:
        raise ValueError(f"parts is {parts}; it goes from 1 to {MAX_SHARES}")
    sizes = [size_of(path) for path in files]
    heap = [(0, part) for part in range(parts)]
    shares: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(range(len(files)), key=lambda index: -sizes[index]):
        weight, part = heap[0]  # the lightest share takes the heaviest file that is left
        shares[part].append(index)
        heapq.heapreplace(heap, (weight + sizes[index], part))
    return [[files[index] for index in sorted(indices)] for indices in shares]


def size_of(path: Path) -> int:
    """Return a file's bytes; 0 if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
