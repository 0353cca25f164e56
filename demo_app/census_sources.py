"""The former name of `census.sources`; the browser tests still import it."""

from demo_app.census.sources import sources

__all__ = ["sources"]
