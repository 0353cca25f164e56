"""A network namespace whose packets can be dropped. Needs root, `ip` and `tc`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HOST, GUEST = "10.213.77.1", "10.213.77.2"
# Each of these drops all outgoing packets; a kernel has at least one of them.
_DROPS = ("netem loss 100%", "tbf rate 8bit burst 1 limit 1")


def unavailable_reason() -> str | None:
    """Return why a namespace cannot be created here, or None if it can."""
    if os.geteuid() != 0:
        return "a network namespace needs root: run it as root"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not on PATH: apt install iproute2"
    name = f"rt{os.getpid()}try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "cannot create a network namespace: run it on Linux with CAP_SYS_ADMIN"
    _run("ip", "netns", "del", name)
    return None


class Network:
    """A network namespace, connected to this machine by a pair of virtual interfaces.

    Attributes:
        prefix: Command prefix that runs a command in the namespace.
        host: This machine's address inside the namespace.
    """

    host = HOST

    def __init__(self) -> None:
        self.name = f"rt{os.getpid()}"
        self.prefix = ("ip", "netns", "exec", self.name)
        self._outer, self._inner = f"{self.name}o", f"{self.name}i"

    def make(self) -> None:
        """Create the namespace and bring both interfaces up."""
        _run("ip", "netns", "add", self.name)
        _run(
            *("ip", "link", "add", self._outer, "type", "veth"),
            *("peer", "name", self._inner, "netns", self.name),
        )
        _run("ip", "addr", "add", f"{HOST}/30", "dev", self._outer)
        _run("ip", "link", "set", self._outer, "up")
        _run(*self.prefix, "ip", "addr", "add", f"{GUEST}/30", "dev", self._inner)
        _run(*self.prefix, "ip", "link", "set", self._inner, "up")

    def drop_everything(self) -> None:
        """Drop all packets in both directions, without any reset."""
        for prefix, device in (((), self._outer), (self.prefix, self._inner)):
            for how in _DROPS:
                command = [*prefix, "tc", "qdisc", "add", "dev", device, "root", *how.split()]
                if subprocess.run(command, capture_output=True).returncode == 0:
                    break
            else:
                raise OSError("this kernel has no qdisc that drops packets")

    def pass_everything(self) -> None:
        """Forward packets again."""
        _run("tc", "qdisc", "del", "dev", self._outer, "root")
        _run(*self.prefix, "tc", "qdisc", "del", "dev", self._inner, "root")

    def remove(self) -> None:
        """Delete the namespace and its interfaces."""
        subprocess.run(["ip", "link", "del", self._outer], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def network() -> Iterator[Network]:
    """Create a network for the duration of a block."""
    it = Network()
    try:
        it.make()
        yield it
    finally:
        it.remove()
