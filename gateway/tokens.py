"""Scoped access tokens: mint, verify, and what a scope allows. The clock is an argument.

A token is a JWT (HS256) that lists scopes, `action:resource:id`. Nothing is allowed unless a scope
says so. `*` as a scope's last character stands for any ending.

Source:
    PROTOCOL.md, section 10.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jwt

from gateway.errors import ConfigurationError, Forbidden, InvalidToken, InvalidValue, TokenExpired
from gateway.records import RunSet, StreamKey

AUDIENCE = "realtime-streams"
ALGORITHM = "HS256"
DEFAULT_TTL_S = 15 * 60
MAX_TTL_S = 30 * 24 * 3600
MAX_SCOPES = 100  # a token is sent and verified often: some 40 bytes each
DEFAULT_PAYLOAD_BYTES = 64 << 10  # of a run that a page triggers
MAX_TOKEN_CHARACTERS = 16_384
SKIPPABLE = frozenset({"payload", "output", "metadata"})
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2

Action = Literal["read", "write", "trigger"]
_RESOURCES: dict[str, frozenset[str]] = {
    "read": frozenset({"runs", "streams", "tags", "batches"}),
    "write": frozenset({"runs", "streams"}),
    "trigger": frozenset({"tasks"}),
}


@dataclass(frozen=True, slots=True)
class TriggerGrant:
    """Under which conditions a token may trigger a task.

    Attributes:
        uses: How many runs it may trigger; None: any number.
        tags: Every run gets these, and no others.
        max_payload_bytes: Of each run's payload as JSON.
    """

    uses: int | None = 1
    tags: tuple[str, ...] = ()
    max_payload_bytes: int = DEFAULT_PAYLOAD_BYTES


@dataclass(frozen=True, slots=True)
class Access:
    """What a verified token says: what its bearer may do, and until when.

    Attributes:
        scopes: `action:resource:id` strings.
        expires_at_s: Unix time.
        subject: Who it was made for, or "".
        id: The token's own id (`jti`).
        grant: What a trigger token adds to its scope; None for any other.
        skip: Fields of runs that its bearer never sees.
    """

    scopes: frozenset[str]
    expires_at_s: float
    subject: str = ""
    id: str = ""
    grant: TriggerGrant | None = None
    skip: frozenset[str] = frozenset()

    def is_expired(self, now_s: float) -> bool:
        """Whether it says nothing any more."""
        return now_s >= self.expires_at_s

    def may_read(
        self, key: StreamKey, tags: Iterable[str] = (), batch_id: str | None = None
    ) -> bool:
        """Whether it allows to read a stream (or, with the reserved stream, the run itself)."""
        return (
            self._may_touch("read", key)
            or any(self._allows("read", "tags", tag) for tag in tags)
            or (batch_id is not None and self._allows("read", "batches", batch_id))
        )

    def may_write(self, key: StreamKey) -> bool:
        """Whether it allows to append to a stream (the reserved one: to change the run)."""
        return self._may_touch("write", key)

    def may_read_set(self, runs: RunSet) -> bool:
        """Whether it allows to follow a set of runs: their fields, not their streams."""
        if self.may_read_every_run():
            return True
        resource = {"tag": "tags", "batch": "batches", "parent": "runs"}[runs.kind]
        return self._allows("read", resource, runs.id)

    def may_read_every_run(self) -> bool:
        """Whether it allows to list runs of any kind."""
        return "read:runs:*" in self.scopes

    def may_write_every_run(self) -> bool:
        """Whether it allows to change runs of any kind, as a worker has to."""
        return "write:runs:*" in self.scopes

    def may_trigger(self, task_id: str) -> bool:
        """Whether it allows to trigger a task."""
        return self._allows("trigger", "tasks", task_id)

    def depends_on_run(self) -> bool:
        """Whether tags or a batch may decide, so that the run has to be looked at."""
        return any(scope.startswith(("read:tags:", "read:batches:")) for scope in self.scopes)

    def _may_touch(self, action: Action, key: StreamKey) -> bool:
        if self._allows(action, "runs", key.run_id):
            return True
        return not key.stream_id.startswith("$") and self._allows(action, "streams", str(key))

    def _allows(self, action: Action, resource: str, id: str) -> bool:
        prefix = f"{action}:{resource}:"
        return any(
            scope == prefix + id
            or (
                scope.endswith("*")
                and scope.startswith(prefix)
                and (prefix + id).startswith(scope[:-1])
            )
            for scope in self.scopes
        )


def check_scope(scope: str) -> str:
    """Return the scope if it is one.

    Raises:
        InvalidValue: it is not; the message says the form.
    """
    action, _, rest = scope.partition(":")
    resource, _, id = rest.partition(":")
    if resource not in _RESOURCES.get(action, ()) or not id or "*" in id[:-1]:
        known = ", ".join(f"{a}:{r}" for a, rs in _RESOURCES.items() for r in sorted(rs))
        raise InvalidValue(
            f"scope {scope[:80]!r} is not one: it is action:resource:id with one of "
            f"{known}; * only as the last character"
        )
    return scope


def mint(
    scopes: Sequence[str],
    *,
    ttl_s: float = DEFAULT_TTL_S,
    subject: str = "",
    skip: Sequence[str] = (),
    secret_key: str | None = None,
    now_s: float | None = None,
    grant: TriggerGrant | None = None,
) -> str:
    """Make an access token.

    Args:
        scopes: What it allows, for example `read:runs:run_1`.
        ttl_s: Life in seconds, up to 30 days.
        subject: Who it is for.
        skip: Fields of runs that the gateway leaves out for its bearer: any of `payload`,
            `output`, `metadata`.
        secret_key: The gateway's secret, at least 32 bytes; None: this process's (see `use`), or
            else `REALTIME_SECRET_KEY`.
        now_s: Unix time; None: now.
        grant: For a token with a `trigger` scope; see `mint_trigger`.

    Returns:
        The JWT's compact form.

    Raises:
        InvalidValue: a scope, the number or length of them or the life is outside its rule.
        ConfigurationError: there is no secret, or it is too short.
    """
    secret_key = secret_key if secret_key is not None else _default_secret()
    now_s = time.time() if now_s is None else now_s
    check_secret(secret_key)
    if not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidValue(f"ttl_s is {ttl_s}; it must be over 0 and at most {MAX_TTL_S} (30 days)")
    if isinstance(scopes, str) or not 0 < len(scopes) <= MAX_SCOPES:
        raise InvalidValue(f"a token takes a list of 1 to {MAX_SCOPES} scopes, got {len(scopes)}")
    claims: dict[str, Any] = {
        "aud": AUDIENCE,
        "iat": int(now_s),
        "exp": math.ceil(now_s + ttl_s),  # never sooner than asked for
        "jti": secrets.token_urlsafe(12),
        "scopes": [check_scope(scope) for scope in scopes],
    }
    if subject:
        claims["sub"] = subject
    if grant is not None:
        claims["trigger"] = asdict(grant)
    if skip:
        claims["skip"] = _check_skip(skip)
    token = jwt.encode(claims, secret_key, ALGORITHM, headers={"kid": key_id(secret_key)})
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
        now_s: Unix time; None: now.

    Returns:
        The JWT's compact form.

    Raises:
        InvalidValue: `uses` or `max_payload_bytes` is under 1, or as `mint`.
    """
    if (uses is not None and uses < 1) or max_payload_bytes < 1:
        raise InvalidValue(
            f"uses is {uses} and max_payload_bytes {max_payload_bytes}; each is at least 1"
        )
    return mint(
        [f"trigger:tasks:{task_id}"],
        ttl_s=ttl_s,
        subject=subject,
        secret_key=secret_key,
        now_s=now_s,
        grant=TriggerGrant(uses, tuple(tags), max_payload_bytes),
    )


