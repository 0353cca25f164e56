"""Read a token: is it this gateway's, is it good now, what does it say? The clock is an argument.

Source:
    PROTOCOL.md, section 10; RFC 7519, section 4.1; RFC 8725, section 3.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

from gateway.auth.claims import BadClaims, Claims, read_claims
from gateway.auth.keys import KeyRing
from gateway.auth.permissions import MAX_TTL_S, Permissions
from gateway.auth.revocations import MAX_SKEW_S
from gateway.errors import ConfigurationError, InvalidToken, TokenExpired

MAX_TOKEN_CHARACTERS = 16_384
REMEMBERED = 4096  # tokens that were good; 1 KB each, up to 5
REMEMBERED_CHARACTERS = 2048  # of one of them


def verify(
    token: object, *, secret_key: str | None = None, keys: KeyRing | None = None, now_s: float
) -> Permissions:
    """Check a token's signature, audience and life, and read what it allows.

    Args:
        token: What the client sent.
        secret_key: The gateway's secret.
        keys: The gateway's keys, in place of the secret.
        now_s: Unix time.

    Returns:
        What the bearer may do.

    Raises:
        TokenExpired: it was good once.
        InvalidToken: anything else; the message never repeats the token.
    """
    text = _text(token)
    if keys is None:
        if secret_key is None:
            raise ConfigurationError("verify needs secret_key or keys")
        keys = KeyRing.of_secret(secret_key)
    return _judge(_read(text, keys), now_s)


class Verifier:
    """Verifies the tokens of one ring of keys; a signature that was good is not computed again.

    Only what a token says is remembered, under its hash: whether it is good now is judged at every
    use. Another ring needs another verifier.

    Args:
        keys: The gateway's keys.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._known: OrderedDict[bytes, VerifiedClaims] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def verify(self, token: object, now_s: float) -> Permissions:
        """See `verify`; it returns and raises the same."""
        text = _text(token)
        if len(text) > REMEMBERED_CHARACTERS:
            return _judge(_read(text, self._keys), now_s)
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        said = self._known.get(name)
        if said is not None:
            self._known.move_to_end(name)
            return _judge(said, now_s)
        said = _read(text, self._keys)
        access = _judge(said, now_s)
        self._known[name] = said
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return access


class VerifiedClaims(NamedTuple):
    """What a token says whose signature is good, and from when on (Unix time)."""

    access: Permissions
    starts_s: float


def _text(token: object) -> str:
    if not isinstance(token, str) or not token:
        raise InvalidToken("no token was given")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidToken(
            f"the token has {len(token)} characters; the limit is {MAX_TOKEN_CHARACTERS}"
        )
    return token


def _read(token: str, keys: KeyRing) -> VerifiedClaims:
    try:
        claims = read_claims(keys.read(token))
    except BadClaims as error:
        raise InvalidToken(f"the token's claims are not valid here: {error}") from None
    return VerifiedClaims(_access(claims), max(claims.iat, claims.nbf or 0.0))


def _judge(said: VerifiedClaims, now_s: float) -> Permissions:
    access = said.access
    if access.is_expired(now_s):
        raise TokenExpired("the token has expired; mint a new one")
    # Revocations are kept for 30 days, so no token may live longer.
    life_s = access.expires_at_s - access.issued_at_s
    if life_s > MAX_TTL_S + 2:  # both ends are rounded
        raise InvalidToken(f"the token's life is {life_s:.0f} s; the limit is {MAX_TTL_S}")
    if said.starts_s > now_s + MAX_SKEW_S:
        raise InvalidToken(
            f"the token is good from {said.starts_s - now_s:.0f} s ahead of now; the clocks of who "
            f"mints and who verifies may differ by {MAX_SKEW_S:.0f} s"
        )
    return access


def _access(claims: Claims) -> Permissions:
    oldest_s = claims.iat if claims.par_iat is None else min(claims.iat, claims.par_iat)
    return Permissions(
        frozenset(claims.scopes),
        claims.exp,
        claims.sub or "",
        claims.jti,
        claims.trigger,
        frozenset(claims.skip),
        claims.iat,
        tuple(claims.par),
        oldest_s,
    )
