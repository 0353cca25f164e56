"""A reader as a process that can be paused: `lone_reader URL TOKEN RUN STREAM OUTPUT`.

When the stream has ended, it writes the received records to OUTPUT.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

from tests.support.faults.clients import Reader
from tests.support.faults.history import View


def main(url: str, token: str, run: str, stream: str, output: str) -> None:
    """Read the stream to its end."""
    view = View("lone reader", (run, stream))
    asyncio.run(Reader(url, lambda: token, view, rng=random.Random(1)).run())
    Path(output).write_text(
        json.dumps([view.records, view.gaps, view.resets, view.end, view.connections])
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
