"""Two gateways: records are appended at one gateway and read at another, over one Valkey.

For comparison, the same load on one gateway is measured too.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from benchmarks.load_generator import Load, Measurement
from benchmarks.machine import prepare
from benchmarks.peers.redis_servers import fresh, redis_server
from benchmarks.peers.servers import Server, our_protocol, ours, running
from benchmarks.report import median


def main() -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios.two_gateways", description=__doc__
    )
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20, help="records a second, for latency")
    chosen = parser.parse_args()
    prepare()
    print("| | deliveries a second | p50 ms | p99 ms |\n|---|---|---|---|")
    with redis_server("everysec") as url:
        for name, count in (("one gateway", 1), ("two gateways", 2)):
            taken = [_measure(fresh(url), count, chosen) for _ in range(chosen.runs)]
            rate = median([one.deliveries / one.wall_s for one, _ in taken])
            p50, p99 = (median([timed.latency_ms(at) for _, timed in taken]) for at in (50, 99))
            print(f"| {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} |", flush=True)


def _measure(
    store: str, gateways: int, chosen: argparse.Namespace
) -> tuple[Measurement, Measurement]:
    with ExitStack() as stack:
        server = Server("ours", "", ours(store), our_protocol)
        nodes = [stack.enter_context(running(server)) for _ in range(gateways)]
        pids = [pid for _, each, _ in nodes for pid in each]
        load = Load(nodes[0][0], nodes[0][2], nodes[-1][0])
        stack.callback(load.close)
        load.connect(chosen.subscribers)
        load.closed_loop(10, pids)  # warm-up
        closed_loop = load.closed_loop(chosen.records, pids)
        return closed_loop, load.at_rate(chosen.records, chosen.rate, pids)


if __name__ == "__main__":
    main()
