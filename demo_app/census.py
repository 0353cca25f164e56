"""Count the code in a set of Python files: what may be read, how it is read, how findings add up.

Three steps, none of which knows about tasks or streams:

- `sources` lists what a visitor may pick and `resolve` turns a pick into files. Nothing outside
  the standard library, the installed packages and the project is ever read, whatever is sent.
- `split` makes shares of equal weight; `read_files` tokenises one share and yields a
  `WorkerReport` every few files.
- `Census` folds the reports of all workers into `CensusProgress`, the one record a page needs.
"""

import heapq
import os
import re
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import cache
from importlib import metadata
from io import BytesIO
from pathlib import Path

MAX_FILE_BYTES = 2 << 20  # a larger file is generated data; it is counted as skipped
MAX_SHARES = 64  # more shares than this cost more in bookkeeping than they win
REPORT_EVERY = 8  # files; about 0.1 s of work, so that a page moves
TOP = 10  # modules in the table of the largest
PROJECT_FOLDERS = ("gateway", "ui", "demo_app")

_ROOT = Path(__file__).resolve().parent.parent
_PRUNED = {"__pycache__", "node_modules", "site-packages", "dist-packages"}
_SOURCE_ID = re.compile(r"stdlib|project|package:[a-z0-9][a-z0-9.-]{0,99}")
_LAYOUT = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


class UnknownSource(ValueError):
    """The visitor asked for something that `sources` does not list."""

    def __init__(self, source_id: str) -> None:
        """Name what was asked for, cut to a length that fits a message."""
        shown = source_id if len(source_id) <= 60 else source_id[:60] + "…"
        super().__init__(f"unknown source {shown!r}; sources() lists what can be read")


class UnreadableFile(ValueError):
    """A file that could not be counted; `module` names it, `reason` says why."""

    def __init__(self, module: str, reason: str) -> None:
        """Keep both parts for whoever reports it."""
        super().__init__(f"{module}: {reason}")
        self.module = module
        self.reason = reason


class FileTooLarge(UnreadableFile):
    """The file is over `MAX_FILE_BYTES`; it is skipped, which is no failure."""


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """One thing a visitor may pick: `stdlib`, `project` or `package:<name>`."""

    id: str
    label: str
    file_count: int


@dataclass(frozen=True, slots=True)
class FileStats:
    """What was counted in one file; docstrings count as comment lines."""

    module: str
    lines: int
    code_lines: int
    comment_lines: int
    tokens: int
    functions: int
    classes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over files; `files` counts every file dealt with, also the skipped and the failed."""

    files: int = 0
    skipped: int = 0
    failed: int = 0
    lines: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    tokens: int = 0
    functions: int = 0
    classes: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        """Add field by field."""
        return Totals(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What one worker tells the parent every few files.

    `totals` is the worker's sum since its start, so that a report delivered twice changes nothing.
    `modules` and `problems` are new since its last report, the largest modules first.
    """

    worker: str
    module: str
    files_total: int
    totals: Totals
    modules: list[FileStats] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker's line in the overview."""

    worker: str
    module: str
    files_done: int
    files_total: int
    percent: int


@dataclass(frozen=True, slots=True)
class CensusProgress:
    """All that a page shows, in one record: bar, throughput, workers, table of the largest."""

    files_done: int
    files_total: int
    percent: int
    elapsed_s: float
    files_per_s: float
    lines_per_s: int
    module: str
    totals: Totals
    largest: list[FileStats]
    workers: list[WorkerRow]
    problems: list[str]


# What may be read.


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
        files = (path for path in listed if _allowed(path, root))
        yield _make(source_id, f"{name} {distribution.version}", root, files)


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):  # does not enter linked folders
        folders[:] = [name for name in folders if name not in _PRUNED and name[0] != "."]
        paths = (Path(parent, name) for name in names if name.endswith(".py"))
        yield from (path for path in paths if _allowed(path, root))


def _allowed(path: Path, root: Path) -> bool:
    """Say whether the path, with all links followed, is a `.py` file below the root."""
    real = path.resolve()
    return real.suffix == ".py" and real.is_relative_to(root) and real.is_file()


