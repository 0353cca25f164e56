"""Building pages logs that an app with hooks has no gateway."""

import importlib
import logging
import sys

import pytest
import reflex as rx
from reflex_base.registry import RegistrationContext

import gateway.ui.gateway_check
from gateway.integrations.reflex import add_gateway
from gateway.settings import Settings
from gateway.ui import use_realtime_run

MODULE = "app_without_a_gateway"
SETTINGS = Settings(store="memory:")


@pytest.fixture
def written(monkeypatch, caplog):
    """Return a function that returns the logged lines; `MODULE` is the app's module."""
    config = rx.Config(app_name=MODULE, app_module_import=MODULE)
    monkeypatch.setattr("gateway.ui.gateway_check.get_config", lambda: config)
    gateway.ui.gateway_check._warn.cache_clear()
    with caplog.at_level(logging.ERROR, logger="realtime.hooks"):
        yield lambda: [line for line in caplog.messages if "no gateway" in line]
    sys.modules.pop(MODULE, None)


def import_app(tmp_path, monkeypatch, *lines):
    """Import an app's module, as Reflex does before it builds the pages."""
    text = "\n".join(["import reflex as rx", "from gateway.ui import use_realtime_run", *lines])
    (tmp_path / f"{MODULE}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with RegistrationContext.ensure_context().fork():  # Reflex has one app in each
        return importlib.import_module(MODULE).app


def test_app_without_gateway_is_logged_once_with_remedy(written, tmp_path, monkeypatch):
    import_app(tmp_path, monkeypatch, "app = rx.App()")
    use_realtime_run("run_a")
    use_realtime_run("run_b")
    [line] = written()
    assert MODULE in line and "add_gateway(app)" in line and "gateway_url" in line


def test_hook_with_gateway_url_needs_no_gateway_in_app(written, tmp_path, monkeypatch):
    import_app(tmp_path, monkeypatch, "app = rx.App()")
    use_realtime_run("run_a", gateway_url="https://live.example.com")
    assert written() == []


@pytest.mark.parametrize("path", ["", "/api"])
def test_app_with_gateway_is_not_logged(path, written, tmp_path, monkeypatch):
    config = rx.Config(app_name="a", backend_path=path)
    monkeypatch.setattr("gateway.integrations.reflex.get_config", lambda: config)
    add_gateway(import_app(tmp_path, monkeypatch, "app = rx.App()"), SETTINGS)
    use_realtime_run("run_a")
    assert written() == []


def test_page_built_before_add_gateway_is_not_logged(written, tmp_path, monkeypatch):
    import_app(tmp_path, monkeypatch, 'use_realtime_run("run_a")', "app = rx.App()")
    assert written() == []


def test_app_with_backend_wrapper_is_not_logged(written, tmp_path, monkeypatch):
    import_app(tmp_path, monkeypatch, "app = rx.App(api_transformer=lambda app: app)")
    use_realtime_run("run_a")
    assert written() == []
