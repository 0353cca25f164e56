"""List the definitions of the standard library's modules, from their syntax trees.

Modules are parsed, not imported. The exceptions are a few modules written in C: they have no Python
source, so their objects and docstrings are read.
"""

import ast
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

C_MODULES = ("builtins", "itertools", "math", "time")  # public modules without a .py file
_C_HELPERS = ("_collections", "_csv", "_functools", "_io", "_operator", "_thread", "_weakref")


@dataclass(frozen=True, slots=True)
class Hit:
    """One definition that matches a search.

    `line` is 0 if the object is defined in C and has no Python source.
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
class Entry:
    """One definition: the hit without a score, and the texts that are indexed."""

    hit: Hit
    doc: str
    parameters: tuple[str, ...]


def entries_of(modules: Mapping[str, Path]) -> Iterator[Entry]:
    """Yield every definition of the given modules and of `C_MODULES`.

    Args:
        modules: The source files by dotted module name.
    """
    for module, path in modules.items():
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        yield from _module_entries(module, tree)
    for module in C_MODULES:
        yield from _c_module_entries(module)


def _module_entries(module: str, tree: ast.Module) -> Iterator[Entry]:
    doc = ast.get_docstring(tree) or ""
    if doc:
        hit = Hit(module, module, "module", 1, len(doc.splitlines()), module, _first(doc), 0.0)
        yield Entry(hit, doc, ())
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
    """Yield the definitions of a module, including those in the body of an `if` or a `try`."""
    for node in body:
        if isinstance(node, _Definition):
            yield node
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _top_level([*node.body, *node.orelse])


def _function_entry(module: str, node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> Entry:
    doc = ast.get_docstring(node) or ""
    name = f"{owner}.{node.name}" if owner else node.name
    signature = f"{module}.{name}({_arguments(node.args)})"
    kind = "method" if owner else "function"
    signature = f"async {signature}" if isinstance(node, ast.AsyncFunctionDef) else signature
    hit = Hit(module, name, kind, _line(node), _end(node), signature, _first(doc), 0.0)
    return Entry(hit, doc, _parameters(node.args))


def _class_entry(module: str, node: ast.ClassDef) -> Entry:
    doc = ast.get_docstring(node) or ""
    init = next((item for item in node.body if getattr(item, "name", "") == "__init__"), None)
    signature, parameters = f"{module}.{node.name}", tuple[str, ...]()
    if isinstance(init, ast.FunctionDef):
        signature = f"{signature}({_arguments(init.args)})"
        parameters = _parameters(init.args)
    hit = Hit(module, node.name, "class", _line(node), _end(node), signature, _first(doc), 0.0)
    return Entry(hit, doc, parameters)


def _line(node: _Definition) -> int:
    decorators = [] if isinstance(node, ast.ImportFrom) else node.decorator_list
    return min([node.lineno, *(item.lineno for item in decorators)])


def _end(node: _Definition) -> int:
    return node.end_lineno or node.lineno


def _arguments(arguments: ast.arguments) -> str:
    """Return the parameters as source text, without `self`, `cls` and annotations."""
    for group in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
        for argument in group:
            argument.annotation = None
    text = ast.unparse(arguments)
    return re.sub(r"^(self|cls)(, /)?(, |$)", "", text)


def _parameters(arguments: ast.arguments) -> tuple[str, ...]:
    groups = (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)
    return tuple(argument.arg for group in groups for argument in group)


def _c_import_entries(module: str, node: ast.ImportFrom) -> Iterator[Entry]:
    """Yield the public names that a module imports from C, such as `collections.deque`."""
    things = _c_names(node.module) if node.module in _C_HELPERS else {}
    for alias in node.names:
        name = alias.asname or alias.name
        if alias.name in things and not name.startswith("_"):
            yield from _c_entries(module, name, things[alias.name], node.lineno)


def _c_module_entries(module: str) -> Iterator[Entry]:
    for name, thing in _c_names(module).items():
        error = isinstance(thing, type) and issubclass(thing, BaseException)
        if callable(thing) and not name.startswith("_") and not error:
            yield from _c_entries(module, name, thing, 0)


def _c_names(module: str | None) -> dict[str, Any]:
    try:
        return vars(importlib.import_module(module or ""))
    except (ImportError, ValueError):
        return {}  # another interpreter may not have this module


def _c_entries(module: str, name: str, thing: Any, line: int) -> Iterator[Entry]:
    yield _c_entry(module, name, thing, line)
    if isinstance(thing, type):
        for key, item in vars(thing).items():
            if not key.startswith("_") and callable(item):
                yield _c_entry(module, f"{name}.{key}", item, line)


def _c_entry(module: str, name: str, thing: Any, line: int) -> Entry:
    written, doc = _c_signature(name.rpartition(".")[2], thing)
    kind = "class" if isinstance(thing, type) else "method" if "." in name else "function"
    signature = f"{name}{written}" if module == "builtins" else f"{module}.{name}{written}"
    hit = Hit(module, name, kind, line, line, signature, _first(doc), 0.0)
    return Entry(hit, doc, tuple(re.findall(r"[a-z_]+", written)))


def _c_signature(name: str, thing: Any) -> tuple[str, str]:
    """Return the parameters as text, and the docstring without the lines that repeat them.

    Some docstrings begin with the signature: `deque([iterable[, maxlen]]) --> deque object`.
    """
    doc = str(getattr(thing, "__doc__", None) or "").strip()
    written = getattr(thing, "__text_signature__", None) or ""
    form = re.compile(rf"(?:\w+\.)?{name}(\(.*?\))(?:\s*-+>\s*(.*)|\s*\n|$)")
    while match := form.match(doc):
        written = written or match[1]
        doc = doc[match.end() :].strip() or match[2] or ""
    return re.sub(r"\$?\b(self|module)\b(, /)?(, )?", "", written), doc


def _first(doc: str) -> str:
    """Return the first paragraph of a docstring as one line of at most 200 characters."""
    paragraph = " ".join(doc.strip().partition("\n\n")[0].split())
    return paragraph if len(paragraph) <= 200 else paragraph[:199] + "…"
