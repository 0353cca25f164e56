"""Search and read the sources of the running Python's standard library: two tools for a model.

`search` ranks definitions by the words of a question; `read` shows the lines of a module. `TOOLS`
describes both for function calling, and `call_tool` validates what a model sends and runs it.

The index is built from the syntax trees on first use (a few seconds) and kept; no module is
imported for it except a few that are written in C, which have no source to parse and whose
docstrings are taken instead.
"""

import ast
import importlib
import math
import os
import re
import sys
import sysconfig
import threading
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_HITS = 20
MAX_QUERY_CHARS = 300
MAX_LINES = 200  # of one excerpt; about 8 KB, 2,000 of a model's tokens
MIN_COVERAGE = 0.45  # a hit explains this share of the question, or it is no hit
MIN_SCORE = 6.0  # below it the hits for questions of which the library knows nothing
MAX_RARITY = 6.0  # else a word that occurs once drowns the words that matter

_EXCLUDED_NAMES = """antigravity distutils encodings ensurepip idlelib lib2to3 pydoc_data _pyio test
    tests this turtledemo __phello__"""
_WELL_KNOWN_NAMES = """abc argparse array ast asyncio base64 bisect builtins calendar collections
    concurrent.futures configparser contextlib copy csv dataclasses datetime decimal difflib enum
    fnmatch fractions functools getpass glob graphlib gzip hashlib heapq hmac html inspect io
    ipaddress itertools json logging math multiprocessing operator os os.path pathlib pickle
    platform pprint queue random re secrets shelve shlex shutil signal socket sqlite3 statistics
    string struct subprocess sys tarfile tempfile textwrap threading time timeit tomllib traceback
    types typing unittest urllib.parse urllib.request uuid venv warnings weakref zipfile zlib
    zoneinfo"""
_USEFUL_PACKAGE_NAMES = "asyncio concurrent http json logging multiprocessing sqlite3 urllib"
_UNLIKELY_PACKAGE_NAMES = """asynchat asyncore crypt imp importlib ntpath nturl2path optparse pdb
    pydoc tkinter turtle unittest xmlrpc"""
_STOP_WORDS = """a about all an and anything are as at be between by can class could difference do
    does each every everything explain for from function get has have how i if in into is it its
    library me method module my need of on or please python s several should show so some something
    standard stdlib tell that the their there this to use used using want way what when where which
    why with without work works you your"""
_SAME_MEANING = """directory dir folder
    argument arg argv option
    large largest big biggest greatest nlargest maximum max
    small smallest least nsmallest minimum min
    temporary temp tmp
    item element entry
    remove delete unlink rmtree erase
    run execute spawn launch
    create make mk
    concurrent parallel
    configuration config
    cache memoize lru
    url uri
    parse parser
    command cmd
    encode serialize dump
    compress zip
    average mean
    wait sleep pause
    string str text
    integer int
    dictionary dict mapping
    format fmt
    id identifier
    secret password token
    pattern regular expression regex regexp re
    asynchronous async asyncio"""

_EXCLUDED = frozenset(_EXCLUDED_NAMES.split())
_WELL_KNOWN = frozenset(_WELL_KNOWN_NAMES.split())
_USEFUL_PACKAGES = frozenset(_USEFUL_PACKAGE_NAMES.split())
_UNLIKELY_PACKAGES = frozenset(_UNLIKELY_PACKAGE_NAMES.split())
_STOP = frozenset(_STOP_WORDS.split())
_C_MODULES = ("builtins", "itertools", "math", "time")  # have no .py file, but public names
_C_HELPERS = ("_collections", "_csv", "_functools", "_io", "_operator", "_thread", "_weakref")


class ToolError(ValueError):
    """A tool call that cannot be done; the message tells the caller what to send instead."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One definition that matches a search.

    `line` is 0 where the thing is written in C and there are no lines to read.
    """

    module: str
    name: str
    kind: str
    line: int
    end_line: int
    signature: str
    summary: str
    score: float


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines of a module, from `start_line` to `end_line`, both included and counted from 1."""

    module: str
    start_line: int
    end_line: int
    total_lines: int
    text: str


class SearchInput(BaseModel):
    """What a model sends to `search`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY_CHARS,
        description="Words of the question, or a name such as functools.lru_cache.",
    )
    limit: int = Field(8, ge=1, le=MAX_HITS, description="How many hits to return.")


