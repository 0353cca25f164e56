"""Everything that is measured here. Figures and how to read them: README.md.

Each figure is the median of `--runs` interleaved runs; what is compared is the ratio in one run's
table, not a number from another machine.
"""

from __future__ import annotations

import argparse
import os
import platform

from benchmarks import fan_out, quick
from benchmarks.stores import measure_stores


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure (default 3)")
    parser.add_argument("--only", choices=["stores", "fan-out", "quick"], help="measure only this")
    chosen = parser.parse_args()
    runs = ["--runs", str(chosen.runs)]
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores\n"
    )
    if chosen.only in (None, "stores"):
        measure_stores(chosen.runs)
    if chosen.only in (None, "fan-out"):
        for subscribers, records in ((1, 1000), (100, 800), (1000, 200), (5000, 40)):
            counts = ["--subscribers", str(subscribers), "--records", str(records)]
            fan_out.main([*runs, *counts])
        fan_out.main([*runs, "--subscribers", "100", "--records", "500", "--rate", "100"])
    if chosen.only in (None, "quick"):
        quick.main(runs)


if __name__ == "__main__":
    main()
