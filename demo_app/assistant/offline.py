"""Answer from the standard library's sources, without a key, a network or a model."""

import asyncio
import inspect
import re
import textwrap
from collections.abc import AsyncIterator
from typing import Any

from demo_app.assistant.tools import (
    Approve,
    Part,
    run_tool,
    tool_call,
    use_tool,
    without_surrogates,
)
from demo_app.stdlib_search.tools import MAX_QUERY_CHARS

_HITS = 6
_RELATED = 4
_CODE_LINES = 16  # of a definition, below its docstring
_DOC_LINES = 30


async def answer_offline(
    question: str, *, delay_s: float = 0.02, approve: Approve | None = None
) -> AsyncIterator[Part]:
    """Search, read the best hits, and compose an answer from their documentation.

    Args:
        question: The visitor's question; only the first `MAX_QUERY_CHARS` characters are used.
        delay_s: Seconds between two pieces of text.
        approve: See `assistant.answer`.

    Yields:
        Parts; the last one is `finish`.
    """
    query = without_surrogates(question).strip()[:MAX_QUERY_CHARS]
    found: list[dict[str, Any]] = []
    if query:
        call = tool_call("call_1", "search", {"query": query, "limit": _HITS})
        yield call
        result = await run_tool(call)
        yield result
        found = [] if result["is_error"] else result["output"]
    sources: list[str] = []
    for number, hit in enumerate(_worth_reading(found), 2):
        call = tool_call(f"call_{number}", "read", _place(hit))
        async for part in use_tool(call, "", approve):
            yield (result := part)
        sources.append("" if result["is_error"] else result["output"]["text"])
    text = _compose(found, sources) if found else _nothing(query)
    for piece in re.findall(r"\s*\S+\s*", text):
        yield {"type": "text-delta", "text": piece}
        await asyncio.sleep(delay_s)
    yield {"type": "finish", "reason": "stop"}


def _worth_reading(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the best hit, and the second one if its score is close and its place differs."""
    best, second = found[:1], found[1:2]
    if second and (
        second[0]["score"] < 0.75 * best[0]["score"] or _place(second[0]) == _place(*best)
    ):
        second = []
    return [hit for hit in best + second if hit["line"] > 0]  # C code has no lines to read


def _place(hit: dict[str, Any]) -> dict[str, Any]:
    """Return the lines to read of a definition; of a module, its docstring and the lines below."""
    lines = hit["end_line"] - hit["line"] + (40 if hit["kind"] == "module" else 1)
    return {"module": hit["module"], "start_line": hit["line"], "max_lines": min(lines, 80)}


def _nothing(query: str) -> str:
    if not query:
        return "Ask something about Python's standard library, for example: what is a deque?"
    shown = " ".join(query.replace("`", "").split())[:120]
    return (
        f"I found nothing in the standard library's sources for “{shown}”. "
        "I only match the words of a question with names and docstrings; try the name of a "
        "module or a function, or other words for the same thing."
    )


def _compose(found: list[dict[str, Any]], sources: list[str]) -> str:
    read = {_key(hit): text for hit, text in zip(_worth_reading(found), sources, strict=True)}
    best = found[0]
    blocks = [_headline(best), *_explained(best, read.get(_key(best), ""))]
    for hit in found[1:2]:
        if _key(hit) in read:
            blocks += [f"**Also close:** {_headline(hit)}", *_code(hit, read[_key(hit)], 8)]
    related = [hit for hit in found[1:] if _key(hit) not in read and _is_related(hit, best)]
    if related:
        blocks.append("**Related**\n\n" + "\n".join(_bullet(hit) for hit in related[:_RELATED]))
    return "\n\n".join(blocks) + "\n"


def _key(hit: dict[str, Any]) -> tuple[str, str, int]:
    return hit["module"], hit["name"], hit["line"]


def _is_related(hit: dict[str, Any], best: dict[str, Any]) -> bool:
    public = not any(part.startswith("_") for part in _name(hit).split("."))
    near: bool = hit["score"] >= 0.2 * min(best["score"], 60)  # a hit by name scores far above 60
    return public and near and bool(hit["summary"])


def _headline(hit: dict[str, Any]) -> str:
    where = f"`{hit['module']}`, line {hit['line']}" if hit["line"] else f"`{hit['module']}`, in C"
    if hit["kind"] == "module":
        return f"**`{hit['module']}`** is the module to look at ({where})."
    return f"**`{_name(hit)}`** is a {hit['kind']} of the standard library ({where})."


def _name(hit: dict[str, Any]) -> str:
    if hit["kind"] == "module":
        return str(hit["module"])
    return str(hit["name"]) if hit["module"] == "builtins" else f"{hit['module']}.{hit['name']}"


def _explained(hit: dict[str, Any], source: str) -> list[str]:
    blocks = []
    if hit["kind"] != "module":
        indent = "    "
        lines = textwrap.wrap(hit["signature"], 88, subsequent_indent=indent)
        blocks.append(_fence("python", *lines))
    doc = _docstring(source) or hit["summary"]
    if doc:
        lines = doc.splitlines()
        more = [f"… ({len(lines) - _DOC_LINES} more lines)"] if len(lines) > _DOC_LINES else []
        blocks += ["Its documentation says:", _fence("text", *lines[:_DOC_LINES], *more)]
    return blocks + _code(hit, source, _CODE_LINES)


def _code(hit: dict[str, Any], source: str, max_lines: int) -> list[str]:
    """Return the first lines of a definition, without its docstring, as a Markdown block."""
    if not source:
        return []
    code = textwrap.dedent(_DOCSTRING.sub("", source, count=1)).strip("\n").splitlines()
    dots = "..." if hit["kind"] == "module" else "    ..."
    more = [dots] if len(code) > max_lines or _is_cut(hit, source) else []
    shown = _fence("python", *code[:max_lines], *more)
    return [f"From `{hit['module']}`, line {hit['line']}:", shown]


def _is_cut(hit: dict[str, Any], source: str) -> bool:
    shown = len(source.splitlines())
    return shown < int(hit["end_line"]) - int(hit["line"]) + 1


_DOCSTRING = re.compile(r"""^[ \t]*[rRuU]?(\"{3}|'{3})(.*?)\1[ \t]*\n*""", re.DOTALL | re.MULTILINE)


def _docstring(source: str) -> str:
    match = _DOCSTRING.search(source)
    return inspect.cleandoc(match[2]) if match else ""


def _fence(language: str, *lines: str) -> str:
    text = "\n".join(lines)
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"


def _bullet(hit: dict[str, Any]) -> str:
    summary = textwrap.shorten(hit["summary"], 110, placeholder=" …")
    line = f", line {hit['line']}" if hit["line"] else ""
    return f"- `{_name(hit)}`{line}: {_escape(summary)}"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", text)
