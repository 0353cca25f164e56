"""Revoked tokens: signed and not expired, but no longer accepted. No I/O.

Every revocation is a record of one log (`gateway.model.records.REVOCATIONS`), and every gateway
keeps a `RevocationList` of it in memory.

Source:
    PROTOCOL.md, section 10.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.auth.permissions import MAX_TTL_S, Permissions
from gateway.errors import InvalidValue

MAX_SKEW_S = 300.0  # by which the clocks of gateways and minters may differ
KEPT_S = MAX_TTL_S + 2 * MAX_SKEW_S  # then whatever was revoked has expired


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One token, or all that a subject was given up to a time.

    Attributes:
        token_id: The token's `jti`; tokens derived from it are revoked with it.
        subject: The `sub` of the tokens, in place of `token_id`.
        issued_before_s: With a subject, Unix time: its tokens that were issued up to and at this
            time. `iat` is exact to the millisecond in tokens that are minted here, so one that is
            minted right afterwards is good. Elsewhere `iat` is often in whole seconds: such a
            token, minted in the very second, is taken for older.
    """

    token_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    subject: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    issued_before_s: Annotated[float, Meta(ge=0)] | None = None

    def check(self, now_s: float) -> Revocation:
        """Return it if it says one thing.

        Args:
            now_s: Unix time.

        Raises:
            InvalidValue: it names neither a token nor a subject, or both, or a time that is not
                there yet, which would shut the subject out; or it could not be read again.
        """
        self.decode(self.encode())
        is_of_token = self.token_id is not None and self.subject is None
        is_of_subject = self.token_id is None and self.subject is not None
        if not (
            (is_of_token and self.issued_before_s is None)
            or (is_of_subject and self.issued_before_s is not None)
        ):
            raise InvalidValue(
                "a revocation names a token_id, or a subject and the time up to which"
            )
        if self.issued_before_s is not None and self.issued_before_s > now_s + MAX_SKEW_S:
            raise InvalidValue(
                f"issued_before is {self.issued_before_s - now_s:.0f} s ahead of now: "
                "it is a Unix time in seconds that has passed"
            )
        return self

    def encode(self) -> bytes:
        """Write it as a record's data.

        Raises:
            InvalidValue: a text in it is no UTF-8, or a number is out of range.
        """
        try:
            return msgspec.json.encode(self)
        except (ValueError, OverflowError) as error:
            raise InvalidValue(f"a revocation cannot be written: {error}") from None

    @classmethod
    def decode(cls, data: bytes) -> Revocation:
        """Read a record's data.

        Raises:
            InvalidValue: it is none.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise InvalidValue(f"a revocation cannot be read: {error}") from None


class RevocationList:
    """The revoked tokens that one gateway knows: about 150 bytes each, for 30 days."""

    def __init__(self) -> None:
        self._tokens: dict[str, float] = {}  # by id, when they were revoked
        self._subjects: dict[str, float] = {}  # up to when theirs were issued

    def __len__(self) -> int:
        return len(self._tokens) + len(self._subjects)

    def add(self, revocation: Revocation, at_s: float) -> None:
        """Take one in.

        Args:
            revocation: The revoked token or subject.
            at_s: Unix time at which it was.
        """
        if revocation.token_id is not None:
            self._tokens[revocation.token_id] = at_s
        if revocation.subject is not None and revocation.issued_before_s is not None:
            before = self._subjects.get(revocation.subject, 0.0)
            self._subjects[revocation.subject] = max(before, revocation.issued_before_s)

    def is_revoked(self, access: Permissions) -> bool:
        """Whether a token, or a token that it was derived from, is revoked."""
        if access.id in self._tokens or any(id in self._tokens for id in access.ancestors):
            return True
        issued_before_s = self._subjects.get(access.subject)
        return issued_before_s is not None and access.first_issued_at_s <= issued_before_s

    def forget(self, now_s: float) -> None:
        """Drop revocations whose tokens have all expired."""
        oldest_s = now_s - KEPT_S
        self._tokens = {id: at_s for id, at_s in self._tokens.items() if at_s > oldest_s}
        self._subjects = {name: at_s for name, at_s in self._subjects.items() if at_s > oldest_s}
