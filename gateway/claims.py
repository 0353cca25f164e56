"""The claims of a token: which there are, and of which form each is. No I/O, no clock.

Whatever mints and whatever verifies reads them here, so that what is minted can be verified. A
claim that is not known is refused: a misspelt one would silently hide or limit nothing.

Source:
    PROTOCOL.md, section 10; RFC 7519, section 4.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.access import TriggerGrant
from gateway.untrusted import NotJson, read_json

AUDIENCE = "realtime-streams"
LAST_S = 253_402_300_799  # the end of the year 9999

Time = Annotated[float, Meta(ge=0, le=LAST_S)]
TokenId = Annotated[str, Meta(min_length=1, max_length=128)]
Subject = Annotated[str, Meta(min_length=1, max_length=1024)]


class BadClaims(ValueError):
    """The claims are none of a token; the message names the claim and its rule."""


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token says.

    Attributes:
        aud: Whom it is for: `AUDIENCE`, perhaps among others.
        iat: When it was issued, Unix time.
        exp: When it expires, Unix time.
        jti: Its id, by which it can be revoked.
        scopes: What it allows.
        sub: Who it was made for.
        skip: Fields of runs that its bearer never sees.
        trigger: The limits of a token that triggers tasks.
        par: The ids of the tokens that it was made from.
        par_iat: When the oldest of these was issued.
        nbf: From when on it is good, Unix time.
        iss: Who issued it; says nothing here.
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
        BadClaims: one is missing, unknown or outside its rule, or it is for another audience.
    """
    try:
        claims = msgspec.convert(read_json(data), Claims)
    except (NotJson, msgspec.ValidationError) as error:
        raise BadClaims(_shortened(str(error))) from None
    if AUDIENCE not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise BadClaims(f"aud does not name {AUDIENCE}")
    return claims


def check_claims(claims: dict[str, Any]) -> dict[str, Any]:
    """Return claims if a token may say them.

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
