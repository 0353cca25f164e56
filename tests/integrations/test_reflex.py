"""A gateway in a Reflex app: its path, and the origins that may connect."""

import logging

import pytest
import reflex as rx
from reflex_base.registry import RegistrationContext

from gateway.integrations.reflex import add_gateway
from gateway.model.network import may_connect
from gateway.server.gateway import WEBSOCKET_PATH
from gateway.settings import Settings


def mounted(settings):
    with RegistrationContext.ensure_context().fork():  # one Reflex app per folder
        app = rx.App()
    add_gateway(app, settings)
    return app.api_transformer[0]


def origins_of(settings):
    (route,) = (r for r in mounted(settings).routes if r.path == WEBSOCKET_PATH)
    return route.endpoint.__self__.settings.origins


@pytest.fixture
def configure(monkeypatch):
    def configure(**options):
        config = rx.Config(app_name="a", **options)
        monkeypatch.setattr("gateway.integrations.reflex.get_config", lambda: config)

    return configure


@pytest.fixture
def allowed(configure):
    return lambda *origins: configure(cors_allowed_origins=origins)


@pytest.mark.parametrize(
    ("store", "redis_url", "mode", "is_warned"),
    [
        ("memory:", "redis://localhost", "prod", True),
        ("sqlite:a.db", "redis://localhost", "prod", True),
        ("redis://localhost", "redis://localhost", "prod", False),
        ("memory:", "redis://localhost", "dev", False),  # one worker process
        ("memory:", None, "prod", False),
    ],
)
def test_sqlite_with_several_reflex_processes_warns(
    store, redis_url, mode, is_warned, configure, monkeypatch, caplog
):
    configure(redis_url=redis_url)
    monkeypatch.setenv("REFLEX_ENV_MODE", mode)
    with caplog.at_level(logging.WARNING, logger="uvicorn.error"):
        mounted(Settings(store=store))
    lines = [line for line in caplog.messages if "REALTIME_STORE=redis://" in line]
    assert (len(lines) == 1 and store in lines[0]) if is_warned else lines == []


@pytest.mark.parametrize("path", ["/api", "api", "/api/"])
def test_gateway_is_below_the_backend_path(path, configure):
    configure(backend_path=path)
    paths = {route.path for route in mounted(Settings(store="memory:")).routes}
    assert {f"/api{WEBSOCKET_PATH}", "/api/v1/events", "/api/readyz"} <= paths
    assert all(each.startswith("/api/") for each in paths)


def test_allowed_origins_of_reflex_may_connect(allowed):
    allowed("https://app.example")
    origins = origins_of(Settings(store="memory:"))
    assert may_connect("https://app.example", ["localhost:8000"], origins)
    assert not may_connect("https://evil.example", ["localhost:8000"], origins)


def test_any_origin_may_connect_by_default():
    origins = origins_of(Settings(store="memory:"))
    assert may_connect("http://localhost:3000", ["localhost:8000"], origins)


def test_origins_setting_overrides_reflex(allowed):
    allowed("*")
    origins = origins_of(Settings(store="memory:", origins=("https://app.example",)))
    assert origins == ("https://app.example",)