class ReadInput(BaseModel):
    """What a model sends to `read`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    module: str = Field(
        min_length=1, max_length=100, description="A module's dotted name, as in a hit: heapq."
    )
    start_line: int = Field(1, ge=1, description="The first line to show, from 1.")
    max_lines: int = Field(80, ge=1, le=MAX_LINES, description="How many lines to show at most.")


def _tool(name: str, description: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    parameters = {key: schema[key] for key in ("type", "properties", "required")}
    parameters["additionalProperties"] = False
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS: list[dict[str, Any]] = [
    _tool(
        "search",
        "Search the definitions of Python's standard library. Returns the best hits with module, "
        "line, signature and the first line of the docstring.",
        SearchInput,
    ),
    _tool(
        "read",
        "Read lines of the source of a module of Python's standard library.",
        ReadInput,
    ),
]


def call_tool(name: str, arguments: dict[str, Any]) -> Any:
    """Validate a model's tool call, run it and return JSON-ready values.

    Args:
        name: `search` or `read`.
        arguments: As `TOOLS` describes them.

    Returns:
        A list of hits or one excerpt, as plain dicts.

    Raises:
        ToolError: The tool is unknown, an argument is wrong, or there is no such module or line.
    """
    try:
        if name == "search":
            wanted = SearchInput.model_validate(arguments)
            return [asdict(hit) for hit in search(wanted.query, wanted.limit)]
        if name == "read":
            place = ReadInput.model_validate(arguments)
            return asdict(read(place.module, place.start_line, place.max_lines))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join([name, *map(str, first["loc"])])
        raise ToolError(f"{where}: {first['msg']}") from error
    raise ToolError(f"unknown tool {name[:40]!r}; there are search and read")


def search(query: str, limit: int = 8) -> list[Hit]:
    """Return the definitions that match the words of the query, the best first.

    The first call builds the index and takes a few seconds; call it from a thread where an event
    loop must stay free.

    Args:
        query: A question or some words; at most `MAX_QUERY_CHARS` characters are looked at.
        limit: How many hits to return at most.

    Returns:
        Hits of which each explains a good part of the query; none where nothing does.
    """
    return _index().search(query[:MAX_QUERY_CHARS], limit)


def read(module: str, start_line: int = 1, max_lines: int = 80) -> Excerpt:
    """Return lines of a module of the standard library.

    Args:
        module: The dotted name, as in a `Hit`.
        start_line: The first line, from 1.
        max_lines: How many lines at most, up to `MAX_LINES`.

    Raises:
        ToolError: There is no such module here, or it has no such line.
    """
    if module in _C_MODULES:
        raise ToolError(f"{module} is written in C and has no Python source to read")
    path = _modules().get(module)  # a look-up and not a path: nothing else can be reached
    if path is None:
        raise ToolError(f"no module {module[:60]!r} in the standard library; search finds names")
    lines = path.read_text("utf-8", "replace").splitlines()
    if not 1 <= start_line <= max(1, len(lines)):
        raise ToolError(f"start_line is {start_line}; {module} has lines 1 to {len(lines)}")
    if not 1 <= max_lines <= MAX_LINES:
        raise ToolError(f"max_lines is {max_lines}; it goes from 1 to {MAX_LINES}")
    shown = lines[start_line - 1 : start_line - 1 + max_lines]
    end_line = start_line + len(shown) - 1
    return Excerpt(module, start_line, end_line, len(lines), "\n".join(shown))


# Which modules there are.

_lock = threading.RLock()
_found_modules: dict[str, Path] = {}
_built_index: "list[_Index]" = []


def _modules() -> dict[str, Path]:
    with _lock:
        if not _found_modules:
            _found_modules.update(_find_modules())
        return _found_modules


def _index() -> "_Index":
    with _lock:  # whoever comes second waits for the first instead of building another
        if not _built_index:
            _built_index.append(_Index(_all_entries()))
        return _built_index[0]


def _find_modules() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib")).resolve()
    for folder, folders, names in os.walk(root):  # does not enter linked folders
        folders[:] = [name for name in folders if name.isidentifier() and name not in _EXCLUDED]
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            known = parts and parts[0] in sys.stdlib_module_names and parts[0] not in _EXCLUDED
            if known and path.resolve().is_relative_to(root):
                module = ".".join(parts)
                yield ("os.path" if module == os.path.__name__ else module), path


# What a module defines.


@dataclass(frozen=True, slots=True)
class _Entry:
    """One definition: the hit without its score, and the words to find it by."""

    hit: Hit
    doc: str
    parameters: tuple[str, ...]


def _all_entries() -> Iterator[_Entry]:
    for module, path in _modules().items():
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        yield from _module_entries(module, tree)
    for module in _C_MODULES:
        yield from _c_module_entries(module)


def _module_entries(module: str, tree: ast.Module) -> Iterator[_Entry]:
    doc = ast.get_docstring(tree) or ""
    if doc:
        hit = Hit(module, module, "module", 1, len(doc.splitlines()), module, _first(doc), 0.0)
        yield _Entry(hit, doc, ())
    for node in _top_level(tree.body):
        if isinstance(node, ast.ImportFrom):
            yield from _c_import_entries(module, node)
        elif not isinstance(node, ast.ClassDef):
            yield _function_entry(module, node, "")
        else:
            yield _class_entry(module, node)
            methods = (item for item in node.body if isinstance(item, _FUNCTIONS))
            for method in methods:
                if not method.name.startswith("_"):
                    yield _function_entry(module, method, node.name)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ImportFrom


def _top_level(body: Iterable[ast.stmt]) -> Iterator[_Definition]:
    """Give the definitions of a module, also those that stand under an `if` or a `try`."""
    for node in body:
        if isinstance(node, _Definition):
            yield node
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _top_level([*node.body, *node.orelse])


def _function_entry(
    module: str, node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str
) -> _Entry:
    doc = ast.get_docstring(node) or ""
    name = f"{owner}.{node.name}" if owner else node.name
    signature = f"{module}.{name}({_arguments(node.args)})"
    kind = "method" if owner else "function"
    signature = f"async {signature}" if isinstance(node, ast.AsyncFunctionDef) else signature
    hit = Hit(module, name, kind, _line(node), _end(node), signature, _first(doc), 0.0)
    return _Entry(hit, doc, _parameters(node.args))


def _class_entry(module: str, node: ast.ClassDef) -> _Entry:
    doc = ast.get_docstring(node) or ""
    init = next((item for item in node.body if getattr(item, "name", "") == "__init__"), None)
    signature, parameters = f"{module}.{node.name}", tuple[str, ...]()
    if isinstance(init, ast.FunctionDef):
        signature = f"{signature}({_arguments(init.args)})"
        parameters = _parameters(init.args)
    hit = Hit(module, node.name, "class", _line(node), _end(node), signature, _first(doc), 0.0)
    return _Entry(hit, doc, parameters)


def _line(node: _Definition) -> int:
    decorators = [] if isinstance(node, ast.ImportFrom) else node.decorator_list
    return min([node.lineno, *(item.lineno for item in decorators)])


def _end(node: _Definition) -> int:
    return node.end_lineno or node.lineno


def _arguments(arguments: ast.arguments) -> str:
    """Write out the parameters without `self`, `cls` and annotations."""
    for group in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
        for argument in group:
            argument.annotation = None
    text = ast.unparse(arguments)
    return re.sub(r"^(self|cls)(, /)?(, |$)", "", text)


def _parameters(arguments: ast.arguments) -> tuple[str, ...]:
    groups = (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)
    return tuple(argument.arg for group in groups for argument in group)


def _c_import_entries(module: str, node: ast.ImportFrom) -> Iterator[_Entry]:
    """Give what a module takes over from C, such as `collections.deque`."""
    things = _c_names(node.module) if node.module in _C_HELPERS else {}
    for alias in node.names:
        name = alias.asname or alias.name
        if alias.name in things and not name.startswith("_"):
            yield from _c_entries(module, name, things[alias.name], node.lineno)


def _c_module_entries(module: str) -> Iterator[_Entry]:
    for name, thing in _c_names(module).items():
        error = isinstance(thing, type) and issubclass(thing, BaseException)
        if callable(thing) and not name.startswith("_") and not error:
            yield from _c_entries(module, name, thing, 0)


def _c_names(module: str | None) -> dict[str, Any]:
    try:
        return vars(importlib.import_module(module or ""))
    except (ImportError, ValueError):
        return {}  # another interpreter may have it elsewhere


def _c_entries(module: str, name: str, thing: Any, line: int) -> Iterator[_Entry]:
    yield _c_entry(module, name, thing, line)
    if isinstance(thing, type):
        for key, item in vars(thing).items():
            if not key.startswith("_") and callable(item):
                yield _c_entry(module, f"{name}.{key}", item, line)


def _c_entry(module: str, name: str, thing: Any, line: int) -> _Entry:
    written, doc = _c_signature(name.rpartition(".")[2], thing)
    kind = "class" if isinstance(thing, type) else "method" if "." in name else "function"
    signature = f"{name}{written}" if module == "builtins" else f"{module}.{name}{written}"
    hit = Hit(module, name, kind, line, line, signature, _first(doc), 0.0)
    return _Entry(hit, doc, tuple(re.findall(r"[a-z_]+", written)))


def _c_signature(name: str, thing: Any) -> tuple[str, str]:
    """Return the parameters as written, and the docstring without the lines that repeat them.

    Some docstrings begin with them: `deque([iterable[, maxlen]]) --> deque object`.
    """
    doc = str(getattr(thing, "__doc__", None) or "").strip()
    written = getattr(thing, "__text_signature__", None) or ""
    form = re.compile(rf"(?:\w+\.)?{name}(\(.*?\))(?:\s*-+>\s*(.*)|\s*\n|$)")
    while match := form.match(doc):
        written = written or match[1]
        doc = doc[match.end() :].strip() or match[2] or ""
    return re.sub(r"\$?\b(self|module)\b(, /)?(, )?", "", written), doc


def _first(doc: str) -> str:
    """Return the first sentence-like part of a docstring as one line of at most 200 characters."""
    paragraph = " ".join(doc.strip().partition("\n\n")[0].split())
    return paragraph if len(paragraph) <= 200 else paragraph[:199] + "…"


# How words are compared and definitions ranked.


def _words(text: str) -> list[str]:
    """Split text and identifiers into lower-case stems: `TemporaryDirectory` gives two."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [_stem(word) for word in re.findall(r"[a-z]+|[0-9]+", split.lower())]


