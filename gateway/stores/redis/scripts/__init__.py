"""Lua scripts that run inside the server. `shared.lua` describes the keys of a stream."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script and its SHA-1 name for EVALSHA.

    Attributes:
        source: Lua source, for Redis 6.2 and later and for Valkey.
        sha: SHA-1 of the source, in hex.
    """

    source: bytes
    sha: bytes


def _load() -> dict[str, Script]:
    texts = {
        file.name.removesuffix(".lua"): file.read_bytes()
        for file in files(__name__).iterdir()
        if file.name.endswith(".lua")
    }
    shared = texts.pop("shared")
    sources = {name: shared + text for name, text in texts.items()}
    return {
        name: Script(source, hashlib.sha1(source).hexdigest().encode())
        for name, source in sources.items()
    }


SCRIPTS = _load()
"""All scripts by name, without the suffix `.lua`."""
