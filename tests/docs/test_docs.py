"""Snippets, links, maps and names of the documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import cli_docs

ROOT = Path(__file__).parents[2]


def _snippets(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.S)


def test_first_readme_snippet_runs_and_prints_progress(tmp_path: Path) -> None:
    script = tmp_path / "first.py"
    script.write_text(_snippets("README.md")[0])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1/3 a", "2/3 b", "3/3 c"]


def test_readme_page_builds_and_calls_the_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Reflex links the client's files there
    first, page = _snippets("README.md")[:2]
    script = first.replace("asyncio.run(main())", "") + page + "\nprint(index().render())\n"
    (tmp_path / "page.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "page.py"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "realtime_" in done.stdout and "latest" in done.stdout


def test_misspelt_field_on_readme_page_fails_the_build(tmp_path: Path) -> None:
    first, page = _snippets("README.md")[:2]
    script = first.replace("asyncio.run(main())", "") + page.replace("latest.item", "latest.itme")
    (tmp_path / "page.py").write_text(script + "\nindex()\n")
    done = subprocess.run(
        [sys.executable, "page.py"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode != 0
    assert "itme" in done.stderr


def test_readme_names_existing_make_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"^make ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.M))
    assert named and named <= targets


DOCUMENTS = [
    *(ROOT / name for name in ("benchmarks/README.md", "gateway/PROTOCOL.md")),
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
]


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_links_lead_to_files_and_headings(path: Path) -> None:
    for name, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", path.read_text()):
        if name.startswith("http"):
            continue
        target = path.parent / name if name else path
        assert target.exists(), f"{path}: {name}"
        assert not anchor or anchor in _anchors(target), f"{path}: {name}#{anchor}"


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_overview_links_every_page(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text())
    named = {((ROOT / name).parent / link).resolve() for link in links}
    assert set(ROOT.glob("docs/*.md")) - {ROOT / "docs/index.md"} <= named


MAPPED = sorted(
    path.parent
    for top in ("gateway", "ui", "demo_app", "benchmarks")
    for path in (ROOT / top).rglob("__init__.py")
    if not path.is_relative_to(ROOT / "benchmarks/scenarios/browser_app")
)
LISTED = re.compile(r"^ *([a-z_]+)(?:/ +| {2,})\S", re.MULTILINE)


@pytest.mark.parametrize("folder", MAPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_map_of_package_lists_exactly_its_modules(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    listed = set(LISTED.findall(text))
    assert text
    assert modules <= listed
    modules |= {path.name.partition(".")[0] for path in folder.iterdir()}
    assert listed <= modules


def test_cli_page_is_up_to_date() -> None:
    """`python -m tests.tools.cli_docs` writes it."""
    assert cli_docs.PATH.read_text() == cli_docs.document()


# ---- pages about the code ----


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_existing_files(path: Path) -> None:
    folders = "benchmarks|demo_app|docs|gateway|tests|ui"
    named = set(re.findall(rf"`((?:{folders})/[\w/.-]+\.\w+)`", path.read_text()))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_architecture_names_existing_modules() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    paths = set(re.findall(r"`([\w/]+\.(?:py|js))`", text))
    assert len(paths) > 30
    missing = [
        p for p in paths if not (ROOT / p).is_file() and not (ROOT / "gateway" / p).is_file()
    ]
    assert not missing, "docs/architecture.md names modules that do not exist"


def test_architecture_describes_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "gateway").glob("*/__init__.py")} - {"ui"}
    table = re.findall(r"^\| `gateway/(\w+)` \|", (ROOT / "docs/architecture.md").read_text(), re.M)
    assert set(table) == rooms


def test_glossary_names_existing_types() -> None:
    defined = set()
    for folder in ("gateway", "ui"):
        for path in (ROOT / folder).rglob("*.py"):
            defined |= set(re.findall(r"^(?:class )?(\w+)(?:\(|:| =)", path.read_text(), re.M))
    rows = re.findall(r"^\| .* \|$", (ROOT / "docs/glossary.md").read_text(), re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[2])}
    assert len(named) > 80
    assert named <= defined
