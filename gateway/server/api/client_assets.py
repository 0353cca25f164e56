"""Serves the browser's client: one ES module, and its types.

They are public code: no token is needed, and pages of any origin may import them. A page's token
and `REALTIME_ORIGINS` decide what it may do with them.

Source:
    PROTOCOL.md, section 12.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.server.api.client_bundle import bundle
from gateway.server.entity_tags import matches

FOLDER = resources.files("gateway") / "ui" / "client"
"""The ES modules, which Reflex pages use too. Not `files("gateway.ui")`: it would import Reflex."""

PATH = "/v1/client.js"
TYPES_PATH = "/v1/client.d.ts"


class _File(NamedTuple):
    body: bytes
    content_type: str
    tag: str


@cache
def client_module() -> str:
    """Return the client as the text of one ES module."""
    head = f"/* Realtime Streams {version('realtime-streams')}, MIT license */\n\n"
    return head + bundle("client.js", lambda name: (FOLDER / name).read_text("utf-8"))


@cache
def client_types() -> str:
    """Return the TypeScript declarations of that module."""
    return (FOLDER / "client.d.ts").read_text("utf-8")


_HOME = "const HOME = import.meta.url;"
_URL = ("url?: string | URL", "url: string | URL")
_CONNECT = ("connect(options?: ConnectOptions)", "connect(options: ConnectOptions)")


def package() -> dict[str, str]:
    """Return the client as an npm package: the text of each file by its name.

    It is the module that the gateway serves, with one difference: it was not loaded from a gateway,
    so `connect` needs a URL.
    """
    return {
        "package.json": json.dumps(_manifest(), indent=2) + "\n",
        "client.js": _replaced(client_module(), (_HOME, "const HOME = null;")),
        "client.d.ts": _replaced(client_types(), _URL, _CONNECT),
    }


def _manifest() -> dict[str, Any]:
    return {
        "name": "realtime-streams-client",
        "version": version("realtime-streams"),
        "description": "Client of Realtime Streams, written by `realtime client`",
        "license": "MIT",
        "type": "module",
        "sideEffects": False,
        "exports": {".": {"types": "./client.d.ts", "default": "./client.js"}},
        "types": "./client.d.ts",
        "files": ["client.js", "client.d.ts"],
    }


def _replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@cache
def _file(path: str) -> _File:
    is_types = path == TYPES_PATH
    body = (client_types() if is_types else client_module()).encode()
    kind = "application/typescript" if is_types else "text/javascript"
    return _File(body, f"{kind}; charset=utf-8", f'"{hashlib.sha256(body).hexdigest()[:32]}"')


async def _serve(request: Request) -> Response:
    body, content_type, tag = _file(PATH if request.url.path.endswith(".js") else TYPES_PATH)
    headers = {
        "Content-Type": content_type,
        "ETag": tag,
        # cached, but revalidated by its tag: it changes with the gateway's version
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-TypeScript-Types": "./client.d.ts",
    }
    if matches(request.headers.get("if-none-match"), tag):
        return Response(None, 304, headers)
    return Response(body, 200, headers)


ROUTES = [Route(path, _serve, methods=["GET"]) for path in (PATH, TYPES_PATH)]
"""The files' paths; `HEAD` comes with `GET`."""
