"""What a store can do that several processes open at once: it knows which of them are alive.

Whoever executes runs, a gateway or a worker, has a name, the `owner` of these runs, and a lease
under that name, which it renews. When a lease has lapsed any gateway may judge what its owner has
left. Who was only taken for dead finds that it has lost what another has taken: a change of a run
by its owner is refused when the run has another one meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gateway.runs import Run
from gateway.stores.base import PathStore


class Lapsed(NamedTuple):
    """An owner whose lease has run out.

    Attributes:
        owner: Its name.
        said_so: It has let go by itself: it is certainly gone.
    """

    owner: str
    said_so: bool


@runtime_checkable
class SharedStore(PathStore, Protocol):
    """A store for several gateways and workers at once. The clock of leases is the servers'."""

    async def hold(self, owners: Sequence[str], lease_s: float, *, only_new: bool = False) -> None:
        """Say that owners are alive, and will be taken for so during the lease's time.

        Args:
            owners: Their names.
            lease_s: Seconds from now.
            only_new: Leave those alone that have a lease, also if it has lapsed.
        """

    async def let_go(self, owner: str) -> None:
        """Say that an owner is gone."""

    async def lapsed(self) -> list[Lapsed]:
        """Return owners whose lease has run out, some of them if they are many."""

    async def forget_lease(self, owner: str) -> None:
        """Forget an owner that has nothing left, unless it has a lease again."""

    async def patch_own_run(self, run_id: str, patch: Mapping[str, Any], owner: str) -> Run | None:
        """Change a run as `Store.patch_run` does, as one atomic unit with seeing whose it is.

        Args:
            run_id: Which run.
            patch: Merge patch of its fields; it may hand the run to another owner.
            owner: Whose it has to be.

        Returns:
            The run after it; None if it belongs to another.
        """
