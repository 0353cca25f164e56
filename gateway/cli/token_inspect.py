"""`realtime token show`: the claims of a token, and whether it is valid."""

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
    """The result of inspecting a token.

    Attributes:
        verdict: The result in at most two words.
        reason: The reason as a sentence.
        claims: The claims of the token, verified or not.
        header: The token's algorithm and key id.
        revocation: Result of the revocation check, or why it was not checked.
    """

    verdict: Verdict
    reason: str
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    revocation: str = "not checked"

    @property
    def is_valid(self) -> bool:
        """Whether a gateway with these keys accepts the token."""
        return self.verdict == "valid"

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {
            "verdict": self.verdict,
            "why": self.reason,
            "revocation": self.revocation,
            "header": self.header,
            "claims": self.claims,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return the claims as pairs of name and text."""
        lines = [("revocation", self.revocation)]
        for name, value in (self.header | self.claims).items():
            values = value if name == "scopes" and isinstance(value, list) else [value]
            for each in values:
                text = each if isinstance(each, str) else orjson.dumps(each).decode()
                lines.append((name, f"{text}{_format_time(name, each)}"))
        return lines


def _format_time(name: str, value: Any) -> str:
    if name not in ("iat", "exp", "nbf", "par_iat") or not isinstance(value, int | float):
        return ""
    try:
        return f" ({datetime.fromtimestamp(value, UTC).isoformat(' ', 'seconds')})"
    except (ValueError, OverflowError, OSError):
        return ""


async def inspect(token: str, target: Target, now_s: float) -> Finding:
    """Decode a token, verify it and check whether it is revoked.

    Args:
        token: The token in compact form.
        target: The keys, and the gateway or store with the revocations.
        now_s: Unix time.
    """
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return Finding("invalid", "this is not a token of the form a.b.c")
    finding = _verify(token, header, target, now_s)
    finding.claims, finding.header = claims, header
    if finding.verdict == "valid":
        await _check_revocation(finding, token, target, now_s)
    return finding


def _verify(token: str, header: dict[str, Any], target: Target, now_s: float) -> Finding:
    try:
        keys = _keys(target)
    except ConfigurationError as error:
        return Finding("not verified", error.message)
    if keys is None:
        return Finding("not verified", "no secret is set: set REALTIME_SECRET_KEY")
    kid = header.get("kid")
    if kid is not None and kid not in keys.ids:
        known = ", ".join(sorted(keys.ids))
        return Finding("unknown key", f"the token is signed by the key {kid}; known keys: {known}")
    try:
        access = verify(token, keys=keys, now_s=now_s)
    except TokenExpired as error:
        return Finding("expired", error.message)
    except InvalidToken as error:
        return Finding("invalid", error.message)
    left_s = access.expires_at_s - now_s
    return Finding("valid", f"signed by a key of this environment; expires in {left_s:.0f} s")


def _keys(target: Target) -> KeyRing | None:
    settings = target.settings
    path = secret_path(settings)
    has_key = settings.secret_key or settings.signing_key_file or (path and path.exists())
    return resolve_keys(settings) if has_key else None  # would generate a secret otherwise


async def _check_revocation(finding: Finding, token: str, target: Target, now_s: float) -> None:
    keys = _keys(target)
    assert keys is not None
    access = verify(token, keys=keys, now_s=now_s)
    try:
        revocations = await _read_revocations(target)
    except RealtimeError as error:
        finding.revocation = f"unknown: {error.message}"
        finding.reason += "; its revocation could not be checked"
        return
    finding.revocation = "not revoked"
    if revocations.is_revoked(access):
        finding.verdict, finding.revocation = "revoked", "revoked"
        finding.reason = "the token, or a token from which it was derived, is revoked"


async def _read_revocations(target: Target) -> RevocationList:
    revocations = RevocationList()
    async with target.store() as store:
        after: Position | None = None
        while (page := await store.read(REVOCATIONS, after)).records:
            for record in page.records:
                revocations.add(Revocation.decode(record.data), record.time_ms / 1000)
            after = page.position
    return revocations
