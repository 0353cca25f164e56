"""One connection's state machine: a frame and the time in, commands out. No I/O, no clock.

Two times are arguments: Unix time judges tokens; steady time, which nobody sets, judges liveness.

    connection:    new ──hello──> ready ──any closing command──> closed
    subscription:  opening ──opened──> live ──> (gone: ended, unsubscribed, refused, expired)

`server/websocket/session.py` carries the commands out and tells the machine what came of them.

Source:
    PROTOCOL.md, sections 4 to 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from gateway import protocol
from gateway.auth.permissions import Permissions, require
from gateway.errors import (
    DuplicateId,
    Forbidden,
    HelloExpected,
    InvalidToken,
    MalformedFrame,
    ProtocolVersion,
    RealtimeError,
    RunNotFound,
    TokenExpired,
    TokenRevoked,
    TooManySubscriptions,
)
from gateway.model.limits import LIST_BYTES, Limits
from gateway.model.log import RunState, SetState
from gateway.model.records import (
    Position,
    RunSet,
    StreamKey,
)
from gateway.protocol import ErrorFrame, FromLast, Request, Start
from gateway.protocol.authorization import readable_key, require_read, require_request, require_sets
from gateway.protocol.commands import (
    Close,
    Command,
    ExcludeFields,
    Execute,
    Open,
    OpenSet,
    RegisterOwner,
    Send,
    Stop,
)
from gateway.protocol.credentials import Admit, Credentials, Verify
from gateway.protocol.subscriptions import Subscription, SubscriptionTable
from gateway.protocol.timeouts import Activity, Timeouts


@dataclass(slots=True)
class Connection:
    """The rules of one connection.

    Args:
        id: Name of the connection, for `welcome` and the log.
        verify: Checks a token at a time and returns what it allows.
        limits: What the client must stay below.
        opened_at_s: Steady time.
        ping_s: How often the client has to give a sign of life.
        ages_at_s: Steady time at which it is asked to come back anew.
        admit: Called with each new subject that its tokens name; raises when that one has as many
            connections as it may.
    """

    id: str
    verify: Verify
    limits: Limits
    opened_at_s: float
    ping_s: float = protocol.PING_MS / 1000
    ages_at_s: float = math.inf
    admit: Admit = lambda _: None
    state: Literal["new", "ready", "closed"] = "new"
    _bearer: Credentials = field(init=False)
    _lifetime: Timeouts = field(init=False)
    _subscriptions: SubscriptionTable = field(default_factory=SubscriptionTable)
    _requests: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._bearer = Credentials(self.verify, self.admit)
        self._lifetime = Timeouts(self.limits, self.opened_at_s, self.ping_s, self.ages_at_s)

    @property
    def heard_at_s(self) -> float:
        """Steady time of the client's last frame."""
        return self._lifetime.heard_at_s

    @property
    def is_known(self) -> bool:
        """Whether some token of the client was good."""
        return self._bearer.is_known

    @property
    def subjects(self) -> frozenset[str]:
        """Whom `admit` has let in here."""
        return frozenset(self._bearer.subjects)

    # ---- what the client sends ----

    def receive(self, text: str | bytes, now_s: float, steady_s: float) -> list[Command]:
        """Take one frame from the client.

        Args:
            text: A text message; bytes are a binary one, which is refused.
            now_s: Unix time.
            steady_s: Steady time.

        Returns:
            What to do, in order.
        """
        self._lifetime.heard_at_s = steady_s
        if self.state == "closed":
            return []
        self._note_use(steady_s)
        commands = self._read(text, now_s)
        self._note_use(steady_s)
        return commands

    def _note_use(self, steady_s: float) -> None:
        if self._is_in_use():
            self._lifetime.used_at_s = steady_s

    def _is_in_use(self) -> bool:
        # A worker's connection is its lease on the runs that it executes.
        return bool(self._bearer.is_worker or self._subscriptions or self._requests)

    def _read(self, text: str | bytes, now_s: float) -> list[Command]:
        try:
            if isinstance(text, bytes):
                raise MalformedFrame("frames are text; this message was binary")
            frame = protocol.decode(text, self.limits, is_first=self.state == "new")
        except RealtimeError as error:
            if self.state == "new":
                return self._close(HelloExpected(f"the first frame must be hello: {error.message}"))
            return [self._refusal(error, protocol.id_of(text))]
        return self._take(frame, now_s)

    def _take(self, frame: protocol.ClientFrame, now_s: float) -> list[Command]:
        if isinstance(frame, protocol.Hello):
            return self._hello(frame, now_s)
        if self.state == "new":
            return self._close(HelloExpected("the first frame must be hello"))
        try:
            match frame:
                case protocol.Subscribe():
                    return self._subscribe(frame, now_s)
                case protocol.Unsubscribe():
                    return self._unsubscribe(frame)
                case protocol.Token():
                    return self._replace_token(frame, now_s)
                case protocol.Ping():
                    return [Send(protocol.encode(protocol.Pong()))]
                case _:
                    return self._request(frame, now_s)
        except RealtimeError as error:
            is_token = isinstance(frame, protocol.Token)
            return [self._refusal(error, getattr(frame, "id", None), is_token)]

    def _refusal(self, error: RealtimeError, id: int | None, is_token: bool = False) -> Send:
        """Refuse a frame; the `id` of an error never names what goes on: it would be over."""
        if id not in self._subscriptions and id not in self._requests:
            return _error(error, id)
        return _error(error, None, id if is_token else None)

    def _hello(self, frame: protocol.Hello, now_s: float) -> list[Command]:
        if self.state == "ready":
            return [_error(MalformedFrame("hello came twice"))]
        if frame.protocol != protocol.VERSION:
            return self._close(
                ProtocolVersion(
                    f"protocol {frame.protocol} is not spoken here; {protocol.VERSION} is"
                )
            )
        try:
            if frame.token is not None:
                self._bearer.access = self._bearer.show(frame.token, now_s)
            self._check_owner(frame.owner)
        except RealtimeError as error:
            return self._close(error)
        self.state = "ready"
        limits = msgspec.convert(self.limits, protocol.LimitFields, from_attributes=True)
        welcome = protocol.Welcome(protocol.VERSION, self.id, round(self.ping_s * 1000), limits)
        hello: list[Command] = [RegisterOwner(frame.owner)] if frame.owner is not None else []
        return [*hello, Send(protocol.encode(welcome))]

    def _check_owner(self, owner: str | None) -> None:
        if owner is not None:
            access = self._bearer.access
            may = access is not None and access.may_write_every_run()
            require(may, f"execute runs as {owner}")

    def _subscribe(self, frame: protocol.Subscribe, now_s: float) -> list[Command]:
        self._check_new_id(frame.id)
        if len(self._subscriptions) >= self.limits.subscriptions:
            raise TooManySubscriptions(
                f"the connection holds {len(self._subscriptions)} subscriptions; "
                f"the limit is {self.limits.subscriptions}"
            )
        match (frame.run, frame.runs):
            case (str(run_id), msgspec.UNSET):
                return self._follow(frame, run_id, now_s)
            case (msgspec.UNSET, protocol.RunSetFields() as runs):
                return self._follow_set(frame, tuple(runs.sets), now_s)
        raise MalformedFrame("subscribe has exactly one of `run` and `runs`")

    def _follow(self, frame: protocol.Subscribe, run_id: str, now_s: float) -> list[Command]:
        key = readable_key(run_id, frame.stream)
        start = _start(frame)
        access = self._bearer.access_for(frame.token, now_s)
        # Scopes that name a tag or a batch can be judged only when the run is known.
        if not access.depends_on_run():
            require_read(access, key, None)
        subscription = self._keep(frame, key, access)
        throttle_s = frame.throttle_ms / 1000
        return [
            Open(frame.id, key, start, throttle_s, subscription.as_run, subscription.skip),
        ]

    def _follow_set(
        self, frame: protocol.Subscribe, sets: tuple[RunSet, ...], now_s: float
    ) -> list[Command]:
        access = self._bearer.access_for(frame.token, now_s)
        require_sets(access, sets)
        skip = self._keep(frame, sets, access).skip
        return [OpenSet(frame.id, sets, frame.limit, frame.throttle_ms / 1000, skip)]

    def _keep(
        self, frame: protocol.Subscribe, what: StreamKey | tuple[RunSet, ...], access: Permissions
    ) -> Subscription:
        as_run = isinstance(what, StreamKey) and frame.stream is None
        subscription = self._subscriptions[frame.id] = Subscription(
            what, access, frame.token is not None, as_run, frozenset(frame.skip)
        )
        return subscription

    def _unsubscribe(self, frame: protocol.Unsubscribe) -> list[Command]:
        self._subscriptions.remove(frame.id)
        return [Stop(frame.id), Send(protocol.encode(protocol.Unsubscribed(frame.id)))]

    def _replace_token(self, frame: protocol.Token, now_s: float) -> list[Command]:
        access = self.verify(frame.token, now_s)
        held = self._bearer.access if frame.id is None else self._subscriptions[frame.id].access
        if held is not None and held.subject != access.subject:
            raise Forbidden("the new token is for another subject than the one that it replaces")
        self._bearer.let_in(access)
        expires_in_ms = round((access.expires_at_s - now_s) * 1000)
        if frame.id is None:
            self._bearer.access, self._bearer.is_told = access, False
            accepted = protocol.TokenAccepted(expires_in_ms)
            mine = self._subscriptions.where(lambda each: not each.has_own_token)
        else:
            subscription = self._subscriptions[frame.id]
            subscription.has_own_token, subscription.is_told = True, False
            accepted = protocol.TokenAccepted(expires_in_ms, frame.id)
            mine = [frame.id]
        self._subscriptions.changed()
        commands: list[Command] = [Send(protocol.encode(accepted))]
        for id in mine:
            commands += self._judge_again(id, access)
        return commands

    def _judge_again(self, id: int, access: Permissions) -> list[Command]:
        subscription = self._subscriptions[id]
        before, subscription.access = subscription.skip, access
        self._subscriptions.changed()
        if subscription.state == "opening":
            return []  # judged when it is opened
        try:
            subscription.check()
        except Forbidden as error:
            return self.failed(id, error)
        return [ExcludeFields(id, subscription.skip)] if subscription.skip != before else []

    def _request(self, frame: Request, now_s: float) -> list[Command]:
        self._check_new_id(frame.id)
        access = self._bearer.access_for(frame.token, now_s)
        is_judged = require_request(access, frame, self.limits.record_bytes)
        self._requests.add(frame.id)
        return [Execute(frame, access.skip, None if is_judged else access)]

    def _check_new_id(self, id: int) -> None:
        if id in self._subscriptions or id in self._requests:
            raise DuplicateId(f"id {id} is in use on this connection")

    # ---- what came of the commands ----

    def opened(self, id: int, position: Position, run: RunState | None) -> list[Command]:
        """Record that a subscription's run and stream exist.

        Args:
            id: The subscription.
            position: Where its cursor will stand.
            run: The run that owns it; None if there is none, and for the log of a set of runs.

        Returns:
            What to send; the cursor may start if the subscription `is_live` afterwards.
        """
        subscription = self._subscriptions.get(id)
        if subscription is None:
            return []  # unsubscribed meanwhile
        subscription.run = run
        try:
            subscription.check()
            if run is None and not subscription.has_no_run:
                raise RunNotFound(f"there is no run {subscription.run_id}")
        except RealtimeError as error:
            return self.failed(id, error)
        subscription.state = "live"
        self._subscriptions.changed()
        subscribed = protocol.Subscribed(id, str(position))
        if subscription.as_run and run is not None:
            wire = protocol.without(run.run.to_wire(), subscription.skip)
            subscribed = protocol.Subscribed(id, str(position), wire)
        # The token may have been replaced since `Open` was given.
        return [Send(protocol.encode(subscribed)), ExcludeFields(id, subscription.skip)]

    def opened_set(self, id: int, found: SetState, reset: str | None = None) -> list[Command]:
        """Record the runs of a set that the snapshot contains.

        Args:
            id: The subscription.
            found: Its newest runs.
            reset: Why the client has to begin anew; None for the first time.

        Returns:
            What to send; the cursors may start if the subscription `is_live` afterwards.
        """
        subscription = self._subscriptions.get(id)
        if subscription is None:
            return []
        try:
            subscription.check()
        except RealtimeError as error:
            return self.failed(id, error)
        subscription.state = "live"
        self._subscriptions.changed()
        runs = protocol.encode_runs(found.runs, subscription.skip, LIST_BYTES)
        has_more = found.has_more or len(runs) < len(found.runs)
        frame: protocol.GatewayFrame
        if reset is None:
            frame = protocol.Subscribed(id, runs=runs, has_more=has_more)
        else:
            frame = protocol.Reset(id, reset, runs=runs, has_more=has_more)
        return [Send(protocol.encode(frame)), ExcludeFields(id, subscription.skip)]

    def is_live(self, id: int) -> bool:
        """Whether a subscription is there and may be sent to."""
        subscription = self._subscriptions.get(id)
        return subscription is not None and subscription.state == "live"

    def ended(self, id: int) -> None:
        """Record that a subscription's stream has ended and that the client has received `end`."""
        self._subscriptions.pop(id)

    def answered(self, id: int, frame: protocol.GatewayFrame) -> list[Command]:
        """Record that a request has finished."""
        self._requests.discard(id)
        return [Send(protocol.encode(frame))]

    def failed(self, id: int, error: RealtimeError) -> list[Command]:
        """Record that a subscription or request has failed; all others continue."""
        self._requests.discard(id)
        was_subscription = self._subscriptions.pop(id) is not None
        stop: list[Command] = [Stop(id)] if was_subscription else []
        return [*stop, _error(error, id)]

    # ---- time ----

    def due_in_s(self, now_s: float, steady_s: float) -> float:
        """Return in how many seconds `tick` has to be called at the latest.

        Args:
            now_s: Unix time.
            steady_s: Steady time.
        """
        at_s = min(self._ends_at_s(), self._subscriptions.outlook().at_s)
        if (untold := self._bearer.untold) is not None:  # at every frame: no generator
            at_s = min(at_s, untold.renewal_at_s)
        return min(at_s - now_s, self._lifetime.deadline_s(self._standing()) - steady_s)

    def _standing(self) -> Activity:
        return Activity(self.state == "new", self._bearer.is_known, self._is_in_use())

    def _ends_at_s(self) -> float:
        """When the connection's own token ends it: not while it holds something with another."""
        access = self._bearer.access
        if access is None or self._requests or self._subscriptions.outlook().has_own_token:
            return math.inf
        return access.expires_at_s

    def _untold(self) -> list[tuple[int | None, Permissions]]:
        """Tokens near expiry, not announced yet: the connection's and those of subscriptions."""
        own = self._bearer.untold
        return [*([(None, own)] if own is not None else []), *self._subscriptions.to_be_told()]

    def tick(self, now_s: float, steady_s: float) -> list[Command]:
        """Return the commands that are due at this time.

        Args:
            now_s: Unix time.
            steady_s: Steady time.
        """
        if self.state == "closed":
            return []
        overdue = self._lifetime.overdue(self._standing(), steady_s)
        if overdue is not None:
            return self._close(overdue)
        expired = self._subscriptions.where(lambda each: each.access.is_expired(now_s))
        error = TokenExpired("the token has expired; subscribe again with a new one")
        commands = [command for id in expired for command in self.failed(id, error)]
        if now_s >= self._ends_at_s():
            return commands + self._close(TokenExpired("the connection's token has expired"))
        return commands + self._ask_for_renewal(now_s)

    def _ask_for_renewal(self, now_s: float) -> list[Command]:
        commands: list[Command] = []
        for id, access in self._untold():
            if now_s < access.renewal_at_s:
                continue
            if id is None:
                self._bearer.is_told = True
            else:
                self._subscriptions[id].is_told = True
                self._subscriptions.changed()
            if not access.is_expired(now_s):
                left_ms = round((access.expires_at_s - now_s) * 1000)
                named = msgspec.UNSET if id is None else id
                commands.append(Send(protocol.encode(protocol.TokenExpiring(left_ms, named))))
        return commands

    def revoked(self, is_revoked: Callable[[Permissions], bool]) -> list[Command]:
        """End subscriptions whose token has expired or was revoked.

        Args:
            is_revoked: Says whether a token is one of those.
        """
        if self.state == "closed":
            return []
        error = TokenRevoked("the token was revoked; another one is needed")
        if self._bearer.access is not None and is_revoked(self._bearer.access):
            return self._close(error)
        gone = self._subscriptions.where(lambda each: is_revoked(each.access))
        return [command for id in gone for command in self.failed(id, error)]

    def deaf(self, steady_s: float) -> None:
        """Record that reading is paused, so that the client's silence means nothing."""
        self._lifetime.heard_at_s = steady_s

    def close(self, error: RealtimeError) -> list[Command]:
        """End the connection from this side."""
        return [] if self.state == "closed" else self._close(error)

    def _close(self, error: RealtimeError) -> list[Command]:
        self.state = "closed"
        self._subscriptions.clear()
        # Whatever ends a connection without a code of its own is about what the token allows.
        code = error.close_code or InvalidToken.close_code or 1008
        return [_error(error), Close(code, error.code)]


def _error(error: RealtimeError, id: int | None = None, subscription: int | None = None) -> Send:
    return Send(protocol.encode(ErrorFrame.of(error, id, subscription)), error.code)


def _start(frame: protocol.Subscribe) -> Literal["beginning", "latest"] | Position | FromLast:
    start: Start = protocol.start_of(frame)
    return Position.parse(start.position) if isinstance(start, protocol.FromPosition) else start
