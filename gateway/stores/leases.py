"""What a store can do that several processes open at once: it knows which of them are alive.

Whoever executes runs, a gateway or a worker, has a name, the `owner` of these runs, and a lease
under that name, which it renews. A lease has lapsed when a gateway has seen no renewal for the
length of the lease by its own monotonic clock. Then it may judge what the owner has left. Who was
only taken for dead finds that it has lost what another has taken: a change of a run by its owner is
refused when the run has another one meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gateway.model.runs import Run
from gateway.stores.base import PathStore


class ExpiredLease(NamedTuple):
    """An owner whose lease has lapsed.

    Attributes:
        owner: Its name.
        was_released: It has let go by itself: it is certainly gone.
    """

    owner: str
    was_released: bool


@runtime_checkable
class ClusterStore(PathStore, Protocol):
    """A store for several gateways and workers at once."""

    async def renew_leases(
        self, owners: Sequence[str], lease_s: float, *, only_new: bool = False
    ) -> None:
        """Renew the leases of owners.

        Args:
            owners: Their names.
            lease_s: The length in seconds: so long without a renewal, and they are taken for dead.
            only_new: Leave those alone that have a lease, also if it has lapsed.
        """

    async def release_lease(self, owner: str) -> None:
        """Say that an owner is gone."""

    async def expired_leases(self) -> list[ExpiredLease]:
        """Return owners that let go or were not renewed; some of them if they are many.

        Call it several times in a lease: it finds a lease lapsed that was the same in all calls
        over the lease's length. After the first sight of a value no time has passed yet.
        """

    async def delete_lease(self, owner: str) -> None:
        """Forget an owner that the last `expired_leases` returned, unless it was renewed since."""

    async def patch_run_if_owner(
        self, run_id: str, patch: Mapping[str, Any], owner: str
    ) -> Run | None:
        """Change a run as `Store.patch_run` does, as one atomic unit with seeing whose it is.

        Args:
            run_id: Which run.
            patch: Merge patch of its fields; it may hand the run to another owner.
            owner: Whose it has to be.

        Returns:
            The run after it; None if it belongs to another.
        """
