"""Who a connection's client is, as far as the tokens that it has shown say. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.auth.permissions import Permissions
from gateway.errors import InvalidToken, TokenExpired

Verify = Callable[[object, float], Permissions]
Admit = Callable[[str], None]


@dataclass(slots=True)
class Credentials:
    """The client of one connection.

    Attributes:
        verify: Checks a token at a time and returns what it allows.
        admit: Called with each new subject; raises when that one has as many connections as it may.
        access: What the connection's own token allows; None without one.
        is_told: The client knows that this token is near its end.
        is_known: Some token of this client was good.
        is_worker: One of its tokens was a worker's.
        subjects: Whom `admit` has let in.
    """

    verify: Verify
    admit: Admit
    access: Permissions | None = None
    is_told: bool = False
    is_known: bool = False
    is_worker: bool = False
    subjects: set[str] = field(default_factory=set)

    @property
    def untold(self) -> Permissions | None:
        """What the connection's own token allows, if the client has yet to hear of its end."""
        return None if self.is_told else self.access

    def access_for(self, token: str | None, now_s: float) -> Permissions:
        """Return what a frame may do: by the token that it brought, or else the connection's.

        Raises:
            InvalidToken: there is none, or it is not good.
            TokenExpired: it has expired.
            TooManyConnections: its subject has as many as it may.
        """
        if token is not None:
            return self.show(token, now_s)
        if self.access is None:
            raise InvalidToken("neither hello nor this frame brought a token")
        if self.access.is_expired(now_s):
            raise TokenExpired("the connection's token has expired; send `token` with a new one")
        return self.access

    def show(self, token: str, now_s: float) -> Permissions:
        """Check a token, and let in whom it is for."""
        access = self.verify(token, now_s)
        self.let_in(access)
        return access

    def let_in(self, access: Permissions) -> None:
        """Record a valid token."""
        if access.may_write_every_run():
            self.is_worker = True
        elif access.subject and access.subject not in self.subjects:
            self.admit(access.subject)
            self.subjects.add(access.subject)
        self.is_known = True
