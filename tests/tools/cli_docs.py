"""Generates docs/cli.md from the commands: `python -m tests.tools.cli_docs`.

The page contains the texts of the commands, not the layout of a version of typer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from gateway.cli import app

PATH = Path(__file__).parents[2] / "docs" / "cli.md"
HEAD = "<!-- Generated from the commands by `python -m tests.tools.cli_docs`. -->"


def document() -> str:
    """Return the help of every command as Markdown."""
    return "\n\n".join([HEAD, *_sections(get_command(app), "realtime")]) + "\n"


def _sections(command: Any, name: str) -> Iterator[str]:
    yield f"{'#' * (len(name.split()))} `{name}`"
    yield inspect.cleandoc(command.help)
    commands = getattr(command, "commands", {})
    yield f"```console\n$ {name}{_usage(command, bool(commands))}\n```"
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each not in arguments]
    yield from _list("Arguments", [_argument(each) for each in arguments])
    yield from _list("Options", [_option(each) for each in options if each.name != "help"])
    if command.epilog:
        yield command.epilog
    yield from _list("Commands", [f"`{each}`: {_first(commands[each])}" for each in commands])
    for each in commands:
        yield from _sections(commands[each], f"{name} {each}")


def _usage(command: Any, has_commands: bool) -> str:
    arguments = [_placed(each) for each in command.params if each.param_type_name == "argument"]
    return " ".join([" [OPTIONS]", *arguments, *(["COMMAND"] if has_commands else [])])


def _placed(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _argument(argument: Any) -> str:
    return f"`{_placed(argument)}`: {argument.help}"


def _option(option: Any) -> str:
    if option.is_flag:
        names = " / ".join([", ".join(option.opts), *option.secondary_opts])
    else:
        value = max(option.opts, key=len).strip("-").replace("-", "_").upper()
        names = f"{', '.join(option.opts)} {value}"
    notes = ["required"] if option.required else []
    if option.default not in (None, False, (), []) and not option.secondary_opts:
        notes.append(f"default: {option.default}")
    return f"`{names}`: {option.help}" + (f" ({'; '.join(notes)})" if notes else "")


def _first(command: Any) -> str:
    return inspect.cleandoc(command.help).partition("\n")[0]


def _list(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"**{title}**"
        yield "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    PATH.write_text(document())
