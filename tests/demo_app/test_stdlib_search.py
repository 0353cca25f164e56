"""The tools that search and read the standard library's sources."""

import json
import threading

import pytest

from demo_app.stdlib_search import tools
from demo_app.stdlib_search.tools import TOOLS, ToolError, call_tool, read, search

QUESTIONS = {
    "How do I find the largest items in a list?": "heapq.nlargest",
    "temporary directory": "tempfile.TemporaryDirectory",
    "parse command line arguments": "argparse.ArgumentParser",
    "run a subprocess with timeout": "subprocess.run",
    "how does functools.lru_cache work": "functools.lru_cache",
    "merge two sorted lists": "heapq.merge",
    "what is a deque": "collections.deque",
    "How do I copy a file?": "shutil.copy",
    "encode an object as JSON": "json.dump",
    "walk a directory tree": "os.walk",
    "cache the results of a function": "functools.lru_cache",
    "delete a folder and everything in it": "shutil.rmtree",
    "escape HTML": "html.escape",
    "what is a dataclass": "dataclasses.dataclass",
    "average of numbers": "statistics.mean",
    "regular expression replace": "re.sub",
    "list all files matching a pattern": "glob.glob",
    "round a number": "builtins.round",
    "os.path.join": "os.path.join",
    "random password": "secrets.secrets",
    "unified diff": "difflib.unified_diff",
}


@pytest.mark.parametrize(("question", "expected"), QUESTIONS.items())
def test_search_ranks_expected_definition_first(question: str, expected: str) -> None:
    best = search(question)[0]
    assert f"{best.module}.{best.name}" == expected


@pytest.mark.parametrize("question", ["best pizza recipe", "", "   ", "???", "\0", "天気"])
def test_search_returns_nothing_for_unrelated_question(question: str) -> None:
    assert search(question) == []


def test_hit_has_place_signature_and_summary() -> None:
    hit = search("heapq.nlargest")[0]
    assert (hit.module, hit.name, hit.kind) == ("heapq", "nlargest", "function")
    assert hit.signature == "heapq.nlargest(n, iterable, key=None)"
    assert hit.summary == "Find the n largest elements in a dataset."
    lines = read(hit.module, hit.line, hit.end_line - hit.line + 1).text.splitlines()
    assert lines[0] == "def nlargest(n, iterable, key=None):"
    assert "return" in lines[-1]


def test_hits_are_sorted_by_score_and_limited() -> None:
    hits = search("temporary file", 5)
    assert len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_definition_in_c_has_summary_but_no_lines() -> None:
    hit = search("itertools.groupby")[0]
    assert (hit.line, hit.kind) == (0, "class")
    assert hit.summary
    with pytest.raises(ToolError, match="itertools is written in C"):
        read("itertools")


def test_read_returns_requested_lines() -> None:
    whole = read("heapq", 1, 200)
    excerpt = read("heapq", 3, 2)
    assert (excerpt.start_line, excerpt.end_line) == (3, 4)
    assert excerpt.text.splitlines() == whole.text.splitlines()[2:4]
    last = read("heapq", whole.total_lines, 80)
    assert last.end_line == whole.total_lines


@pytest.mark.parametrize(
    "module",
    [
        "pytest",
        "demo_app.stdlib_search.tools",
        "/etc/passwd",
        "../../etc/passwd",
        "test.support",
        "",
        "a\0b",
        "heapq.py",
        "heapq.nlargest",
        "site-packages.pip",
        "x" * 10_000,
    ],
)
def test_read_rejects_module_outside_standard_library(module: str) -> None:
    with pytest.raises(ToolError, match="no module") as caught:
        read(module)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("start_line", "max_lines"), [(0, 1), (-5, 1), (10**9, 1), (1, 0), (1, 201)]
)
def test_read_rejects_lines_out_of_range(start_line: int, max_lines: int) -> None:
    with pytest.raises(ToolError, match=r"(start_line|max_lines) is"):
        read("heapq", start_line, max_lines)


def test_schemas_describe_both_tools() -> None:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    assert list(schemas) == ["search", "read"]
    assert schemas["search"]["required"] == ["query"]
    assert schemas["read"]["required"] == ["module"]
    assert set(schemas["read"]["properties"]) == {"module", "start_line", "max_lines"}
    assert all(schema["additionalProperties"] is False for schema in schemas.values())
    json.dumps(TOOLS)


def test_tool_call_returns_values_that_encode_as_json() -> None:
    hits = call_tool("search", {"query": "deque", "limit": 2})
    excerpt = call_tool("read", {"module": "heapq", "max_lines": 3})
    assert hits[0]["name"] == "deque"
    assert excerpt["end_line"] == 3
    assert json.loads(json.dumps([hits, excerpt])) == [hits, excerpt]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("delete", {}, "unknown tool 'delete'"),
        ("search", {}, "search.query: Field required"),
        ("search", {"query": ""}, "search.query"),
        ("search", {"query": "x" * 301}, "at most 300 characters"),
        ("search", {"query": 5}, "search.query: Input should be a valid string"),
        ("search", {"query": "x", "limit": 21}, "search.limit"),
        ("search", {"query": "x", "limit": True}, "search.limit"),
        ("search", {"query": "x", "path": "/"}, "search.path: Extra inputs"),
        ("read", {"module": "heapq", "start_line": 0}, "read.start_line"),
        ("read", {"module": "pytest"}, "no module 'pytest'"),
        ("read", "heapq", "read"),
    ],
)
def test_invalid_tool_call_names_the_argument(
    name: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ToolError) as caught:
        call_tool(name, arguments)
    assert message in str(caught.value)


def test_concurrent_threads_build_one_index(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def build(entries: object) -> object:
        built.append(1)
        return object()

    monkeypatch.setattr(tools, "_built_index", [])
    monkeypatch.setattr(tools, "Index", build)
    threads = [threading.Thread(target=tools._index) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]
