"""Scoped access tokens: mint them, verify them, make lesser ones of them, revoke them.

A token is a JWT that lists scopes, `action:resource:id`. Nothing is allowed unless a scope says so
(`gateway.auth.permissions`). The clock is an argument.

Source:
    PROTOCOL.md, section 10.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import jwt
import msgspec

from gateway.auth.claims import AUDIENCE, MAX_SUBJECT_CHARACTERS, BadClaims, check_claims
from gateway.auth.keys import KeyRing, check_secret, key_id
from gateway.auth.permissions import (
    DEFAULT_PAYLOAD_BYTES,
    MAX_TTL_S,
    ParentUses,
    Permissions,
    TriggerGrant,
    check_scope,
    covers,
    require,
)
from gateway.auth.revocations import Revocation
from gateway.auth.verifier import MAX_TOKEN_CHARACTERS, verify
from gateway.errors import (
    ConfigurationError,
    Forbidden,
    InvalidValue,
    NotStarted,
)
from gateway.model.limits import MAX_INTEGER
from gateway.model.records import shown

__all__ = [
    "MAX_TTL_S",
    "Permissions",
    "Revocation",
    "TriggerGrant",
    "attenuate",
    "check_scope",
    "check_secret",
    "id_of",
    "key_id",
    "mint",
    "mint_trigger",
    "require",
    "revoke",
    "use",
    "verify",
]

DEFAULT_TTL_S = 15 * 60
MAX_SCOPES = 100  # a token is sent and verified often: some 40 bytes each
MAX_ANCESTORS = 8  # how often a token may be made of one that was made of one
SKIPPABLE = frozenset({"payload", "output", "metadata"})


def mint(
    scopes: Sequence[str],
    *,
    ttl_s: float = DEFAULT_TTL_S,
    subject: str = "",
    skip: Sequence[str] = (),
    secret_key: str | None = None,
    keys: KeyRing | None = None,
    now_s: float | None = None,
    grant: TriggerGrant | None = None,
) -> str:
    """Make an access token.

    Args:
        scopes: The scopes, for example `read:runs:run_1`.
        ttl_s: Life in seconds, up to 30 days.
        subject: The user or service that the token is for; "" for none.
        skip: Fields of runs that the gateway leaves out for its bearer: any of `payload`,
            `output`, `metadata`.
        secret_key: The gateway's secret, at least 32 bytes; None: this process's keys (see `use`),
            or else `REALTIME_SECRET_KEY`.
        keys: A ring that signs, in place of the secret.
        now_s: Unix time; None: now.
        grant: For a token with a `trigger` scope; see `mint_trigger`.

    Returns:
        The JWT's compact form.

    Raises:
        InvalidValue: a scope, the number or length of them, the subject, the life or a limit is
            outside its rule.
        ConfigurationError: there is no secret, or it is too short.
    """
    ring = _ring(secret_key, keys)
    now_s = time.time() if now_s is None else now_s
    return _sign(_claims(scopes, ttl_s, subject, skip, now_s, grant), ring)


def _claims(
    scopes: Sequence[str],
    ttl_s: float,
    subject: str,
    skip: Sequence[str],
    now_s: float,
    grant: TriggerGrant | None,
) -> dict[str, Any]:
    if not _is_number(ttl_s) or not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidValue(
            f"ttl_s is {shown(ttl_s)}; it must be over 0 and at most {MAX_TTL_S} (30 days)"
        )
    if isinstance(scopes, str) or not 0 < len(scopes) <= MAX_SCOPES:
        got = f"the text {shown(scopes)}" if isinstance(scopes, str) else len(scopes)
        raise InvalidValue(f"a token takes a list of 1 to {MAX_SCOPES} scopes, got {got}")
    claims: dict[str, Any] = {
        "aud": AUDIENCE,
        "iat": _issue_time_s(now_s),
        "exp": math.ceil(now_s + ttl_s),  # never sooner than asked for
        "jti": secrets.token_urlsafe(12),
        "scopes": [check_scope(scope) for scope in scopes],
    }
    if subject != "":
        if not isinstance(subject, str) or len(subject) > MAX_SUBJECT_CHARACTERS:
            raise InvalidValue(
                f"subject is {shown(subject)}; it has up to {MAX_SUBJECT_CHARACTERS} characters"
            )
        claims["sub"] = subject
    if grant is not None:
        claims["trigger"] = _grant_claim(grant)
    if skip:
        claims["skip"] = _check_skip(skip)
    return claims


def _issue_time_s(now_s: float) -> float:
    """To the millisecond, and never later than it was: a revocation must not miss it."""
    return math.floor(now_s * 1000) / 1000


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sign(claims: dict[str, Any], ring: KeyRing) -> str:
    try:
        token = ring.sign(check_claims(claims))
    except BadClaims as error:
        raise InvalidValue(f"a token cannot say this: {error}") from None
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidValue(
            f"the token has {len(token)} characters; the limit is {MAX_TOKEN_CHARACTERS}: "
            "give it fewer or shorter scopes"
        )
    return token


def mint_trigger(
    task_id: str,
    *,
    uses: int | None = 1,
    tags: Sequence[str] = (),
    max_payload_bytes: int = DEFAULT_PAYLOAD_BYTES,
    ttl_s: float = DEFAULT_TTL_S,
    subject: str = "",
    secret_key: str | None = None,
    keys: KeyRing | None = None,
    now_s: float | None = None,
) -> str:
    """Make a token with which a page may trigger a task.

    Args:
        task_id: Which task; `*` as the last character for any with this beginning.
        uses: How many runs it may trigger; None: any number until it expires.
        tags: Every run gets these tags, and the page cannot add others.
        max_payload_bytes: Of each run's payload as JSON.
        ttl_s: Life in seconds, up to 30 days.
        subject: Who it is for.
        secret_key: As in `mint`.
        keys: As in `mint`.
        now_s: Unix time; None: now.

    Returns:
        The JWT's compact form.

    Raises:
        InvalidValue: `uses` or `max_payload_bytes` is under 1, or as `mint`.
    """
    return mint(
        [f"trigger:tasks:{task_id}"],
        ttl_s=ttl_s,
        subject=subject,
        secret_key=secret_key,
        keys=keys,
        now_s=now_s,
        grant=TriggerGrant(uses, tuple(tags), max_payload_bytes),
    )


def _grant_claim(grant: TriggerGrant) -> dict[str, Any]:
    for name, number in (("uses", grant.uses), ("max_payload_bytes", grant.max_payload_bytes)):
        if number is None and name == "uses":
            continue
        if not _is_number(number) or not 1 <= number <= MAX_INTEGER:  # type: ignore[operator]
            raise InvalidValue(
                f"{name} is {shown(number)}; it is a whole number, at least 1 and at most 2**53"
            )
    claim = msgspec.structs.asdict(grant)
    if not grant.shares:
        del claim["shares"]
    return claim


def _check_skip(skip: Sequence[str]) -> list[str]:
    if isinstance(skip, str) or not set(skip) <= SKIPPABLE:
        raise InvalidValue(f"skip is {skip!r:.80}; it lists any of {', '.join(sorted(SKIPPABLE))}")
    return sorted(set(skip))


def attenuate(
    token: str,
    *,
    scopes: Sequence[str] | None = None,
    ttl_s: float | None = None,
    skip: Sequence[str] = (),
    uses: int | None = None,
    tags: Sequence[str] = (),
    max_payload_bytes: int | None = None,
    secret_key: str | None = None,
    keys: KeyRing | None = None,
    now_s: float | None = None,
) -> str:
    """Derive a token with fewer permissions from another one (attenuation).

    It is for the same subject, and is revoked with the token that it was made from.

    Args:
        token: The token to make it from.
        scopes: Each within one of the token's own; None: all of these.
        ttl_s: Life in seconds; it never outlives the token. None: as long as that.
        skip: Fields of runs that are hidden in addition to those of the parent token.
        uses: Of a trigger token: how many runs it may trigger, which also count for the token that
            it was made from. None: as many as that has left.
        tags: Of a trigger token that has none: every run gets these.
        max_payload_bytes: Of a trigger token: a smaller limit.
        secret_key: As in `mint`.
        keys: As in `mint`.
        now_s: Unix time; None: now.

    Returns:
        The JWT's compact form.

    Raises:
        Forbidden: a scope, or the tags, go beyond the token's own.
        InvalidValue: a scope, the life or a number is outside its rule; or it is too long a line
            of tokens made from tokens.
        InvalidToken: the token is not good.
        TokenExpired: the token has expired.
    """
    ring = _ring(secret_key, keys)
    now_s = time.time() if now_s is None else now_s
    parent = _check_parent(verify(token, keys=ring, now_s=now_s))
    claims = _claims(
        _lesser_scopes(parent, scopes),
        ttl_s=_lesser_life_s(parent, ttl_s, now_s),
        subject=parent.subject,
        skip=sorted(parent.skip | set(_check_skip(skip))),
        now_s=now_s,
        grant=_lesser_grant(parent, uses, tuple(tags), max_payload_bytes),
    )
    claims["exp"] = min(claims["exp"], parent.expires_at_s)
    claims["par"] = [*parent.ancestors, parent.id]
    claims["par_iat"] = parent.first_issued_at_s
    return _sign(claims, ring)


def _check_parent(parent: Permissions) -> Permissions:
    if len(parent.ancestors) >= MAX_ANCESTORS:
        raise InvalidValue(f"the token is the {MAX_ANCESTORS}th that was made from another")
    return parent


def _lesser_scopes(parent: Permissions, scopes: Sequence[str] | None) -> Sequence[str]:
    if scopes is None:
        return sorted(parent.scopes)
    for scope in [] if isinstance(scopes, str) else scopes:
        if not covers(parent.scopes, check_scope(scope)):
            raise Forbidden(f"the token that it is made from has no scope that covers {scope}")
    return scopes


def _lesser_life_s(parent: Permissions, ttl_s: float | None, now_s: float) -> float:
    left_s = min(parent.expires_at_s - now_s, MAX_TTL_S)
    return left_s if ttl_s is None else min(ttl_s, left_s)


def _lesser_grant(
    parent: Permissions, uses: int | None, tags: tuple[str, ...], max_payload_bytes: int | None
) -> TriggerGrant | None:
    held = parent.grant
    if held is None and uses is None and not tags and max_payload_bytes is None:
        return None
    if max_payload_bytes is None:
        max_payload_bytes = held.max_payload_bytes if held else DEFAULT_PAYLOAD_BYTES
    held = held or TriggerGrant(uses=None, max_payload_bytes=max_payload_bytes)
    if held.tags and tags and tags != held.tags:
        raise Forbidden(f"the token sets the tags {', '.join(held.tags)} and no others")
    shares = held.shares
    if held.uses is not None:
        shares = (*shares, ParentUses(parent.id, held.uses, parent.expires_at_s))
    asked = [limit for limit in (uses, held.uses) if limit is not None]
    limit = min(max_payload_bytes, held.max_payload_bytes)
    return TriggerGrant(min(asked, default=None), tags or held.tags, limit, shares)


_keys_of_process: KeyRing | None = None
_revoke_in_store: Callable[[Revocation], Awaitable[None]] | None = None


def use(
    keys: KeyRing | str | None,
    revoke: Callable[[Revocation], Awaitable[None]] | None = None,
) -> None:
    """Set the default keys of this module; a gateway and `connect()` do this.

    Args:
        keys: A ring, or a secret; None: none any more.
        revoke: Keeps a revocation where every gateway hears of it.
    """
    global _keys_of_process, _revoke_in_store
    _keys_of_process = KeyRing.of_secret(keys) if isinstance(keys, str) else keys
    _revoke_in_store = revoke


def _ring(secret_key: str | None, keys: KeyRing | None) -> KeyRing:
    if keys is not None:
        return keys
    if secret_key is not None:
        return KeyRing.of_secret(secret_key)
    if _keys_of_process is not None:
        return _keys_of_process
    secret_key = os.environ.get("REALTIME_SECRET_KEY")
    if not secret_key:
        raise ConfigurationError(
            "no secret key to mint with: set REALTIME_SECRET_KEY, or pass secret_key"
        )
    return KeyRing.of_secret(secret_key)


def id_of(token: str) -> str:
    """Read a token's `jti`, to revoke it by, whether or not the token is good.

    Raises:
        InvalidValue: it is no token, or has none.
    """
    try:
        id = jwt.decode(token, options={"verify_signature": False}).get("jti")
    except jwt.PyJWTError:
        id = None
    if not isinstance(id, str) or not id:
        raise InvalidValue("this is no token with a jti")
    return id


async def revoke(
    *,
    token_id: str | None = None,
    subject: str | None = None,
    issued_before: datetime | float | None = None,
) -> Revocation:
    """Revoke tokens. Every gateway applies the revocation immediately, also to open sockets.

    What was made from such a token (`attenuate`) goes with it. It cannot be taken back: mint new
    tokens.

    Args:
        token_id: One token's `jti` claim; see `id_of`.
        subject: In its place: all tokens of this subject,
        issued_before: that were issued up to this time (a datetime with a zone, or Unix time in
            seconds); None: up to now. Of a token that was minted elsewhere with an `iat` in whole
            seconds, and in the very second, it is taken that it was before.

    Returns:
        The revocation, after it is durable.

    Raises:
        InvalidValue: neither or both are given, or the time lies ahead.
        NotStarted: this process has no gateway, and is inside no `connect()`.
    """
    now_s = time.time()
    if subject is not None and issued_before is None:
        issued_before = now_s
    if isinstance(issued_before, datetime):
        if issued_before.tzinfo is None:
            raise InvalidValue("issued_before has no zone: use datetime.now(timezone.utc)")
        issued_before = issued_before.timestamp()
    revocation = Revocation(token_id, subject, issued_before).check(now_s)
    if _revoke_in_store is None:
        raise NotStarted("no store to keep a revocation in: use `async with connect():`")
    await _revoke_in_store(revocation)
    return revocation
