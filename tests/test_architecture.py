"""What may import what, what a user sees, and that it is told."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gateway

ROOT = Path(__file__).parents[1]


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_imports_go_down_only():
    lint = Path(sys.executable).with_name("lint-imports")
    done = run(lint, "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_public_names_are_these():
    assert gateway.__all__ == [
        "AbortTask",
        "Retry",
        "Run",
        "RunError",
        "RunHandle",
        "RunResult",
        "Settings",
        "Stream",
        "StreamRecord",
        "Task",
        "connect",
        "create_app",
        "current_run",
        "errors",
        "metadata",
        "mount",
        "run_in_loop",
        "runs",
        "streams",
        "task",
        "tokens",
        "wait",
    ]
    for name in gateway.__all__:
        assert getattr(gateway, name) is not None


def test_a_worker_that_only_appends_loads_no_web_server():
    heavy = "('starlette', 'uvicorn', 'reflex', 'httpx', 'typer', 'hypothesis', 'celery', 'taskiq')"
    code = f"import sys, gateway; print([n for n in {heavy} if n in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_web_half_is_loaded_when_it_is_asked_for():
    code = "import sys, gateway; gateway.create_app; print('starlette' in sys.modules)"
    assert run(sys.executable, "-c", code).stdout.strip() == "True"


def test_unknown_name_is_reported():
    try:
        _ = gateway.nonsense
    except AttributeError as error:
        assert "nonsense" in str(error)
    else:
        raise AssertionError("gateway.nonsense is there")


def test_public_names_have_docstrings():
    pytest.importorskip("reflex", reason="`make fast` installs no Reflex")
    silent = []
    for module in modules():
        if not module.__doc__:
            silent.append(module.__name__)
        for name, thing in vars(module).items():
            is_own = getattr(thing, "__module__", None) == module.__name__
            if name.startswith("_") or not is_own:
                continue
            if inspect.isfunction(thing) and not thing.__doc__:
                silent.append(f"{module.__name__}.{name}")
            if inspect.isclass(thing):
                silent += [f"{module.__name__}.{name}"] if not thing.__doc__ else []
                silent += [
                    f"{module.__name__}.{name}.{method}"
                    for method, function in vars(thing).items()
                    if inspect.isfunction(function)
                    and not method.startswith("_")
                    and not function.__doc__
                ]
    assert silent == []


def modules():
    for info in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if info.name != "gateway.__main__" and not info.name.startswith("gateway.integrations."):
            yield importlib.import_module(info.name)
