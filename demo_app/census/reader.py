"""How a census reads: `read_files` tokenises a share and yields a report every few files."""

import heapq
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from io import BytesIO
from pathlib import Path

from demo_app.census.sources import is_allowed, size_of

MAX_FILE_BYTES = 2 << 20  # a larger file is generated data; it is counted as skipped
REPORT_EVERY = 8  # files; about 0.1 s of work, so that a page moves
TOP = 10  # modules in the table of the largest

_LAYOUT = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


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
    if not is_allowed(path, root.resolve()):
        raise UnreadableFile(module, "not a .py file of this source")
    size_bytes = size_of(path)
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
            report = WorkerReport(worker, module, len(files), totals, largest(modules), problems)
            modules, problems = [], []
            yield report


def _as_totals(stats: FileStats) -> Totals:
    return Totals(1, 0, 0, *astuple(stats)[1:])


def largest(modules: Iterable[FileStats]) -> list[FileStats]:
    """Return the modules with the most lines, as many as the table has rows."""
    return heapq.nsmallest(TOP, modules, key=lambda stats: (-stats.lines, stats.module))
