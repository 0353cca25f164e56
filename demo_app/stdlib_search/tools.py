"""Two tools for a model: search and read the sources of the running Python's standard library.

`search` ranks definitions by the words of a question; `read` returns lines of a module. `TOOLS`
describes both for function calling. `call_tool` validates a model's call and runs it.

The index is built on the first search, which takes a few seconds, and stays in memory.
"""

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from demo_app.stdlib_search.entries import C_MODULES, Hit, entries_of
from demo_app.stdlib_search.ranking import Index

MAX_HITS = 20
MAX_QUERY_CHARS = 300
MAX_LINES = 200  # of one excerpt; about 8 KB, 2,000 of a model's tokens

_EXCLUDED_NAMES = """antigravity distutils encodings ensurepip idlelib lib2to3 pydoc_data _pyio test
    tests this turtledemo __phello__"""

_EXCLUDED = frozenset(_EXCLUDED_NAMES.split())


class ToolError(ValueError):
    """A tool call that failed. The message says what to send instead."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Lines of a module, from `start_line` to `end_line`, both included and counted from 1."""

    module: str
    start_line: int
    end_line: int
    total_lines: int
    text: str


class SearchInput(BaseModel):
    """The arguments of `search`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str = Field(
        min_length=1,
        max_length=MAX_QUERY_CHARS,
        description="Words of the question, or a name such as functools.lru_cache.",
    )
    limit: int = Field(8, ge=1, le=MAX_HITS, description="How many hits to return.")


class ReadInput(BaseModel):
    """The arguments of `read`."""

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
        ToolError: The tool is unknown, an argument is invalid, or there is no such module or line.
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

    The first call builds the index, which takes a few seconds. In an event loop, call it from a
    thread.

    Args:
        query: A question or some words; only the first `MAX_QUERY_CHARS` characters are used.
        limit: The maximum number of hits.

    Returns:
        Hits that match at least the share `ranking.MIN_COVERAGE` of the query's words.
    """
    return _index().search(query[:MAX_QUERY_CHARS], limit)


def read(module: str, start_line: int = 1, max_lines: int = 80) -> Excerpt:
    """Return lines of a module of the standard library.

    Args:
        module: The dotted name, as in a `Hit`.
        start_line: The first line, counted from 1.
        max_lines: The maximum number of lines, up to `MAX_LINES`.

    Raises:
        ToolError: The standard library has no such module, or the module has no such line.
    """
    if module in C_MODULES:
        raise ToolError(f"{module} is written in C and has no Python source to read")
    path = _modules().get(module)  # a look-up, so that no other file can be read
    if path is None:
        raise ToolError(f"no module {module[:60]!r} in the standard library; search finds names")
    lines = path.read_text("utf-8", "replace").splitlines()
    if not 1 <= start_line <= max(1, len(lines)):
        raise ToolError(f"start_line is {start_line}; {module} has lines 1 to {len(lines)}")
    if not 1 <= max_lines <= MAX_LINES:
        raise ToolError(f"max_lines is {max_lines}; it must be from 1 to {MAX_LINES}")
    shown = lines[start_line - 1 : start_line - 1 + max_lines]
    end_line = start_line + len(shown) - 1
    return Excerpt(module, start_line, end_line, len(lines), "\n".join(shown))


_lock = threading.RLock()
_found_modules: dict[str, Path] = {}
_built_index: "list[Index]" = []


def _modules() -> dict[str, Path]:
    with _lock:
        if not _found_modules:
            _found_modules.update(_find_modules())
        return _found_modules


def _index() -> "Index":
    with _lock:  # concurrent callers wait for one build
        if not _built_index:
            _built_index.append(Index(entries_of(_modules())))
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
