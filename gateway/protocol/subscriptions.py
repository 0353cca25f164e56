"""What a connection's subscriptions are, with which tokens, and when these next ask for something.

No I/O, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gateway.auth.permissions import Permissions
from gateway.errors import UnknownSubscription
from gateway.model.log import RunState, belongs_to_no_run
from gateway.model.records import RunSet, StreamKey
from gateway.protocol.authorization import require_read, require_sets

State = Literal["opening", "live"]


@dataclass(slots=True)
class Subscription:
    """A reader's cursor on one stream, one run or some sets of runs, as far as rules go.

    Attributes:
        what: The stream, or the sets.
        access: What its token allows: its own, or the connection's.
        has_own_token: Whether it brought one.
        as_run: It shows the run itself, not a stream.
        own_skip: Fields that the client does not want; the token may leave out more.
        state: Whether its cursor stands.
        is_told: The client knows that its own token is near its end.
        run: Whose tags and batch decide, when a scope asks for them.
    """

    what: StreamKey | tuple[RunSet, ...]
    access: Permissions
    has_own_token: bool
    as_run: bool
    own_skip: frozenset[str]
    state: State = "opening"
    is_told: bool = False
    run: RunState | None = None

    @property
    def skip(self) -> frozenset[str]:
        """Fields of runs that frames leave out."""
        return self.own_skip | self.access.skip

    @property
    def is_to_be_told(self) -> bool:
        """Whether the client has to hear of the coming end of its token."""
        return self.has_own_token and self.state == "live" and not self.is_told

    @property
    def run_id(self) -> str:
        """The run that it is about, or ""."""
        return self.what.run_id if isinstance(self.what, StreamKey) else ""

    @property
    def has_no_run(self) -> bool:
        """Whether its stream belongs to no run."""
        return isinstance(self.what, StreamKey) and belongs_to_no_run(self.what)

    def check(self) -> None:
        """Refuse it unless its token allows it.

        Raises:
            Forbidden: says what no scope allows.
        """
        if isinstance(self.what, StreamKey):
            require_read(self.access, self.what, self.run)
        else:
            require_sets(self.access, self.what)


class NextDeadline(NamedTuple):
    """What lies ahead of all subscriptions together.

    Attributes:
        at_s: Unix time at which a token of one next asks for something.
        has_own_token: At least one subscription has a separate token.
    """

    at_s: float
    has_own_token: bool


class SubscriptionTable:
    """The subscriptions of one connection, by id.

    The outlook is kept until something changes: it is asked for at every frame, and there may be
    many. Whoever changes a subscription that is in here calls `changed`.
    """

    __slots__ = ("_by_id", "_outlook")

    def __init__(self) -> None:
        self._by_id: dict[int, Subscription] = {}
        self._outlook: NextDeadline | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def __getitem__(self, id: int) -> Subscription:
        """Return a subscription.

        Raises:
            UnknownSubscription: names the id.
        """
        try:
            return self._by_id[id]
        except KeyError:
            raise UnknownSubscription(f"there is no subscription {id} on this connection") from None

    def __setitem__(self, id: int, subscription: Subscription) -> None:
        self._by_id[id] = subscription
        self.changed()

    def get(self, id: int) -> Subscription | None:
        """Return a subscription, or None."""
        return self._by_id.get(id)

    def pop(self, id: int) -> Subscription | None:
        """Take a subscription out, if it is there."""
        self.changed()
        return self._by_id.pop(id, None)

    def remove(self, id: int) -> None:
        """Take a subscription out.

        Raises:
            UnknownSubscription: there is none of this id.
        """
        _ = self[id]
        self.pop(id)

    def clear(self) -> None:
        """Take all out."""
        self._by_id.clear()
        self.changed()

    def changed(self) -> None:
        """Invalidate the next deadline: a token or its announcement has changed."""
        self._outlook = None

    def where(self, condition: Callable[[Subscription], bool]) -> list[int]:
        """Return the ids of the subscriptions that satisfy a condition."""
        return [id for id, each in self._by_id.items() if condition(each)]

    def to_be_told(self) -> Iterator[tuple[int, Permissions]]:
        """Yield the tokens of whose coming end the client has yet to hear."""
        for id, each in self._by_id.items():
            if each.is_to_be_told:
                yield id, each.access

    def outlook(self) -> NextDeadline:
        """Return the next deadline of all subscriptions."""
        if self._outlook is None:
            self._outlook = _look(self._by_id.values())
        return self._outlook


def _look(subscriptions: Iterable[Subscription]) -> NextDeadline:
    at_s, has_own_token = math.inf, False
    for each in subscriptions:
        at_s = min(at_s, each.access.expires_at_s)
        has_own_token = has_own_token or each.has_own_token
        if each.is_to_be_told:
            at_s = min(at_s, each.access.renewal_at_s)
    return NextDeadline(at_s, has_own_token)
