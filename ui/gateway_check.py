"""Detect an application that uses the hooks without a gateway, when its pages are built."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from gateway._internal.extras import needs

with needs("ui"):
    from reflex.config import get_config
    from starlette.applications import Starlette

WEBSOCKET_PATH = "/v1/ws"

_log = logging.getLogger("realtime.hooks")


def warn_without_gateway() -> None:
    """Log once that the app's backend has no gateway for hooks without `gateway_url`.

    Reflex builds pages after it has imported the app's module. During the import this function logs
    nothing, as the module may still call `add_gateway(app)`.
    """
    module = sys.modules.get(get_config().module)
    if module is not None and not _is_being_imported(module) and lacks_gateway(module):
        _warn(module.__name__)


def lacks_gateway(module: Any) -> bool:
    """Whether the app of a module certainly has no gateway; False if it may have one."""
    app = getattr(module, "app", None)
    if app is None:
        return False
    transformers = getattr(app, "api_transformer", None) or ()
    if not isinstance(transformers, list | tuple):
        transformers = (transformers,)
    if not all(isinstance(each, Starlette) for each in transformers):
        return False  # a function that wraps the backend may add routes
    return not any(path.endswith(WEBSOCKET_PATH) for path in _paths(transformers))


def _paths(transformers: Any) -> Iterator[str]:
    for transformer in transformers:
        for route in transformer.routes:
            yield getattr(route, "path", "")


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


@cache
def _warn(name: str) -> None:
    _log.error(
        "pages of %s use realtime hooks, but the app has no gateway, so that they stay empty: call "
        "add_gateway(app) of gateway.integrations.reflex in that module; with REALTIME_URL set, or "
        "for a gateway elsewhere, give each hook its gateway_url",
        name,
    )
