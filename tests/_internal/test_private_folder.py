"""The folder of a SQLite file: created unless the path looks wrong, and ignored by git."""

import asyncio
import secrets
import subprocess
from pathlib import Path

import pytest

from gateway.auth.secret_file import resolve_secret
from gateway.errors import ConfigurationError
from gateway.sdk.session import opened
from gateway.settings import DEFAULT_STORE, Settings
from gateway.stores.factory import open_movable_store, open_store


def open_and_close(store):
    async def work():
        async with opened(store):
            pass

    asyncio.run(work())


@pytest.mark.parametrize("path", ["//{}/x.db", "///{}/x.db", "/{}/a/b/x.db"])
@pytest.mark.parametrize(
    "use",
    [
        lambda url: open_and_close(open_store(url)),
        lambda url: open_and_close(open_movable_store(url)),
        lambda url: resolve_secret(Settings(store=url)),
    ],
)
def test_no_folder_is_made_directly_below_the_root(path, use, monkeypatch):
    monkeypatch.chdir("/")
    name = f"typo-{secrets.token_hex(8)}"
    with pytest.raises(
        ConfigurationError, match=f"needs the folder /{name}, which does not exist"
    ) as refused:
        use(f"sqlite:{path.format(name)}")
    assert "secret_key" not in str(refused.value)
    assert f"a store in /{name}" in str(refused.value)
    assert not Path("/", name).exists()


def test_folders_of_a_relative_path_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_and_close(open_store("sqlite:data/sub/x.db"))
    assert (tmp_path / "data" / "sub" / "x.db").exists()
    assert not list(tmp_path.rglob(".gitignore"))


def test_git_ignores_the_folder_of_the_default_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    resolve_secret(Settings())
    open_and_close(open_store(DEFAULT_STORE))
    names = {path.name for path in Path(".realtime").iterdir()}
    assert {".gitignore", "realtime.db", "secret_key"} <= names
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(status, capture_output=True, check=True).stdout == b""


def test_a_gitignore_that_is_there_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolve_secret(Settings())
    kept = Path(".realtime/.gitignore")
    kept.write_text("realtime.db\n")
    resolve_secret(Settings())
    open_and_close(open_store(DEFAULT_STORE))
    assert kept.read_text() == "realtime.db\n"
