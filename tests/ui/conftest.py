"""Fixtures of the hooks' tests."""

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.ui.client import register_client


@pytest.fixture(autouse=True, scope="module")
def app_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Change to a new folder, as building a page writes assets into the working directory."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("app")
    os.chdir(folder)
    register_client.cache_clear()
    yield folder
    os.chdir(before)
