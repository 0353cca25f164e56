"""The demo dashboard: real work, streamed to a page written in Python."""
