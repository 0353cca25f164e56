"""Requests to a gateway over HTTP, with the standard library only."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from typing import Any, NamedTuple

import msgspec
import orjson

from gateway.cli._target import Target
from gateway.errors import RealtimeError, StoreUnavailable, from_wire

TIMEOUT_S = 30.0


class Response(NamedTuple):
    """A gateway's response: its JSON body, and its headers with lower-case names."""

    value: Any
    headers: dict[str, str]


async def request(
    target: Target, method: str, path: str, body: Any = None, *scopes: str
) -> Response:
    """Send a request to a gateway and return the response.

    Args:
        target: The gateway and its token.
        method: The HTTP method.
        path: Path below the gateway's address.
        body: Sent as JSON unless it is None.
        scopes: Scopes of the token; without scopes the request has no token.

    Raises:
        StoreUnavailable: no gateway responded.
        RealtimeError: the error with which the gateway rejected the request.
    """
    sent = urllib.request.Request(f"{target.http_url}{path}", method=method)
    if scopes:
        sent.add_header("Authorization", f"Bearer {target.token_for(*scopes)}")
    if body is not None:
        sent.data = msgspec.json.encode(body)  # unlike orjson, integers of any size
        sent.add_header("Content-Type", "application/json")
    return await asyncio.to_thread(_send, sent)


def _send(request: urllib.request.Request) -> Response:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return Response(orjson.loads(response.read()), _lower(response.headers))
    except urllib.error.HTTPError as error:
        raise _gateway_error(request, error) from None
    except (OSError, orjson.JSONDecodeError) as error:
        reason = getattr(error, "reason", error)
        raise StoreUnavailable(f"no gateway answers at {request.full_url} ({reason})") from None


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _gateway_error(request: urllib.request.Request, error: urllib.error.HTTPError) -> RealtimeError:
    try:
        body = orjson.loads(error.read())
        return from_wire(body["code"], body["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return StoreUnavailable(
            f"{request.full_url} answered {error.code} {error.reason}; a gateway does not"
        )


async def reader_counts(target: Target, run_id: str) -> dict[str, int]:
    """Return the number of readers of each stream of a run at this gateway."""
    path = f"/v1/runs/{run_id}/readers"
    response = await request(target, "GET", path, None, f"read:runs:{run_id}")
    return dict(response.value["streams"])
