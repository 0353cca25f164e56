"""The browser's client, tested by Node's own runner."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_javascript_client_passes_its_own_tests() -> None:
    node = shutil.which("node", path=Path(sys.executable).parent) or shutil.which("node")
    if node is None:
        pytest.skip("no node found: `make setup` installs it into .venv")
    files = sorted(str(path) for path in (ROOT / "tests" / "js").glob("*.test.js"))
    assert files
    done = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
