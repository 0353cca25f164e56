"""What one gateway hears of revoked tokens, and that it notices when it hears nothing any more.

It follows the log of revocations from the start on. Beside that it looks every few seconds whether
there is something that the follow has not brought, so that a follow that has died without a word
costs seconds and not a day; until it is whole again the gateway calls itself unhealthy.
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

CHECK_S = 2.0  # a revocation is heard within twice this, even if the follow is deaf
CHECK_DEADLINE_S = 5.0  # a store that answers no sooner is not to be relied on
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
FORGET_EVERY = 1000  # checks

IsRevoked = Callable[[Permissions], bool]

_log = logging.getLogger("realtime.tokens")


class RevocationFollower:
    """The revoked tokens that one gateway knows of.

    Args:
        store: Open.
        on_change: Called when more tokens are revoked, with what says of a token whether it is.
        check_s: How often it looks for what was not heard.
        clock_s: Unix time.
        jitter: Gives a number from 0 to 1.
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
        self._position: Position | None = None  # up to where it has heard, whoever brought it
        self._followed: Position | None = None  # up to where the follow has
        self._expected: Position | None = None  # up to where the follow has to, by the next check
        self._tries = self._tries_seen = 0  # of the follow, now and at the last check
        self._is_following = False
        self._complaint: str | None = None
        self._follow: asyncio.Task[None] | None = None
        self._check: asyncio.Task[None] | None = None

    @property
    def is_hearing(self) -> bool:
        """Whether it is up to date, as far as the last check can say."""
        return self._complaint is None

    def is_revoked(self, access: Permissions) -> bool:
        """Whether a token is good no more."""
        return self._list.is_revoked(access)

    async def start(self) -> None:
        """Read all that was revoked, and follow from there.

        Raises:
            RealtimeError: it cannot be read; a gateway that does not know may not serve.
        """
        await self._catch_up()
        self._expected = self._position
        self._start_follow()
        self._check = asyncio.create_task(self._keep_checking(), name="check of revocations")

    async def stop(self) -> None:
        """Hear no more."""
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
                await self._hear()
            except Exception as error:  # whatever it is: a gateway may not stop listening
                self._complain(f"the revoked tokens cannot be followed: {error}")
            finally:
                self._is_following = False
            failures = 0 if self._followed != began else min(failures + 1, 16)
            await asyncio.sleep(self._jitter() * min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**failures))

    async def _hear(self) -> None:
        self._is_following = True
        async with aclosing(self._store.follow(REVOCATIONS, self._position)) as pages:
            async for page in pages:
                self._followed = page.position
                if not self._has_heard(page.position):
                    self._position = page.position
                self._take(page)
        raise StoreUnavailable("the log has ended")

    def _take(self, page: Page) -> None:
        # A store that was emptied or restored gives its log anew; what was heard before stays.
        for record in page.records:
            self._add(record.data, record.time_ms)
        if page.records:
            self._on_change(self.is_revoked)

    def _add(self, data: bytes, time_ms: int) -> None:
        try:
            self._list.add(Revocation.decode(data), time_ms / 1000)
        except InvalidValue as error:
            _log.error("a record in the log of revoked tokens says nothing: %s", error)

    # ---- checking ----

    async def _keep_checking(self) -> None:
        for checks in itertools.count(1):
            await asyncio.sleep(self._check_s)
            try:
                async with asyncio.timeout(CHECK_DEADLINE_S):
                    await self._catch_up()
            except Exception as error:
                self._complain(f"the revoked tokens cannot be read: {error or 'no answer'}")
                continue
            self._judge_follow()
            if checks % FORGET_EVERY == 0:
                self._list.forget(self._clock_s())

    async def _catch_up(self) -> None:
        """Read what was not heard yet."""
        while not (page := await self._store.read(REVOCATIONS, self._position)).is_empty:
            self._position = page.position
            self._take(page)

    def _has_heard(self, position: Position) -> bool:
        here = self._position
        return here is not None and here.epoch == position.epoch and here.offset >= position.offset

    def _judge_follow(self) -> None:
        """See whether the follow has brought what the last check found without it."""
        if self._is_behind():
            self._complain("the revoked tokens were not heard, though the follow goes on")
            if self._follow is not None:
                self._follow.cancel()
            self._start_follow()
        elif self._is_following and self._tries == self._tries_seen and self._complaint:
            _log.warning("the revoked tokens are heard again")
            self._complaint = None
        self._expected, self._tries_seen = self._position, self._tries

    def _is_behind(self) -> bool:
        expected, followed = self._expected, self._followed
        if expected is None or not self._is_following:
            return False
        if followed is None or self._position is None:
            return True
        if followed.epoch != expected.epoch:  # the log has begun anew: for both of them?
            return followed.epoch != self._position.epoch
        return followed.offset < expected.offset

    def _complain(self, complaint: str) -> None:
        if self._complaint is None:
            _log.error("%s; trying again", complaint)
        self._complaint = complaint
