"""Reflex's configuration of the small app."""

import reflex as rx

config = rx.Config(
    app_name="small_app",
    telemetry_enabled=False,
    plugins=[rx.plugins.RadixThemesPlugin()],
    disable_plugins=[rx.plugins.SitemapPlugin],
)
