"""Bundles several ES modules into one, without an external bundler. No I/O.

Each module becomes a function's body, which keeps its private names private. The function runs
once, after the modules that it imports. Only the forms of `import` and `export` that the client's
files use are supported; any other is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_IMPORT = re.compile(r'^import \{([^{}]*)\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function\*?|class|const) (\w+)", re.MULTILINE)
_OTHER = re.compile(r"^(?:import\b(?!\()|export\b).*", re.MULTILINE)
_RENAMED = re.compile(r"^(\w+) as (\w+)$")


class BundleError(Exception):
    """A module that cannot be bundled; the message names the line and the reason."""


def bundle(entry: str, read: Callable[[str], str]) -> str:
    """Bundle an entry module with everything that it imports.

    Args:
        entry: File name of the module whose exports the bundle has.
        read: Returns a module's text by its file name.

    Returns:
        The text of an ES module without imports. Equal files give an equal text.

    Raises:
        BundleError: modules import each other in a cycle, or a line has an unsupported form.
    """
    written: dict[str, list[str]] = {}
    parts: list[str] = []
    _write(entry, read, written, parts, ())
    names = ", ".join(written[entry])
    return "\n".join([*parts, f"export const {{ {names} }} = {_variable(entry)};\n"])


def _write(
    name: str,
    read: Callable[[str], str],
    written: dict[str, list[str]],
    parts: list[str],
    above: tuple[str, ...],
) -> None:
    if name in above:
        raise BundleError(f"modules import each other: {' → '.join((*above, name))}")
    if name in written:
        return
    text = read(name)
    for match in _IMPORT.finditer(text):
        _write(match[2], read, written, parts, (*above, name))
    for match in _IMPORT.finditer(text):
        _check_names(name, match, written[match[2]])
    body = _IMPORT.sub(
        lambda match: f"const {{ {_wanted(match[1])} }} = {_variable(match[2])};\n", text
    )
    exported = [match[2] for match in _EXPORT.finditer(body)]
    body = _EXPORT.sub(r"\1 \2", body)
    if other := _OTHER.search(body):
        raise BundleError(f"{name}: this form is not known: {other[0]}")
    written[name] = exported
    names = ", ".join(exported)
    head = f"const {_variable(name)} = (() => {{"
    parts.append(f"{head}\n{body.strip()}\n\nreturn {{ {names} }};\n}})();\n")


def _check_names(name: str, match: re.Match[str], exported: list[str]) -> None:
    for wanted in _names(match[1]):
        original = wanted.partition(" as ")[0]
        if original not in exported:
            raise BundleError(f"{name}: {match[2]} exports no {original}")


def _names(list_: str) -> list[str]:
    return [name.strip() for name in list_.split(",") if name.strip()]


def _wanted(list_: str) -> str:
    return ", ".join(_RENAMED.sub(r"\1: \2", name) for name in _names(list_))


def _variable(name: str) -> str:
    return "$" + name.removesuffix(".js")
