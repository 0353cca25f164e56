"""Writes docs/cli.md from the commands' help: `python tests/cli_docs.py`."""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

PATH = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = "<!-- Made of the commands' help by `python tests/cli_docs.py`. -->\n\n"


def document() -> str:
    """Return the help of every command as Markdown."""
    command = [sys.executable, "-m", "typer", "gateway.cli", "utils", "docs", "--name", "realtime"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return f"{HEAD}{html.unescape(done.stdout).strip()}\n"


if __name__ == "__main__":
    PATH.write_text(document())
