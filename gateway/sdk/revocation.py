"""Keeps a revocation where every gateway of the store hears of it."""

from __future__ import annotations

import secrets

from gateway.auth.revocations import Revocation
from gateway.model.records import REVOCATIONS, Writer
from gateway.sdk.loops.bridge import on_its_loop
from gateway.stores.base import Store


@on_its_loop
async def keep_revocation(store: Store, revocation: Revocation) -> None:
    """Append to the log of revoked tokens.

    Raises:
        RealtimeError: it may not have been kept.
    """
    writer = Writer(secrets.token_urlsafe(12), 0, 0)  # so that a lost answer can be asked for again
    await store.append(REVOCATIONS, [revocation.encode()], writer=writer)