def _check_skip(skip: Sequence[str]) -> list[str]:
    if isinstance(skip, str) or not set(skip) <= SKIPPABLE:
        raise InvalidValue(f"skip is {skip!r:.80}; it lists any of {', '.join(sorted(SKIPPABLE))}")
    return sorted(set(skip))


_secret_of_process: str | None = None


def use(secret_key: str | None) -> None:
    """Make a secret the one that `mint` takes by itself; a gateway and `connect()` do this."""
    global _secret_of_process
    _secret_of_process = secret_key


def _default_secret() -> str:
    secret_key = _secret_of_process or os.environ.get("REALTIME_SECRET_KEY")
    if not secret_key:
        raise ConfigurationError(
            "no secret key to mint with: set REALTIME_SECRET_KEY, or pass secret_key"
        )
    return secret_key


def verify(token: object, *, secret_key: str, now_s: float) -> Access:
    """Check a token's signature, audience and life, and read what it allows.

    Args:
        token: What the client sent.
        secret_key: The gateway's secret.
        now_s: Unix time.

    Returns:
        What the bearer may do.

    Raises:
        TokenExpired: it was good once.
        InvalidToken: anything else; the message never repeats the token.
    """
    if not isinstance(token, str) or not token:
        raise InvalidToken("no token was given")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidToken(
            f"the token has {len(token)} characters; the limit is {MAX_TOKEN_CHARACTERS}"
        )
    access = _access(_claims(token, secret_key))
    if access.is_expired(now_s):
        raise TokenExpired("the token has expired; mint a new one")
    return access


