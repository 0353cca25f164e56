"""Reflex's configuration of the browser benchmark's app."""

import reflex as rx

config = rx.Config(
    app_name="browser_app",
    telemetry_enabled=False,
    plugins=[rx.plugins.RadixThemesPlugin()],
    disable_plugins=[rx.plugins.SitemapPlugin],
)
