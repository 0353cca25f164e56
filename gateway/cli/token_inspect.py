"""What a token says, and whether it is good: the inside of `realtime token show`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import jwt
import orjson

from gateway.auth.key_files import resolve_keys
from gateway.auth.keys import KeyRing
from gateway.auth.revocations import Revocation, RevocationList
from gateway.auth.secret_file import secret_path
from gateway.auth.verifier import verify
from gateway.cli._target import Target
from gateway.errors import ConfigurationError, InvalidToken, RealtimeError, TokenExpired
from gateway.model.records import REVOCATIONS, Position

Verdict = Literal["valid", "expired", "revoked", "unknown key", "invalid", "not verified"]


@dataclass(slots=True)
class Finding:
    """What was found out about a token.

    Attributes:
        verdict: In two words at most.
        why: In a sentence.
        claims: What it says, true or not.
        header: Its algorithm and key.
        revocation: Whether it was looked up if it is revoked, and where not, why.
    """

    verdict: Verdict
    why: str
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    revocation: str = "not looked up"

    @property
    def is_good(self) -> bool:
        """Whether a gateway with these keys takes it."""
        return self.verdict == "valid"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "verdict": self.verdict,
            "why": self.why,
            "revocation": self.revocation,
            "header": self.header,
            "claims": self.claims,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return what it says as names and texts."""
        lines = [("revocation", self.revocation)]
        for name, value in (self.header | self.claims).items():
            values = value if name == "scopes" and isinstance(value, list) else [value]
            for each in values:
                text = each if isinstance(each, str) else orjson.dumps(each).decode()
                lines.append((name, f"{text}{_moment(name, each)}"))
        return lines


def _moment(name: str, value: Any) -> str:
    if name not in ("iat", "exp", "nbf", "par_iat") or not isinstance(value, int | float):
        return ""
    try:
        return f" ({datetime.fromtimestamp(value, UTC).isoformat(' ', 'seconds')})"
    except (ValueError, OverflowError, OSError):
        return ""


async def inspect(token: str, reach: Target, now_s: float) -> Finding:
    """Find out about a token.

    Args:
        token: In its compact form.
        reach: Whose keys, and where revocations are kept.
        now_s: Unix time.
    """
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return Finding("invalid", "this is no token in the form a.b.c")
    finding = _verified(token, header, reach, now_s)
    finding.claims, finding.header = claims, header
    if finding.verdict == "valid":
        await _look_up(finding, token, reach, now_s)
    return finding


def _verified(token: str, header: dict[str, Any], reach: Target, now_s: float) -> Finding:
    try:
        keys = _keys(reach)
    except ConfigurationError as error:
        return Finding("not verified", error.message)
    if keys is None:
        return Finding("not verified", "there is no secret here: set REALTIME_SECRET_KEY")
    kid = header.get("kid")
    if kid is not None and kid not in keys.ids:
        known = ", ".join(sorted(keys.ids))
        return Finding("unknown key", f"it is signed by the key {kid}; known here: {known}")
    try:
        access = verify(token, keys=keys, now_s=now_s)
    except TokenExpired as error:
        return Finding("expired", error.message)
    except InvalidToken as error:
        return Finding("invalid", error.message)
    left_s = access.expires_at_s - now_s
    return Finding("valid", f"signed by a key of this environment, good for {left_s:.0f} s more")


def _keys(reach: Target) -> KeyRing | None:
    settings = reach.settings
    path = secret_path(settings)
    has_key = settings.secret_key or settings.signing_key_file or (path and path.exists())
    return resolve_keys(settings) if has_key else None  # else it would make a secret


async def _look_up(finding: Finding, token: str, reach: Target, now_s: float) -> None:
    keys = _keys(reach)
    assert keys is not None
    access = verify(token, keys=keys, now_s=now_s)
    try:
        revoked = await _revocations(reach)
    except RealtimeError as error:
        finding.revocation = f"unknown: {error.message}"
        finding.why += "; whether it was revoked is not known"
        return
    finding.revocation = "not revoked"
    if revoked.is_revoked(access):
        finding.verdict, finding.revocation = "revoked", "revoked"
        finding.why = "it, or one that it was made from, was revoked"


async def _revocations(reach: Target) -> RevocationList:
    found = RevocationList()
    async with reach.store() as store:
        after: Position | None = None
        while (page := await store.read(REVOCATIONS, after)).records:
            for record in page.records:
                found.add(Revocation.decode(record.data), record.time_ms / 1000)
            after = page.position
    return found