def _claims(token: str, secret_key: str) -> dict[str, Any]:
    # PyJWT would compare `exp` with its own clock; here the clock is an argument.
    options: Any = {"require": ["exp", "iat"], "verify_exp": False, "verify_iat": False}
    try:
        return jwt.decode(
            token, secret_key, algorithms=[ALGORITHM], audience=AUDIENCE, options=options
        )
    except (jwt.PyJWTError, UnicodeError) as error:
        raise InvalidToken(f"the token is not valid here: {error}") from None


def _access(claims: dict[str, Any]) -> Access:
    scopes, expires_at_s = claims.get("scopes"), claims["exp"]
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise InvalidToken("the token has no list of scopes")
    is_number = isinstance(expires_at_s, int | float) and not isinstance(expires_at_s, bool)
    if not is_number or not math.isfinite(expires_at_s):
        raise InvalidToken("the token's exp is not a number")
    skip = claims.get("skip", [])
    if not isinstance(skip, list) or not all(isinstance(name, str) for name in skip):
        raise InvalidToken("the token's skip is not a list of fields")
    return Access(
        frozenset(scopes),
        expires_at_s,
        str(claims.get("sub", "")),
        str(claims.get("jti", "")),
        _grant(claims.get("trigger")),
        frozenset(skip),
    )


def _grant(claim: Any) -> TriggerGrant | None:
    # Signed by this gateway, so of the form that `mint_trigger` gives it, or absent.
    if not isinstance(claim, dict):
        return None
    return TriggerGrant(claim["uses"], tuple(claim["tags"]), claim["max_payload_bytes"])


def require(allowed: bool, what: str) -> None:
    """Refuse unless allowed.

    Raises:
        Forbidden: says what no scope allows.
    """
    if not allowed:
        raise Forbidden(f"the token has no scope to {what}")


def check_secret(secret_key: str) -> None:
    """Refuse a secret that is too short to sign with.

    Raises:
        ConfigurationError: states the limit, never the secret.
    """
    size = len(secret_key.encode())
    if size < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"the secret key has {size} bytes; at least {MIN_SECRET_BYTES} are needed: "
            'python -c "import secrets; print(secrets.token_urlsafe(48))"'
        )


def key_id(secret_key: str) -> str:
    """Name a key without showing it: 8 hex digits of its hash."""
    return hashlib.sha256(b"realtime-streams kid:" + secret_key.encode()).hexdigest()[:8]
