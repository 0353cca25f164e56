"""The claims of a token: their names and the form of each. No I/O, no clock.

Minting and verification both use this module, so that every minted token can be verified. An
unknown claim is rejected: a misspelt one would silently hide or limit nothing.

Source:
    PROTOCOL.md, section 10; RFC 7519, section 4.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.auth.permissions import TriggerGrant
from gateway.model.untrusted_json import NotJson, read_json

AUDIENCE = "realtime-streams"
MAX_SUBJECT_CHARACTERS = 1024
LAST_S = 253_402_300_799  # the end of the year 9999

Time = Annotated[float, Meta(ge=0, le=LAST_S)]
TokenId = Annotated[str, Meta(min_length=1, max_length=128)]
Subject = Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT_CHARACTERS)]


class BadClaims(ValueError):
    """The claims do not make a valid token; the message names the claim and its rule."""


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The claims of one token.

    Attributes:
        aud: Its audience: `AUDIENCE`, perhaps among others.
        iat: When it was issued, Unix time.
        exp: When it expires, Unix time.
        jti: Its id; a revocation names it.
        scopes: The scopes that it grants.
        sub: The subject that it was issued for.
        skip: Fields of runs that its bearer never receives.
        trigger: The limits of a token that triggers tasks.
        par: The ids of the tokens that it was derived from.
        par_iat: When the oldest of these tokens was issued.
        nbf: When it becomes valid, Unix time.
        iss: Its issuer; accepted and ignored.
    """

    aud: str | list[str]
    iat: Time
    exp: Time
    jti: TokenId
    scopes: list[str]
    sub: Subject | None = None
    skip: list[Literal["payload", "output", "metadata"]] = []
    trigger: TriggerGrant | None = None
    par: list[TokenId] = []
    par_iat: Time | None = None
    nbf: Time | None = None
    iss: str | None = None


def read_claims(data: bytes) -> Claims:
    """Read the payload of a token.

    Raises:
        BadClaims: a claim is missing, unknown or breaks its rule, or the audience is another.
    """
    try:
        claims = msgspec.convert(read_json(data), Claims)
    except (NotJson, msgspec.ValidationError) as error:
        raise BadClaims(_shortened(str(error))) from None
    if AUDIENCE not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise BadClaims(f"aud does not name {AUDIENCE}")
    return claims


def check_claims(claims: dict[str, Any]) -> dict[str, Any]:
    """Return the claims unchanged if a token may have them.

    Raises:
        BadClaims: as `read_claims`.
    """
    try:
        data = msgspec.json.encode(claims)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadClaims(f"they have no JSON: {error}") from None
    read_claims(data)
    return claims


def _shortened(reason: str) -> str:
    return reason if len(reason) <= 200 else f"{reason[:200]}…"
