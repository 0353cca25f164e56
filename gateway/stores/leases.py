"""The contract of a store that several processes share: leases show which of them are alive.

Each process that executes runs, a gateway or a worker, has a name: the `owner` of these runs. It
renews a lease under that name. A lease expires when a gateway has seen no renewal for the length
of the lease by its own monotonic clock. The gateway may then recover the owner's runs. An owner
that was declared dead by mistake cannot write to runs that were taken over: the store rejects a
change by an owner when the run belongs to another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gateway.model.runs import Run
from gateway.stores.base import PathStore


class ExpiredLease(NamedTuple):
    """An owner whose lease has expired.

    Attributes:
        owner: Its name.
        was_released: The owner released the lease, so it has certainly stopped.
    """

    owner: str
    was_released: bool


@runtime_checkable
class ClusterStore(PathStore, Protocol):
    """A store that several gateways and workers share."""

    async def renew_leases(
        self, owners: Sequence[str], lease_s: float, *, only_new: bool = False
    ) -> None:
        """Renew the leases of owners.

        Args:
            owners: Their names.
            lease_s: Length of the lease in seconds, counted from the last renewal.
            only_new: Skip owners that have a lease, even an expired one.
        """

    async def release_lease(self, owner: str) -> None:
        """Release the lease of an owner that stops, so that it expires immediately."""

    async def expired_leases(self) -> list[ExpiredLease]:
        """Return owners whose lease was released or has expired; if many, only some of them.

        Call it several times in the length of a lease. A lease counts as expired when its value
        was the same in all calls over its length. The first call only records the value.
        """

    async def delete_lease(self, owner: str) -> None:
        """Delete a lease that the last `expired_leases` returned, unless it was renewed since."""

    async def patch_run_if_owner(
        self, run_id: str, patch: Mapping[str, Any], owner: str
    ) -> Run | None:
        """Change a run as `Store.patch_run` does, atomically with the check of its owner.

        Args:
            run_id: Which run.
            patch: Merge patch of its fields; it may set another owner.
            owner: The expected owner.

        Returns:
            The changed run; None if it has another owner.
        """
