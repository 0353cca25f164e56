"""How Reflex runs the app of the browser's benchmark."""

import reflex as rx

config = rx.Config(
    app_name="browser_app",
    telemetry_enabled=False,
    plugins=[rx.plugins.RadixThemesPlugin()],
    disable_plugins=[rx.plugins.SitemapPlugin],
)
