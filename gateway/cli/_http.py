"""What a command asks a gateway over HTTP, with the standard library alone."""

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


class Answer(NamedTuple):
    """What a gateway answered."""

    value: Any
    headers: dict[str, str]


async def ask(reach: Target, method: str, path: str, body: Any = None, *scopes: str) -> Answer:
    """Send a request and return its answer.

    Args:
        reach: Which gateway, and with which token.
        method: Of HTTP.
        path: Below the gateway's address.
        body: As JSON; None: none.
        scopes: Of a token that is made for it.

    Raises:
        StoreUnavailable: nobody answered.
        RealtimeError: it was refused; as the gateway says.
    """
    request = urllib.request.Request(f"{reach.http_url}{path}", method=method)
    if scopes:
        request.add_header("Authorization", f"Bearer {reach.bearer(*scopes)}")
    if body is not None:
        request.data = msgspec.json.encode(body)  # whole numbers of any size
        request.add_header("Content-Type", "application/json")
    return await asyncio.to_thread(_send, request)


def _send(request: urllib.request.Request) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return Answer(orjson.loads(answer.read()), _lower(answer.headers))
    except urllib.error.HTTPError as error:
        raise _refusal(request, error) from None
    except (OSError, orjson.JSONDecodeError) as error:
        why = getattr(error, "reason", error)
        raise StoreUnavailable(f"no gateway answers at {request.full_url} ({why})") from None


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _refusal(request: urllib.request.Request, error: urllib.error.HTTPError) -> RealtimeError:
    try:
        body = orjson.loads(error.read())
        return from_wire(body["code"], body["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return StoreUnavailable(
            f"{request.full_url} answered {error.code} {error.reason}, as no gateway does"
        )


async def readers(reach: Target, run_id: str) -> dict[str, int]:
    """Ask how many read each stream of a run at this gateway."""
    path = f"/v1/runs/{run_id}/readers"
    answer = await ask(reach, "GET", path, None, f"read:runs:{run_id}")
    return dict(answer.value["streams"])
