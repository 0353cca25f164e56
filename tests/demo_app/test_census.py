"""The code census: access to files, counting, and the sum of the workers' reports."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from demo_app.census import reader, sources
from demo_app.census.reader import (
    FileStats,
    FileTooLarge,
    Totals,
    UnreadableFile,
    WorkerReport,
    read_file,
    read_files,
)
from demo_app.census.sources import UnknownSource, split
from demo_app.census.totals import Census

SAMPLE = '''"""A module.

Its docstring has three lines.
"""

import os  # a line of code


# a comment
class Greeter:
    """Greets."""

    async def greet(self, name: str) -> str:
        text = """two
lines"""
        return f"def{name}class" + text
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "sample.py").write_text(SAMPLE)
    return tmp_path


def test_file_is_counted_by_its_tokens(root: Path) -> None:
    stats = read_file(root / "pack" / "sample.py", root)
    assert stats.module == "pack.sample"
    assert stats.lines == len(SAMPLE.splitlines()) == 16
    assert stats.code_lines == 6
    assert stats.comment_lines == 6
    assert (stats.functions, stats.classes) == (1, 1)  # words inside strings do not count
    assert stats.size_bytes == len(SAMPLE)
    assert stats.tokens > 40


def test_empty_file_has_zero_counts(root: Path) -> None:
    stats = read_file(root / "pack" / "__init__.py", root)
    assert (stats.module, stats.lines, stats.code_lines, stats.size_bytes) == ("pack", 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"x = (1,\n",
        b"if x:\n        a\n    b\n",
        b"x = $ 1\n",
        b"# coding: nonsense\n",
        b"x = '\xff'\n",
        b'x = """never closed\n',
    ],
)
def test_broken_file_raises_error_without_path(root: Path, data: bytes) -> None:
    path = root / "broken.py"
    path.write_bytes(data)
    with pytest.raises(UnreadableFile) as caught:
        read_file(path, root)
    assert caught.value.module == "broken"
    assert str(root) not in str(caught.value)


def test_file_over_size_limit_is_skipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 10)
    with pytest.raises(FileTooLarge, match="the limit is 10"):
        read_file(root / "pack" / "sample.py", root)
    reports = list(read_files([root / "pack" / "sample.py"], root, "one"))
    assert reports[-1].totals == Totals(files=1, skipped=1)
    assert reports[-1].problems == []


