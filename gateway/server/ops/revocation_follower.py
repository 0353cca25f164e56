"""The revoked tokens that one gateway knows, and whether it still learns of new ones.

It follows the log of revocations from its start. Every few seconds it also reads the log's end,
and compares that with what the follower delivered. So a follower that fails silently is noticed
within seconds. Until it works again, the gateway reports itself as not ready.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable
from contextlib import aclosing

from gateway.auth.permissions import Permissions
from gateway.auth.revocations import Revocation, RevocationList
from gateway.errors import InvalidValue, StoreUnavailable
from gateway.model.log import Page
from gateway.model.records import REVOCATIONS, Position
from gateway.stores.base import Store

CHECK_S = 2.0  # a revocation is known within twice this time, even if the follower fails silently
CHECK_DEADLINE_S = 5.0  # a store that takes longer counts as failed
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
FORGET_EVERY = 1000  # checks

IsRevoked = Callable[[Permissions], bool]

_log = logging.getLogger("realtime.tokens")


class RevocationFollower:
    """Follows the log of revoked tokens.

    Args:
        store: The open store.
        on_change: Called after new revocations, with a predicate that says whether a token is
            revoked.
        check_s: Interval of the checks, seconds.
        clock_s: Unix time.
        jitter: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        store: Store,
        on_change: Callable[[IsRevoked], None],
        *,
        check_s: float = CHECK_S,
        clock_s: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._check_s = check_s
        self._clock_s = clock_s
        self._jitter = jitter
        self._list = RevocationList()
        self._position: Position | None = None  # end of what is known, from the follower or a check
        self._followed: Position | None = None  # end of what the follower has delivered
        # what the follower must have delivered by the next check
        self._expected: Position | None = None
        self._tries = self._tries_seen = 0  # starts of the follower, now and at the last check
        self._is_following = False
        self._fault: str | None = None
        self._follow: asyncio.Task[None] | None = None
        self._check: asyncio.Task[None] | None = None

    @property
    def is_current(self) -> bool:
        """Whether it is up to date, as of the last check."""
        return self._fault is None

    def is_revoked(self, access: Permissions) -> bool:
        """Whether a token is revoked."""
        return self._list.is_revoked(access)

    async def start(self) -> None:
        """Read all revocations, then follow new ones.

        Raises:
            RealtimeError: they cannot be read; the gateway must not serve without them.
        """
        await self._catch_up()
        self._expected = self._position
        self._start_follow()
        self._check = asyncio.create_task(self._keep_checking(), name="check of revocations")

    async def stop(self) -> None:
        """Stop following."""
        tasks = [task for task in (self._follow, self._check) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- following ----

    def _start_follow(self) -> None:
        self._follow = asyncio.create_task(self._keep_following(), name="follow of revocations")

    async def _keep_following(self) -> None:
        failures = 0
        while True:
            self._tries += 1
            began = self._followed = self._position
            try:
                await self._follow_once()
            except Exception as error:  # after any error: revocations must not be lost
                self._set_unhealthy(f"the revoked tokens cannot be followed: {error}")
            finally:
                self._is_following = False
            failures = 0 if self._followed != began else min(failures + 1, 16)
            await asyncio.sleep(self._jitter() * min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**failures))

    async def _follow_once(self) -> None:
        self._is_following = True
        async with aclosing(self._store.follow(REVOCATIONS, self._position)) as pages:
            async for page in pages:
                self._followed = page.position
                if not self._has_heard(page.position):
                    self._position = page.position
                self._take(page)
        raise StoreUnavailable("the log has ended")

    def _take(self, page: Page) -> None:
        # An emptied or restored store starts its log anew. Known revocations stay.
        for record in page.records:
            self._add(record.data, record.time_ms)
        if page.records:
            self._on_change(self.is_revoked)

    def _add(self, data: bytes, time_ms: int) -> None:
        try:
            self._list.add(Revocation.decode(data), time_ms / 1000)
        except InvalidValue as error:
            _log.error("a record in the log of revoked tokens is invalid: %s", error)

    # ---- checking ----

    async def _keep_checking(self) -> None:
        for checks in itertools.count(1):
            await asyncio.sleep(self._check_s)
            try:
                async with asyncio.timeout(CHECK_DEADLINE_S):
                    await self._catch_up()
            except Exception as error:
                self._set_unhealthy(f"the revoked tokens cannot be read: {error or 'no answer'}")
                continue
            self._check_follower()
            if checks % FORGET_EVERY == 0:
                self._list.forget(self._clock_s())

    async def _catch_up(self) -> None:
        """Read what the follower has not delivered yet."""
        while not (page := await self._store.read(REVOCATIONS, self._position)).is_empty:
            self._position = page.position
            self._take(page)

    def _has_heard(self, position: Position) -> bool:
        here = self._position
        return here is not None and here.epoch == position.epoch and here.offset >= position.offset

    def _check_follower(self) -> None:
        """Restart the follower if it has not delivered what the last check found without it."""
        if self._is_behind():
            self._set_unhealthy("the follower of revoked tokens is behind the log")
            if self._follow is not None:
                self._follow.cancel()
            self._start_follow()
        elif self._is_following and self._tries == self._tries_seen and self._fault:
            _log.warning("the follower of revoked tokens works again")
            self._fault = None
        self._expected, self._tries_seen = self._position, self._tries

    def _is_behind(self) -> bool:
        expected, followed = self._expected, self._followed
        if expected is None or not self._is_following:
            return False
        if followed is None or self._position is None:
            return True
        if followed.epoch != expected.epoch:  # a new log: has the follower started on it too?
            return followed.epoch != self._position.epoch
        return followed.offset < expected.offset

    def _set_unhealthy(self, complaint: str) -> None:
        if self._fault is None:
            _log.error("%s; trying again", complaint)
        self._fault = complaint
