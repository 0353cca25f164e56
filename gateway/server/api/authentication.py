"""The bearer of an HTTP request: the secret key, or a token with its scopes."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from gateway.auth.permissions import Permissions
from gateway.errors import InvalidToken
from gateway.server.request_checks import reject_token_in_url

EVERYTHING = frozenset(
    {
        "read:runs:*",
        "write:runs:*",
        "trigger:tasks:*",
        "read:paths:*",
        "write:paths:*",
        "read:metrics:*",
    }
)


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks the bearer of HTTP requests.

    Args:
        verify: Verifies a token at a Unix time.
        secret_key: Returns the secret key. A backend that sends it has every scope.
        clock_s: Unix time.
    """

    verify: Callable[[object, float], Permissions]
    secret_key: Callable[[], str]
    clock_s: Callable[[], float] = time.time

    def permissions(self, request: Request) -> Permissions:
        """Return the permissions of a request's bearer; the secret key has all scopes.

        Raises:
            InvalidToken, TokenExpired, TokenRevoked: the token is not valid.
        """
        return self.permissions_of(bearer_of(request))

    def permissions_of(self, bearer: str) -> Permissions:
        """Return the permissions of a bearer; see `permissions`."""
        if self.is_secret(bearer):
            return Permissions(EVERYTHING, float("inf"), "secret")
        return self.verify(bearer, self.clock_s())

    def require_secret(self, request: Request, action: str) -> None:
        """Reject a request without the secret key.

        Raises:
            InvalidToken: the bearer is not the secret key; the message names the action.
        """
        if not self.is_secret(bearer_of(request)):
            raise InvalidToken(f"{action} needs the secret key as the bearer")

    def is_secret(self, bearer: str) -> bool:
        """Whether a bearer is the secret key, compared in constant time."""
        return hmac.compare_digest(bearer.encode(), self.secret_key().encode())


def bearer_of(request: Request) -> str:
    """Return the bearer of the `Authorization` header.

    Raises:
        InvalidToken: there is none.
        TokenInUrl: the URL has a token.
    """
    reject_token_in_url(request.scope)
    given = next(
        (value for name, value in request.scope["headers"] if name == b"authorization"), b""
    )
    scheme, _, value = given.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not value:
        raise InvalidToken("send `Authorization: Bearer TOKEN`; a token never travels in a URL")
    return value.strip()
