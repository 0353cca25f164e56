"""How Reflex runs the demo."""

import reflex as rx

config = rx.Config(
    app_name="demo_app",
    telemetry_enabled=False,
    show_built_with_reflex=False,
    plugins=[
        rx.plugins.RadixThemesPlugin(
            theme=rx.theme(
                appearance="inherit", accent_color="iris", gray_color="slate", radius="large"
            )
        ),
    ],
    disable_plugins=[rx.plugins.SitemapPlugin],
)