@lru_cache(1 << 16)  # the sources have about 20,000 different words
def _stem(word: str) -> str:
    """Cut a lower-case word to what its forms share, and let one word stand for its synonyms."""
    stem = _cut(word)
    return _SYNONYMS.get(stem, stem)


def _cut(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    for suffix in ("ing", "ed"):
        if len(word) > len(suffix) + 2 and word.endswith(suffix):
            word = word[: -len(suffix)]
            word = word[:-1] if word[-1] == word[-2] and word[-1] not in "lsz" else word
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


_GROUPS = [[_cut(word) for word in line.split()] for line in _SAME_MEANING.splitlines()]
_SYNONYMS = {word: group[0] for group in _GROUPS for word in group}


def _query_words(query: str) -> dict[str, None]:
    words = re.findall(r"[A-Za-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", query))
    kept = [word for word in words if word.lower() not in _STOP]
    return dict.fromkeys(_stem(word.lower()) for word in kept or words)


# What a word in each place is worth.
_IN_NAME, _IN_MODULE, _IN_SUMMARY, _IN_PARAMETERS, _IN_DOC = 3.0, 2.2, 1.8, 1.0, 0.6


class _Index:
    """An inverted index over all definitions; immutable once it is built."""

    def __init__(self, entries: Iterable[_Entry]) -> None:
        self._hits: list[Hit] = []
        self._names: dict[str, list[int]] = defaultdict(list)
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, entry in enumerate(entries):
            hit = entry.hit
            self._hits.append(hit)
            for word, weight in _weights(entry).items():
                self._postings[word].append((number, weight))
            package = hit.module.partition(".")[0]
            names = {hit.name, f"{hit.module}.{hit.name}", f"{package}.{hit.name}"}
            for name in names:
                self._names[name.lower()].append(number)

    def search(self, query: str, limit: int) -> list[Hit]:
        """Return the best hits; see the function of the same name."""
        scores = self._by_words(query)
        for number in self._by_name(query):
            scores[number] = scores.get(number, 1.0) + 100 * _prior(self._hits[number])
        best = sorted(scores, key=lambda number: (-scores[number], number))[:limit]
        return [replace(self._hits[number], score=round(scores[number], 2)) for number in best]

    def _by_words(self, query: str) -> dict[int, float]:
        words = {word: self._rarity(word) for word in _query_words(query)}
        asked = sum(words.values())
        sums: dict[int, float] = defaultdict(float)
        explained: dict[int, float] = defaultdict(float)
        for word, rarity in words.items():
            for number, weight in self._postings.get(word, ()):
                sums[number] += rarity * weight
                explained[number] += rarity / asked
        scores = {
            number: total * explained[number] ** 2 * self._likely(number, words)
            for number, total in sums.items()
            if explained[number] >= MIN_COVERAGE
        }
        return {number: score for number, score in scores.items() if score >= MIN_SCORE}

    def _likely(self, number: int, words: Container[str]) -> float:
        """Prefer what is called exactly as a word of the query: `dataclass` to `is_dataclass`."""
        hit = self._hits[number]
        name = _words(hit.name)
        return _prior(hit) * (1.4 if len(name) == 1 and name[0] in words else 1.0)

    def _by_name(self, query: str) -> Iterator[int]:
        """Find what the query calls by a name that is no plain word: dotted, snake or camel."""
        for word in re.findall(r"[A-Za-z_][\w.]*\w", query):
            if "." in word or "_" in word or re.search(r"[a-z][A-Z]", word):
                yield from self._names.get(word.lower(), ())

    def _rarity(self, word: str) -> float:
        rarity = math.log(1 + len(self._hits) / (1 + len(self._postings.get(word, ()))))
        return min(rarity, MAX_RARITY)


