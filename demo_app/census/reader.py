"""Read and tokenise the files of one share; `read_files` yields a report every few files."""

import heapq
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from io import BytesIO
from pathlib import Path

from demo_app.census.sources import is_allowed, size_of

MAX_FILE_BYTES = 2 << 20  # larger files are generated data and are skipped
REPORT_EVERY = 8  # files; about 0.1 s of work, so that the page updates often
TOP = 10  # rows of the table of largest modules

_LAYOUT = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


class UnreadableFile(ValueError):
    """A file that could not be counted.

    Attributes:
        module: Its module name.
        reason: Why it could not be counted.
    """

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"{module}: {reason}")
        self.module = module
        self.reason = reason


class FileTooLarge(UnreadableFile):
    """The file is larger than `MAX_FILE_BYTES`. It counts as skipped, not as failed."""


@dataclass(frozen=True, slots=True)
class FileStats:
    """The counts of one file. Docstrings count as comment lines."""

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
    """Sums over files. `files` includes skipped and failed files."""

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
    """A worker's report to its parent, sent every few files.

    `totals` is the worker's sum since its start, so that a repeated report changes nothing.
    `modules` and `problems` are new since the last report; the largest modules are first.
    """

    worker: str
    module: str
    files_total: int
    totals: Totals
    modules: list[FileStats] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_file(path: Path, root: Path) -> FileStats:
    """Tokenise one file and count its lines and definitions.

    Args:
        path: A `.py` file below `root`.
        root: The folder that the module's name is relative to.

    Raises:
        FileTooLarge: The file is larger than `MAX_FILE_BYTES`.
        UnreadableFile: It is not below `root`, cannot be opened, or is not Python.
    """
    module = module_name(path, root)
    if not is_allowed(path, root.resolve()):
        raise UnreadableFile(module, "not a .py file of this source")
    size_bytes = size_of(path)
    if size_bytes > MAX_FILE_BYTES:
        raise FileTooLarge(module, f"{size_bytes:_} bytes; the limit is {MAX_FILE_BYTES:_}")
    try:
        # From memory: given a file, tokenize puts its path into error messages.
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
    """Return the dotted name of a file below the root, or the file's name if it is outside."""
    if not path.is_relative_to(root):
        return path.name
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _count(data: bytes, module: str) -> FileStats:
    tokens = functions = classes = 0
    code: set[int] = set()
    comments: set[int] = set()
    statement: set[int] = set()  # line numbers of the current statement
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
    """Tokenise files one after the other, and yield a report every few files.

    The work blocks. In an event loop, iterate in a thread.

    Args:
        files: The worker's share; see `sources.share`.
        root: The source's root; see `sources.root_of`.
        worker: The worker's name in reports.
        every: Files between two reports. The last file always makes a report.
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
            report = WorkerReport(worker, module, len(files), totals, largest(modules), problems)
            modules, problems = [], []
            yield report


def _as_totals(stats: FileStats) -> Totals:
    return Totals(1, 0, 0, *astuple(stats)[1:])


def largest(modules: Iterable[FileStats]) -> list[FileStats]:
    """Return the `TOP` modules with the most lines, in descending order."""
    return heapq.nsmallest(TOP, modules, key=lambda stats: (-stats.lines, stats.module))
