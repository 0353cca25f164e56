"""`gateway.ui` and `ui` are one package, in a wheel and in an editable install."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "ui").rglob("*.py")
)

BUILD = {"wheel": "build_wheel", "editable": "build_editable"}

Python = Callable[..., str]


@pytest.fixture(scope="module", params=BUILD)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Return a function that runs Python with the project installed in a new environment."""
    folder = tmp_path_factory.mktemp(request.param)
    code = f"import hatchling.build; print(hatchling.build.{BUILD[request.param]}({str(folder)!r}))"
    built = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    venv.create(folder / "env", with_pip=False)
    scheme = sysconfig.get_path(
        "purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")}
    )
    with zipfile.ZipFile(folder / built.stdout.split()[-1]) as wheel:
        wheel.extractall(scheme)
    # A `.pth` file adds the dependencies of the current environment. Python ignores `.pth` files in
    # a folder added this way, so the current editable install is not visible.
    Path(scheme, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    executable = str(folder / "env/bin/python")

    def run(*arguments: str, cwd: Path) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [executable, "-W", "error::ImportWarning", *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run("-c", "import gateway; print(gateway.__file__)", cwd=folder).strip()
    installed = ROOT if request.param == "editable" else Path(scheme)
    assert Path(where) == installed / "gateway/__init__.py"
    return run


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return the folder of a Reflex application with its own package `ui`."""
    (tmp_path / "ui").mkdir()
    (tmp_path / "ui/__init__.py").write_text("")
    (tmp_path / "ui/hooks.py").write_text("MINE = True\n")
    (tmp_path / "page.py").write_text(
        """
from gateway import streams
from gateway.ui import PageRun, use_realtime_run, use_realtime_stream
from ui.hooks import MINE

progress = use_realtime_stream("run_a", streams.define("progress", int))
run: PageRun | None = None
reveal_type(progress.latest)
reveal_type(use_realtime_run("run_a").is_success)
"""
    )
    return tmp_path


def test_app_with_its_own_ui_package_uses_gateway_ui(python: Python, app: Path) -> None:
    code = """
import builtins, sys
builtins.reveal_type = lambda value: None
import page, ui
print(ui.__file__, [name for name in sys.modules if name.startswith("ui.")])
print(page.progress._hook._var_data.imports[0][0])
"""
    own, client = python("-c", code, cwd=app).splitlines()
    assert own == f"{app / 'ui/__init__.py'} ['ui.hooks']"
    assert client == "$/public/external/gateway/ui/client/hooks.js"


@pytest.mark.parametrize("imports", ["import gateway.ui, ui", "import ui, gateway.ui"])
def test_both_import_paths_are_the_same_modules(
    python: Python, tmp_path: Path, imports: str
) -> None:
    code = f"""
import importlib, sys
{imports}
assert ui is gateway.ui
assert ui.hooks.use_realtime_run is gateway.ui.use_realtime_run
for name in {MODULES}:
    # If `gateway.ui` did not import a module, `import ui.…` would load a second copy of it.
    assert "gateway." + name in sys.modules, "not imported by gateway.ui: " + name
    module = importlib.import_module(name)
    assert module is importlib.import_module("gateway." + name), name
    assert module.__name__ == module.__spec__.name == "gateway." + name
"""
    python("-c", code, cwd=tmp_path)


@pytest.mark.parametrize("path", ["ui", "gateway.ui"])
def test_one_client_serves_both_import_paths(python: Python, tmp_path: Path, path: str) -> None:
    code = f"""
from {path} import use_realtime_run
((library, _),) = use_realtime_run("run_a").status._get_all_var_data().imports
print(library)
"""
    assert (
        python("-c", code, cwd=tmp_path).strip() == "$/public/external/gateway/ui/client/hooks.js"
    )


def test_gateway_imports_no_reflex_until_gateway_ui_is_imported(
    python: Python, tmp_path: Path
) -> None:
    code = "import sys, gateway; gateway.create_app; assert 'reflex' not in sys.modules"
    python("-c", code, cwd=tmp_path)


def test_mypy_sees_gateway_ui_in_an_app_with_its_own_ui(python: Python, app: Path) -> None:
    report = python("-m", "mypy", "--strict", f"--cache-dir={app / 'cache'}", "page.py", cwd=app)
    assert 'Revealed type is "reflex_base.vars.number.NumberVar[int]"' in report
    assert 'Revealed type is "reflex_base.vars.number.BooleanVar"' in report


def test_sdist_and_repository_build_the_same_wheel(tmp_path: Path) -> None:
    direct = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "1")]
    subprocess.run(direct, cwd=ROOT, check=True, capture_output=True)
    by_sdist = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(by_sdist, cwd=ROOT, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["tar", "-xf", str(sdist)], cwd=tmp_path, check=True)
    folder = tmp_path / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*direct[:-1], str(tmp_path / "2")], cwd=folder, check=True, capture_output=True)
    names = [
        zipfile.ZipFile(next((tmp_path / each).glob("*.whl"))).namelist() for each in ("1", "2")
    ]
    assert sorted(names[0]) == sorted(names[1])
    assert sorted(name for name in names[0] if name.startswith("ui/")) == [
        "ui/__init__.py",
        "ui/py.typed",
    ]
    assert "gateway/ui/client/hooks.js" in names[0]
    assert not [name for name in names[0] if name.startswith("demo_app/")]
