"""The folders of tests/ mirror the rooms, and helpers are in tests/support."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
BESIDE_ROOMS = {"benchmarks", "demo_app", "docs", "e2e", "js", "support", "tools", "ui"}
E2E = {"browser", "clients", "conformance", "faults", "hostile"}
MODULES = sorted(
    path.relative_to(TESTS)
    for path in TESTS.rglob("*.py")
    if not {"node_modules", "__pycache__"} & {*path.parts}
)
FOLDERS = sorted({path.parent for path in MODULES if path.parent != Path()})


def test_every_folder_is_a_room_or_a_known_one():
    unknown = [
        str(folder)
        for folder in FOLDERS
        if folder.parts[0] not in BESIDE_ROOMS
        and not (ROOT / "gateway" / folder / "__init__.py").exists()
    ]
    assert unknown == []
    assert {folder.parts[1] for folder in FOLDERS if folder.parts[0] == "e2e"} == E2E


def test_every_helper_is_in_support_or_tools():
    misplaced = [
        str(path)
        for path in MODULES
        if path.parts[0] not in ("support", "tools")
        and not path.name.startswith("test_")
        and path.name not in ("conftest.py", "__init__.py")
    ]
    assert misplaced == []


def imported(path):
    for node in ast.walk(ast.parse((TESTS / path).read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_no_module_imports_a_test_module():
    is_test = re.compile(r"tests\.(.+\.)?(test_\w+|conftest)(\.|$)")
    wrong = [
        (str(path), name) for path in MODULES for name in imported(path) if is_test.match(name)
    ]
    assert wrong == []


def test_map_of_support_names_its_modules_and_no_others():
    text = ast.get_docstring(ast.parse((TESTS / "support" / "__init__.py").read_text()))
    named = {line.split()[0] for line in text.splitlines()[2:] if line}
    found = {path.parts[1].removesuffix(".py") for path in MODULES if path.parts[0] == "support"}
    assert named == {name for name in found if not name.startswith(("__", "test_"))}
