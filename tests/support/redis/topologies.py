"""Sentinels and clusters for tests: several real servers each."""

import socket
from contextlib import contextmanager
from typing import NamedTuple

import redis

from tests.support.redis.servers import VALKEY, RedisServer, free_port, running

SLOTS = 16384
BUS = 10_000  # so far above its port a server of a cluster talks to the others


# Sentinel.


class Sentinels(NamedTuple):
    """A master, its replica, and who watches them.

    Attributes:
        url: Of a store.
        master: At first.
        replica: Likewise.
        watching: The sentinels.
    """

    url: str
    master: RedisServer
    replica: RedisServer
    watching: list[RedisServer]

    def is_joined(self):
        """Whether all know of each other, and the replica has what the master has."""
        others = len(self.watching) - 1
        return all(each.sees(others) for each in self.watching) and is_up_to_date(
            self.master, self.replica
        )


@contextmanager
def sentinels(binary=VALKEY, count=3):
    """A master, its replica, and sentinels that name it `mine`; wait for `is_joined`."""
    options = {"binary": binary, "repl-diskless-sync-delay": "0"}
    master = RedisServer(**options)
    replica = RedisServer(replicaof=("127.0.0.1", master.port), **options)
    watching = [Sentinel(master.port, binary, count // 2 + 1) for _ in range(count)]
    url = "redis+sentinel://" + ",".join(f"127.0.0.1:{each.port}" for each in watching)
    with running(master, replica, *watching):
        yield Sentinels(f"{url}/mine", master, replica, watching)


class Sentinel(RedisServer):
    """A sentinel that watches a master."""

    def __init__(self, master_port, binary=VALKEY, quorum=2):
        super().__init__(binary)
        self.folder.joinpath("sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor mine 127.0.0.1 {master_port} {quorum}\n"
            "sentinel down-after-milliseconds mine 500\n"
            "sentinel failover-timeout mine 5000\n"
        )

    def command(self):
        return [self.binary, str(self.folder / "sentinel.conf"), "--sentinel"]

    def sees(self, others):
        """Whether it knows the replica and so many other sentinels."""
        with self.client() as client:
            master = client.sentinel_master("mine")
            return master["num-slaves"] == 1 and master["num-other-sentinels"] == others


# Cluster.


class Cluster:
    """Servers that share the slots.

    Attributes:
        url: Of a store on them.
        masters: As it was made.
        replica: Of the first of them, if there is one.
    """

    def __init__(self, masters, replica):
        self.url = f"redis+cluster://127.0.0.1:{masters[-1].port}"
        self.masters, self.replica = masters, replica

    def join(self):
        """Have the servers meet, and share the slots among the masters."""
        for at, node in enumerate(self.masters):
            first, last = (SLOTS * n // len(self.masters) for n in (at, at + 1))
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(first, last))
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        with self.masters[0].client() as client:
            for other in filter(None, (*self.masters[1:], self.replica)):
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)

    def is_joined(self):
        """Whether every server knows of all slots, and the replica has what its master has."""
        if self.replica is not None and self.replica.info("replication")["role"] == "master":
            return self._replicate()
        return all(map(self._sees_all, self.masters)) and (
            self.replica is None or is_up_to_date(self.masters[0], self.replica)
        )

    def _replicate(self):
        with self.replica.client() as client:
            try:
                client.execute_command("CLUSTER", "REPLICATE", node_id(self.masters[0]))
            except redis.exceptions.ResponseError:
                pass  # it has not heard of its master yet
        return False

    def _sees_all(self, node):
        with node.client() as client:
            info = client.cluster("INFO")
        return info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOTS)


def is_up_to_date(master, replica):
    """Whether a replica has all that its master has."""
    here, there = master.info("replication"), replica.info("replication")
    return (
        there.get("master_link_status") == "up"
        and here["master_repl_offset"] == there["slave_repl_offset"]
    )


def node_id(node):
    """Return what a cluster calls one of its servers."""
    with node.client() as client:
        return client.execute_command("CLUSTER", "MYID")


@contextmanager
def cluster(binary=VALKEY, count=3, with_replica=False):
    """Servers that have begun to join a cluster; wait for `is_joined`."""
    options = {"binary": binary, "cluster-enabled": "yes", "cluster-node-timeout": "1500"}
    options |= {"repl-diskless-sync-delay": "0"}
    nodes = [RedisServer(port=_cluster_port(), **options) for _ in range(count + with_replica)]
    with running(*nodes):
        made = Cluster(nodes[:count], nodes[count] if with_replica else None)
        made.join()
        yield made


def _cluster_port():
    """Find a port for which that of the bus is free too; Redis 6.2 takes no other."""
    while True:
        port = free_port()
        if port + BUS < 1 << 16:
            with socket.socket() as trying:
                try:
                    trying.bind(("127.0.0.1", port + BUS))
                except OSError:
                    continue
            return port
