"""What a verified token says, and what a scope allows. Nothing is allowed unless a scope says so.

A scope is `action:resource:id`; `*` as its last character stands for any ending.

Source:
    PROTOCOL.md, section 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from gateway.errors import Forbidden, InvalidValue
from gateway.model.limits import MAX_INTEGER, MAX_TAG_CHARACTERS, MAX_TAGS
from gateway.model.records import RunSet, StreamKey

MAX_TTL_S = 30 * 24 * 3600  # of a token; what is revoked has to be remembered for so long
RENEWAL_AFTER = 0.8  # of a token's life
DEFAULT_PAYLOAD_BYTES = 64 << 10  # of a run that a page triggers
JUDGEMENTS = 10_000  # of streams and scopes, remembered in this process: about 400 bytes each

Action = Literal["read", "write", "trigger"]
_RESOURCES: dict[str, frozenset[str]] = {
    "read": frozenset({"runs", "streams", "tags", "batches", "paths", "metrics"}),
    "write": frozenset({"runs", "streams", "paths"}),
    "trigger": frozenset({"tasks"}),
}
_RESOURCE_OF_SET = {"tag": "tags", "batch": "batches", "parent": "runs"}


Uses = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Bytes = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
Tag = Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARACTERS, pattern=r"[^*]\Z")]
Tags = Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)]


class ParentUses(NamedTuple):
    """The uses of a token, of which those made from it take their own.

    Attributes:
        token_id: Of that token.
        uses: How many it has in all.
        expires_at_s: Unix time of its expiry.
    """

    token_id: str
    uses: Uses
    expires_at_s: Annotated[float, Meta(ge=0, le=MAX_INTEGER / 1000)]


class TriggerGrant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Under which conditions a token may trigger a task.

    Attributes:
        uses: How many runs it may trigger; None: any number.
        tags: Every run gets these, and no others.
        max_payload_bytes: Of each run's payload as JSON.
        shares: Of the tokens that it was made from: each run takes a use of these too.
    """

    uses: Uses | None = 1
    tags: Tags = ()
    max_payload_bytes: Bytes = DEFAULT_PAYLOAD_BYTES
    shares: tuple[ParentUses, ...] = ()


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a verified token says: what its bearer may do, and until when.

    Attributes:
        scopes: `action:resource:id` strings.
        expires_at_s: Unix time.
        subject: Who it was made for, or "".
        id: The token's own id (`jti`).
        grant: What a trigger token adds to its scope; None for any other.
        skip: Fields of runs that its bearer never sees.
        issued_at_s: Unix time.
        ancestors: Ids of the tokens that it was made from.
        first_issued_at_s: When the oldest of these, or it itself, was issued.
    """

    scopes: frozenset[str]
    expires_at_s: float
    subject: str = ""
    id: str = ""
    grant: TriggerGrant | None = None
    skip: frozenset[str] = frozenset()
    issued_at_s: float = 0.0
    ancestors: tuple[str, ...] = ()
    first_issued_at_s: float = 0.0

    @property
    def renewal_at_s(self) -> float:
        """Unix time at which its bearer is asked for another one."""
        return self.issued_at_s + RENEWAL_AFTER * (self.expires_at_s - self.issued_at_s)

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

    def may_read_path(self, path: str) -> bool:
        """Whether it allows to read the stream of a path, which belongs to no run."""
        return self._allows("read", "paths", path)

    def may_write_path(self, path: str) -> bool:
        """Whether it allows to create, append to and delete the stream of a path."""
        return self._allows("write", "paths", path)

    def may_read_set(self, runs: RunSet) -> bool:
        """Whether it allows to follow a set of runs: their fields, not their streams."""
        if self.may_read_every_run():
            return True
        return self._allows("read", _RESOURCE_OF_SET[runs.kind], runs.id)

    def may_put_into(self, runs: RunSet) -> bool:
        """Whether it allows to put a run that it may write into a set, which others may read.

        A token that may write one run names the sets of that run too: a tag or a batch by the
        scope that reads it, a parent by the scope that writes it.
        """
        if self.may_write_every_run():
            return True
        action: Action = "write" if runs.kind == "parent" else "read"
        return self._allows(action, _RESOURCE_OF_SET[runs.kind], runs.id)

    def may_read_every_run(self) -> bool:
        """Whether it allows to list runs of any kind."""
        return "read:runs:*" in self.scopes

    def may_read_metrics(self) -> bool:
        """Whether it allows to read what the gateway counts."""
        return self._allows("read", "metrics", "*")

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
        return _may_touch(self.scopes, action, key)

    def _allows(self, action: Action, resource: str, id: str) -> bool:
        return _allow(self.scopes, action, resource, id)


@lru_cache(maxsize=JUDGEMENTS)  # who appends to a stream does so again
def _may_touch(scopes: frozenset[str], action: Action, key: StreamKey) -> bool:
    if _allow(scopes, action, "runs", key.run_id):
        return True
    return not key.stream_id.startswith("$") and _allow(scopes, action, "streams", str(key))


def _allow(scopes: frozenset[str], action: Action, resource: str, id: str) -> bool:
    prefix = f"{action}:{resource}:"
    asked = prefix + id
    if asked in scopes:
        return True
    for scope in scopes:
        if scope[-1:] == "*" and scope.startswith(prefix) and asked.startswith(scope[:-1]):
            return True
    return False


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


def covers(held: Iterable[str], scope: str) -> bool:
    """Whether one of the held scopes allows everything that a scope allows.

    A run's scope covers its streams', `read:runs:*` everything of runs that
    can be read.
    """
    return any(_covers(each, scope) for each in held)


def _covers(held: str, scope: str) -> bool:
    if held == scope:
        return True
    if held.count(":") < 2:
        return False  # it is none, and allows nothing
    action, resource, id = held.split(":", 2)
    asked_action, asked_resource, asked_id = scope.split(":", 2)
    if action != asked_action:
        return False
    if held == "read:runs:*":
        return asked_resource not in ("paths", "metrics")  # which belong to no run
    if resource == asked_resource:
        return id.endswith("*") and asked_id.startswith(id[:-1])
    if (resource, asked_resource) != ("runs", "streams"):
        return False
    run_id, slash, _ = asked_id.partition("/")
    if not id.endswith("*"):
        return bool(slash) and run_id == id
    return run_id.startswith(id[:-1])


def require(allowed: bool, what: str) -> None:
    """Refuse unless allowed.

    Raises:
        Forbidden: says what no scope allows.
    """
    if not allowed:
        raise Forbidden(f"the token has no scope to {what}")
