"""Which pages a gateway in a Reflex app lets in."""

import pytest
import reflex as rx
from reflex_base.registry import RegistrationContext

from gateway.integrations.reflex import add_gateway
from gateway.settings import Settings
from gateway.visitors import may_connect
from gateway.web.app import WEBSOCKET_PATH


def origins_of(settings):
    with RegistrationContext.ensure_context().fork():  # Reflex has one app in each
        app = rx.App()
    add_gateway(app, settings)
    (route,) = (r for r in app.api_transformer[0].routes if r.path == WEBSOCKET_PATH)
    return route.endpoint.__self__.settings.origins


@pytest.fixture
def allowed(monkeypatch):
    def allow(*origins):
        config = rx.Config(app_name="a", cors_allowed_origins=origins)
        monkeypatch.setattr("gateway.integrations.reflex.get_config", lambda: config)

    return allow


def test_whoever_may_open_reflexs_own_socket_may_open_the_gateways(allowed):
    allowed("https://app.example")
    origins = origins_of(Settings(store="memory:"))
    assert may_connect("https://app.example", ["localhost:8000"], origins)
    assert not may_connect("https://evil.example", ["localhost:8000"], origins)


def test_by_default_that_is_every_page_as_in_development_on_another_port():
    origins = origins_of(Settings(store="memory:"))
    assert may_connect("http://localhost:3000", ["localhost:8000"], origins)


def test_the_gateways_own_setting_comes_first(allowed):
    allowed("*")
    origins = origins_of(Settings(store="memory:", origins=("https://app.example",)))
    assert origins == ("https://app.example",)
