"""Query parameters. An unknown one is rejected: an ignored filter would list too much."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import InvalidValue
from gateway.model.records import shown
from gateway.server.request_checks import reject_token_in_url

Endpoint = Callable[[Request], Awaitable[Response]]

_WHOLE = re.compile(r"[0-9]{1,9}\Z", re.ASCII)


def allow_params(
    endpoint: Endpoint, once: tuple[str, ...] = (), often: tuple[str, ...] = ()
) -> Endpoint:
    """Make an endpoint reject all parameters except these.

    Args:
        endpoint: The endpoint that answers checked requests.
        once: Parameters that may be given once.
        often: Parameters that may be given several times.
    """

    async def checked(request: Request) -> Response:
        reject_token_in_url(request.scope)
        _check(request.query_params, once, often)
        return await endpoint(request)

    return checked


def _check(query: QueryParams, once: tuple[str, ...], often: tuple[str, ...]) -> None:
    for name in query:
        if name not in (*once, *often):
            known = ", ".join((*once, *often)) or "none"
            raise InvalidValue(f"the parameter {shown(name)} is not known here; known: {known}")
        if name in once and len(query.getlist(name)) > 1:
            raise InvalidValue(f"the parameter {name} is given {len(query.getlist(name))} times")


def whole_number(query: QueryParams, name: str, default: int, most: int) -> int:
    """Read a parameter that is a whole number from 1.

    Raises:
        InvalidValue: it is not a whole number from 1, or over its limit.
    """
    text = query.get(name)
    if text is None:
        return default
    if not _WHOLE.match(text) or not 1 <= int(text) <= most:
        raise InvalidValue(f"{name} is {shown(text)}; it is a whole number from 1 to {most}")
    return int(text)