def test_read_file_rejects_path_outside_root(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.py"
    outside.write_text("secret = 1\n")
    (root / "link.py").symlink_to(outside)
    (root / "notes.txt").write_text("not python")
    paths = [outside, root / "link.py", root / ".." / outside.parent.name / "secret.py"]
    for path in [*paths, root / "notes.txt", root / "missing.py"]:
        with pytest.raises(UnreadableFile, match=r"not a \.py file of this source"):
            read_file(path, root)


def test_walk_skips_links_and_hidden_folders(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.py").write_text("")
    (root / "linked").symlink_to(outside)
    (root / "link.py").symlink_to(outside / "secret.py")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "a.py").write_text("")
    (root / "pack" / "dangling.py").symlink_to(root / "nowhere.py")
    names = {path.name for path in sources._walk(root, root)}
    assert names == {"__init__.py", "sample.py"}


def test_sources_list_library_project_and_packages() -> None:
    listed = {choice.id: choice for choice in sources.sources()}
    assert {"stdlib", "project", "package:pytest", "package:httpx"} <= set(listed)
    assert listed["stdlib"].file_count > 300
    assert all(choice.file_count > 0 for choice in listed.values())


@pytest.mark.parametrize("source_id", ["stdlib", "project", "package:httpx", "package:pytest"])
def test_source_resolves_to_python_files_below_its_root(source_id: str) -> None:
    root = sources.root_of(source_id)
    files = sources.resolve(source_id)
    assert files == sorted(files)
    assert all(path.suffix == ".py" and path.resolve().is_relative_to(root) for path in files)
    assert not any(".." in path.parts for path in files)
    if source_id == "stdlib":
        assert not any("site-packages" in path.parts for path in files)


HOSTILE = [
    "",
    "/etc",
    "../../",
    "package:",
    "package:../../etc",
    "package:httpx/../pip",
    "package:no-such-package",
    "package:HTTPX",
    "stdlib\n",
    "std\0lib",
    "stdlib/../..",
    "x" * 10_000,
    "package:" + "a" * 10_000,
    "пакет",
]


@pytest.mark.parametrize("source_id", HOSTILE, ids=lambda text: repr(text[:20]))
def test_unknown_source_is_rejected_with_short_message(source_id: str) -> None:
    for refuse in (
        sources.resolve,
        sources.root_of,
        lambda text: sources.share(text, 0, 1),
    ):
        with pytest.raises(UnknownSource) as caught:
            refuse(source_id)
        assert "unknown source" in str(caught.value)
        assert len(str(caught.value)) < 400


def test_split_is_balanced_complete_and_repeatable(tmp_path: Path) -> None:
    files = []
    for number in range(50):
        path = tmp_path / f"m{number:02}.py"
        path.write_text("#" * (number * number))
        files.append(path)
    shares = split(files, 4)
    assert sorted(path for one in shares for path in one) == files
    assert all(one == sorted(one) for one in shares)
    weights = [sum(path.stat().st_size for path in one) for one in shares]
    assert max(weights) - min(weights) < 2_500  # the heaviest file has 2,401
    assert split(files, 4) == shares


def test_split_of_few_files_has_empty_shares() -> None:
    assert split([], 3) == [[], [], []]
    for parts in (0, -1, sources.MAX_SHARES + 1):
        with pytest.raises(ValueError, match="it must be from 1 to 64"):
            split([], parts)


def test_shares_together_contain_every_file() -> None:
    files = sources.resolve("package:httpx")
    shares = [sources.share("package:httpx", part, 3) for part in range(3)]
    assert sorted(path for one in shares for path in one) == files
    for part in (-1, 3):
        with pytest.raises(ValueError, match="with 3 parts it must be from 0 to 2"):
            sources.share("package:httpx", part, 3)


def test_worker_reports_every_few_files_and_at_end(root: Path) -> None:
    (root / "broken.py").write_text("x = (\n")
    files = [root / "pack" / "sample.py"] * 4 + [root / "broken.py"]
    reports = list(read_files(files, root, "worker 1", every=2))
    assert [report.totals.files for report in reports] == [2, 4, 5]
    assert [len(report.modules) for report in reports] == [2, 2, 0]
    assert [report.totals.failed for report in reports] == [0, 0, 1]
    assert reports[-1].problems[0].startswith("broken: ")
    assert reports[-1].totals.lines == 4 * 16
    assert list(read_files([], root, "idle")) == []


def _stats(module: str, lines: int) -> FileStats:
    return FileStats(module, lines, lines, 0, lines * 9, 1, 0, lines * 30)


def _report(worker: str, files: int, lines: int, *modules: FileStats) -> WorkerReport:
    return WorkerReport(worker, f"m{files}", 10, Totals(files=files, lines=lines), list(modules))


def test_census_adds_up_all_workers() -> None:
    census = Census(files_total=20)
    assert census.progress(0.0).percent == 0
    census.add(_report("worker 10", 4, 400), 1.0)
    progress = census.add(_report("worker 2", 6, 600), 2.0)
    assert (progress.files_done, progress.percent) == (10, 50)
    assert (progress.files_per_s, progress.lines_per_s) == (5.0, 500)
    assert (progress.module, progress.totals.lines) == ("m6", 1000)
    assert [row.worker for row in progress.workers] == ["worker 2", "worker 10"]
    assert [row.percent for row in progress.workers] == [60, 40]


def test_report_counts_once_when_repeated_or_restarted() -> None:
    census = Census(files_total=20)
    first = _report("a", 4, 400, _stats("x", 9))
    second = _report("a", 8, 800, _stats("y", 7))
    once = [census.add(first, 1.0), census.add(second, 1.0)][-1]
    again = [census.add(first, 1.0), census.add(second, 1.0)][-1]
    assert again == once
    assert (again.files_done, len(again.largest)) == (8, 2)


def test_table_keeps_largest_modules_in_order() -> None:
    census = Census(files_total=100)
    for number in range(30):
        lines = number * 37 % 30
        progress = census.add(_report("a", number + 1, 0, _stats(f"m{lines}", lines)), 1.0)
    assert [row.lines for row in progress.largest] == list(range(29, 19, -1))


def test_percentage_is_100_only_after_last_file() -> None:
    census = Census(files_total=1000)
    assert census.add(_report("a", 999, 0), 1.0).percent == 99
    assert census.add(_report("a", 1000, 0), 1.0).percent == 100
    assert Census(files_total=0).progress(0.0).percent == 100


def test_census_of_package_fits_small_records() -> None:
    root, files = sources.root_of("package:httpx"), sources.resolve("package:httpx")
    census = Census(len(files))
    for number, part in enumerate(split(files, 3), 1):
        for report in read_files(part, root, f"worker {number}"):
            progress = census.add(report, 1.0)
            assert len(json.dumps(asdict(progress))) < 8_000
    assert (progress.files_done, progress.percent) == (len(files), 100)
    assert progress.totals.failed == progress.totals.skipped == 0
    assert progress.totals.lines > 5_000
    assert progress.largest[0].module.startswith("httpx.")
