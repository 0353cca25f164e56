"""Embedding in a Reflex app: `add_gateway(app)` is all that is needed."""

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

_log = logging.getLogger("uvicorn.error")  # where the gateway's own words are


def add_gateway(app: rx.App, settings: Settings | None = None) -> Gateway | None:
    """Mount a gateway in a Reflex app, and start and stop it with the app.

    Its WebSocket is then at the Reflex backend's own address (with its `backend_path`), which is
    where pages look for it.
    Pages of the origins that Reflex allows (`cors_allowed_origins`) may connect, unless the
    settings name others (`REALTIME_ORIGINS`).
    With `REALTIME_URL` set, nothing is mounted: tasks of this app work through the gateway at that
    address, and pages have to be told it (`gateway_url`).

    Args:
        app: The Reflex app, before it is run.
        settings: What the gateway runs with; default: the environment's.

    Returns:
        The gateway; None where this app works through one elsewhere.
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
    # In development pages come from another port than the gateway's: whoever may open Reflex's own
    # socket may open this one.
    origins = settings.origins or tuple(get_config().cors_allowed_origins)
    gateway = Gateway(replace(settings, origins=origins))
    prefix = get_config().prepend_backend_path("/").rstrip("/")
    mounted = make_app(gateway, cors=False)
    mounted.router.routes = under(prefix, mounted.routes)
    app.api_transformer = [mounted, *_transformers(app)]
    # Reflex never runs the lifespan of a mounted app, so its own has to.
    app.register_lifespan_task(gateway.run)
    return gateway


def _transformers(app: rx.App) -> list[Any]:
    there: Any = app.api_transformer
    if there is None:
        return []
    return list(there) if isinstance(there, list | tuple) else [there]
