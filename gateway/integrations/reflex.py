"""A gateway in a Reflex application, by `add_gateway(app)`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from gateway._internal.extras import needs
from gateway.model.store_urls import is_redis
from gateway.settings import Settings

with needs("ui"):
    import reflex as rx
    from reflex.config import get_config
    from reflex.utils.exec import is_prod_mode

    from gateway.server.app import make_app
    from gateway.server.gateway import Gateway
    from gateway.server.mount import connected_to, under

_log = logging.getLogger("uvicorn.error")  # the logger of the gateway's own messages


def add_gateway(app: rx.App, settings: Settings | None = None) -> Gateway | None:
    """Mount a gateway in a Reflex app, and start and stop it with the app.

    The gateway's WebSocket is at the address of the Reflex backend (with its `backend_path`), which
    pages use by default. Pages of the origins that Reflex allows (`cors_allowed_origins`) may
    connect, unless the settings list other origins (`REALTIME_ORIGINS`).

    With `REALTIME_URL` set, nothing is mounted: tasks of this app use the gateway at that address,
    and pages need the address as `gateway_url`.

    Args:
        app: The Reflex app, before it runs.
        settings: Settings of the gateway; default: the environment's.

    Returns:
        The gateway, or None if this app uses a gateway elsewhere.
    """
    settings = settings or Settings.from_env()
    if settings.url is not None:
        app.register_lifespan_task(connected_to(settings.url))
        return None
    if get_config().redis_url and is_prod_mode() and not is_redis(settings.store):
        _log.warning(
            "Reflex has a Redis (REFLEX_REDIS_URL) and so starts several worker processes in "
            "production, but the store %s belongs to one process: set REALTIME_STORE=redis://…",
            settings.store,
        )
    # In development the pages have another port than the gateway. An origin that may open Reflex's
    # own socket may open this one too.
    origins = settings.origins or tuple(get_config().cors_allowed_origins)
    gateway = Gateway(replace(settings, origins=origins))
    prefix = get_config().prepend_backend_path("/").rstrip("/")
    mounted = make_app(gateway, cors=False)
    mounted.router.routes = under(prefix, mounted.routes)
    app.api_transformer = [mounted, *_existing_transformers(app)]
    # Reflex does not run the lifespan of a mounted application: its own lifespan runs the gateway.
    app.register_lifespan_task(gateway.run)
    return gateway


def _existing_transformers(app: rx.App) -> list[Any]:
    existing: Any = app.api_transformer
    if existing is None:
        return []
    return list(existing) if isinstance(existing, list | tuple) else [existing]