# How it is read.


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
    sizes = [_size_bytes(path) for path in files]
    heap = [(0, part) for part in range(parts)]
    shares: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(range(len(files)), key=lambda index: -sizes[index]):
        weight, part = heap[0]  # the lightest share takes the heaviest file that is left
        shares[part].append(index)
        heapq.heapreplace(heap, (weight + sizes[index], part))
    return [[files[index] for index in sorted(indices)] for indices in shares]


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_file(path: Path, root: Path) -> FileStats:
    """Tokenise one file and count it.

    Args:
        path: A `.py` file below `root`.
        root: The folder from which the module's name is taken.

    Raises:
        FileTooLarge: The file is over `MAX_FILE_BYTES`.
        UnreadableFile: It is not below `root`, cannot be opened, or is not Python.
    """
    module = module_name(path, root)
    if not _allowed(path, root.resolve()):
        raise UnreadableFile(module, "not a .py file of this source")
    size_bytes = _size_bytes(path)
    if size_bytes > MAX_FILE_BYTES:
        raise FileTooLarge(module, f"{size_bytes:_} bytes; the limit is {MAX_FILE_BYTES:_}")
    try:
        # From memory and not from the file: tokenize puts a file's path into its messages.
        return _count(path.read_bytes(), module)
    except tokenize.TokenError as error:
        raise UnreadableFile(module, str(error.args[0])) from error
    except SyntaxError as error:
        raise UnreadableFile(module, error.msg) from error
    except UnicodeError as error:
        raise UnreadableFile(module, "its bytes do not match its encoding") from error
    except OSError as error:
        raise UnreadableFile(module, error.strerror or "cannot be opened") from error


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a file below the root, else the file's bare name."""
    if not path.is_relative_to(root):
        return path.name
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _count(data: bytes, module: str) -> FileStats:
    tokens = functions = classes = 0
    code: set[int] = set()
    comments: set[int] = set()
    statement: set[int] = set()  # the lines of the statement being read
    only_strings = True
    for kind, text, (row, _), (end_row, _), _ in tokenize.tokenize(BytesIO(data).readline):
        tokens += 1
        if kind in _LAYOUT:
            continue
        if kind == tokenize.NEWLINE:
            (comments if only_strings else code).update(statement)
            statement, only_strings = set(), True
        elif kind == tokenize.COMMENT:
            comments.add(row)
        elif kind == tokenize.ERRORTOKEN:
            raise SyntaxError(f"line {row}: unexpected {text[:20]!r}")
        else:
            statement.update(range(row, end_row + 1))
            only_strings = only_strings and kind == tokenize.STRING
            functions += kind == tokenize.NAME and text == "def"
            classes += kind == tokenize.NAME and text == "class"
    comments -= code  # a line with both is a line of code
    lines = len(data.splitlines())
    counts = (lines, len(code), len(comments), tokens, functions, classes)
    return FileStats(module, *counts, len(data))


def read_files(
    files: Sequence[Path], root: Path, worker: str, *, every: int = REPORT_EVERY
) -> Iterator[WorkerReport]:
    """Tokenise the files one after the other and report every few of them.

    This is plain blocking work: step it from a thread where an event loop must stay free.

    Args:
        files: The worker's share; see `share`.
        root: See `root_of`.
        worker: The name under which the worker appears.
        every: Files between two reports; the last report comes with the last file.
    """
    totals = Totals()
    modules: list[FileStats] = []
    problems: list[str] = []
    for done, path in enumerate(files, 1):
        try:
            stats = read_file(path, root)
        except FileTooLarge:
            totals += Totals(files=1, skipped=1)
        except UnreadableFile as error:
            totals += Totals(files=1, failed=1)
            problems.append(str(error))
        else:
            totals += _as_totals(stats)
            modules.append(stats)
        if done % every == 0 or done == len(files):
            module = module_name(path, root)
            report = WorkerReport(worker, module, len(files), totals, _largest(modules), problems)
            modules, problems = [], []
            yield report


def _as_totals(stats: FileStats) -> Totals:
    return Totals(1, 0, 0, *astuple(stats)[1:])


def _largest(modules: Iterable[FileStats]) -> list[FileStats]:
    return heapq.nsmallest(TOP, modules, key=lambda stats: (-stats.lines, stats.module))


# How findings add up.


class Census:
    """Fold the reports of all workers, in whatever order they arrive, into one record."""

    def __init__(self, files_total: int) -> None:
        """Start at nothing.

        Args:
            files_total: Files in all shares together.
        """
        self._files_total = files_total
        self._reports: dict[str, WorkerReport] = {}
        self._largest: dict[str, FileStats] = {}
        self._problems: dict[str, None] = {}  # a set that keeps its order
        self._module = ""

    def add(self, report: WorkerReport, elapsed_s: float) -> CensusProgress:
        """Take one report and return where the census stands.

        A report delivered again, or one of a worker that starts over, never counts twice.
        """
        known = self._reports.get(report.worker)
        if known is None or report.totals.files > known.totals.files:
            self._reports[report.worker] = report
            self._module = report.module
        rows = self._largest | {stats.module: stats for stats in report.modules}
        self._largest = {stats.module: stats for stats in _largest(rows.values())}
        problems = self._problems | dict.fromkeys(report.problems)
        self._problems = dict.fromkeys(list(problems)[:TOP])
        return self.progress(elapsed_s)

    def progress(self, elapsed_s: float) -> CensusProgress:
        """Return where the census stands; also right before the first report.

        Args:
            elapsed_s: Seconds since the census began.
        """
        totals = sum((report.totals for report in self._reports.values()), Totals())
        seconds = max(elapsed_s, 0.001)
        return CensusProgress(
            files_done=totals.files,
            files_total=self._files_total,
            percent=_percent(totals.files, self._files_total),
            elapsed_s=round(elapsed_s, 1),
            files_per_s=round(totals.files / seconds, 1),
            lines_per_s=round(totals.lines / seconds),
            module=self._module,
            totals=totals,
            largest=list(self._largest.values()),
            workers=[_row(self._reports[worker]) for worker in sorted(self._reports, key=_natural)],
            problems=list(self._problems),
        )


def _row(report: WorkerReport) -> WorkerRow:
    done, total = report.totals.files, report.files_total
    return WorkerRow(report.worker, report.module, done, total, _percent(done, total))


def _natural(worker: str) -> tuple[int, str]:
    return len(worker), worker  # "worker 2" comes before "worker 10"


def _percent(done: int, total: int) -> int:
    """Round down, so that 100 means all; an empty census is done at once."""
    return min(100, done * 100 // total) if total else 100