def _weights(entry: _Entry) -> dict[str, float]:
    """Say what each word of a definition is worth; every place in which it stands adds to it."""
    hit = entry.hit
    name = [] if hit.kind == "module" else _words(hit.name)
    parameters = [word for name in entry.parameters for word in _words(name)]
    places = (
        (_IN_NAME / (1 + 0.15 * len(name)), name),
        (_IN_MODULE, _words(hit.module)),
        (_IN_SUMMARY, _words(hit.summary)),
        (_IN_PARAMETERS, parameters),
        (_IN_DOC, _words(entry.doc[:2000])),
    )
    weights: dict[str, float] = defaultdict(float)
    for worth, words in places:
        shorter = 1 / (1 + 0.03 * len(words))  # one word of four says more than one of forty
        for word in set(words):
            weights[word] += worth * shorter
    return weights


def _prior(hit: Hit) -> float:
    """Say how likely a definition is what somebody asks for, whatever the question."""
    package = hit.module.partition(".")[0]
    prior = 1.2 if package in _USEFUL_PACKAGES else 0.6 if package in _UNLIKELY_PACKAGES else 1.0
    prior = 1.5 if hit.module in _WELL_KNOWN else prior
    private = any(part.startswith("_") for part in f"{hit.module}.{hit.name}".split("."))
    prior *= 0.35 if private else 1.0
    prior *= {"method": 0.75, "module": 0.9}.get(hit.kind, 1.0)
    return prior * (1.0 if hit.summary else 0.6)
