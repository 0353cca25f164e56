"""HTTP for backends: mint and revoke tokens. Both need the secret key itself."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import tokens
from gateway.server.api.authentication import Authenticator
from gateway.server.api.json_body import RequestBody, json_response, parse_body, read_body
from gateway.server.query_params import allow_params


class TokenBody(RequestBody):
    """The token to mint."""

    scopes: list[str]
    ttl_s: float = tokens.DEFAULT_TTL_S
    subject: str | None = Field(default=None, min_length=1, description="The subject, `sub`.")
    skip: list[str] = Field(
        default_factory=list,
        description="Fields of runs that its bearer does not get: payload, output, metadata.",
    )


class TokenAnswer(BaseModel):
    """A new token."""

    token: str
    id: str = Field(description="Its `jti`, by which it can be revoked.")


class RevokeBody(RequestBody):
    """The tokens to revoke: one, or all tokens of a subject issued before a time."""

    token_id: str | None = Field(default=None, description="The token's `jti`.")
    subject: str | None = Field(default=None, description="The tokens' `sub`, in its place.")
    issued_before_s: float | None = Field(
        default=None, description="With `subject`: Unix time; left out, it is now."
    )


class RevokeAnswer(BaseModel):
    """The revocation, which is durable."""

    token_id: str | None
    subject: str | None
    issued_before_s: float | None


@dataclass(frozen=True, slots=True)
class TokensApi:
    """The endpoints.

    Args:
        authenticator: Recognizes the secret key.
    """

    authenticator: Authenticator

    @property
    def routes(self) -> list[Route]:
        """The endpoints' paths."""
        return [
            Route("/v1/tokens", allow_params(self.mint), methods=["POST"]),
            Route("/v1/tokens/revoke", allow_params(self.revoke), methods=["POST"]),
        ]

    async def mint(self, request: Request) -> Response:
        """Mint a token. Requires the secret key."""
        self.authenticator.require_secret(request, "minting")
        body = parse_body(TokenBody, await read_body(request))
        token = tokens.mint(
            body.scopes,
            ttl_s=body.ttl_s,
            subject=body.subject or "",
            skip=body.skip,
            now_s=self.authenticator.clock_s(),
        )
        return json_response(TokenAnswer(token=token, id=tokens.id_of(token)), 201)

    async def revoke(self, request: Request) -> Response:
        """Revoke tokens. Requires the secret key."""
        self.authenticator.require_secret(request, "revoking")
        body = parse_body(RevokeBody, await read_body(request))
        done = await tokens.revoke(
            token_id=body.token_id, subject=body.subject, issued_before=body.issued_before_s
        )
        return json_response(
            RevokeAnswer(
                token_id=done.token_id,
                subject=done.subject,
                issued_before_s=done.issued_before_s,
            )
        )
