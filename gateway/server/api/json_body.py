"""JSON bodies of requests and responses, and the response to an error."""

from __future__ import annotations

import math
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.errors import FrameTooLarge, InvalidValue, RealtimeError
from gateway.model.limits import MAX_PAYLOAD_BYTES
from gateway.model.untrusted_json import NotJson, check_json
from gateway.sdk.values.encoding import format_validation_error

MAX_BODY_BYTES = MAX_PAYLOAD_BYTES + (16 << 10)  # a payload and the fields around it

B = TypeVar("B", bound=BaseModel)


class RequestBody(BaseModel):
    """A JSON body; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


async def read_body(request: Request) -> bytes:
    """Read a request's body.

    Raises:
        FrameTooLarge: it is over `MAX_BODY_BYTES`.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise FrameTooLarge(f"the body is over the limit of {MAX_BODY_BYTES} bytes")
    return bytes(data)


def parse_body(model: type[B], data: bytes) -> B:
    """Parse a JSON body; an empty one counts as `{}`.

    Raises:
        InvalidValue: it is not JSON, or not what the model allows.
    """
    try:
        return model.model_validate_json(check_json(data or b"{}"))
    except NotJson as error:
        raise InvalidValue(f"the body is no JSON that is accepted: {error}") from None
    except ValidationError as error:
        raise InvalidValue(f"the body: {format_validation_error(error)}") from None


def json_response(model: BaseModel, status: int = 200) -> Response:
    """Make a JSON response of a model."""
    return Response(model.model_dump_json(), status, media_type="application/json")


def error_response(error: RealtimeError) -> JSONResponse:
    """Make the response to an error: its code, its message, and whether a retry can help."""
    body = {"code": error.code, "message": error.message, "retryable": error.retryable}
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return JSONResponse(body, error.http_status, headers)
