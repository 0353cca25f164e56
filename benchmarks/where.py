"""Where the CPU time of one delivery goes: `python -m benchmarks.where`. Needs py-spy, as root.

The server is sampled from outside, native frames too, while 1,000 subscribers take one record a
frame. What waits is left out; any other sample belongs to the first of the parts below that a frame
of its stack names.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.fan_out import once
from benchmarks.load import Load
from benchmarks.machine import described, prepare, program, progress
from benchmarks.peers.servers import BY_NAME, HERE_FULL

SUBSCRIBERS = 1000
SAMPLES_PER_S = 200
SAMPLED_S = 8.0
OTHER = "the rest: event loop, interpreter, timers"
WAITING = re.compile(r"SimpleQueue_get|pthread_cond_|epoll_p?wait|f(data)?sync")  # costs no CPU
# From the innermost frame on, the first pattern that fits says where a sample belongs.
PARTS = {
    "syscall: writing to sockets": r"^(__)?(writev?|send(to|msg)?)\b|uv_try_write|uv__write",
    "syscall: reading, what is ready": r"^(__)?(recv|read)\b|uv__read|uv__io_poll|uv__epoll",
    "SQLite": r"sqlite|pwrite",
    "framing: JSON and WebSocket": r"protocol\.py|wire\.py|msgspec|orjson",
    "bookkeeping: cursors, tails, cohorts": r"cohorts\.py|hub\.py|connection\.py|record_cursor\.py"
    r"|subscriptions\.py|budget\.py|websocket\.py|flight\.py|direct\.py|arriving\.py",
    "store: append and read": r"gateway/stores/|stores\.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, sample, and print shares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.where", description=__doc__)
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument("--server", default=HERE_FULL, choices=[HERE_FULL, "here, memory"])
    parser.add_argument("--stacks", type=Path, help="write the sampled stacks to this file too")
    chosen = parser.parse_args(arguments)
    prepare()
    if not program("py-spy"):
        raise SystemExit("py-spy is not here: pip install py-spy")
    print(f"{described()}\n")
    stacks = once(BY_NAME[chosen.server], chosen.subscribers, _sampled)
    if chosen.stacks:
        chosen.stacks.write_text("\n".join(stacks) + "\n")
    shares = Counter[str]()
    for part, samples in map(_part, (each for each in stacks if not WAITING.search(each))):
        shares[part] += samples
    print(f"| {chosen.server}, {chosen.subscribers:,} subscribers | share of the CPU |\n|---|---|")
    for part, samples in shares.most_common():
        print(f"| {part} | {samples / shares.total():.0%} |")


def _sampled(load: Load, pids: Sequence[int]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "stacks"
        command = [program("py-spy"), "record", "--pid", str(pids[0]), "--native"]
        options = ["--rate", str(SAMPLES_PER_S), "--duration", str(int(SAMPLED_S))]
        sampler = subprocess.Popen(
            [*command, *options, "--format", "raw", "--output", str(raw)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        progress("sampling")
        while sampler.poll() is None:
            load.in_turn(20, pids)
        if sampler.returncode or not raw.exists():
            said = sampler.stderr.read().decode() if sampler.stderr else ""
            raise RuntimeError(f"py-spy ended with code {sampler.returncode}: {said[-300:]}")
        return raw.read_text().splitlines()


def _part(stack: str) -> tuple[str, int]:
    """Tell to which part a line of sampled frames belongs, and how many samples it is."""
    frames, _, samples = stack.rpartition(" ")
    return _first_part(reversed(frames.split(";"))), int(samples)


def _first_part(frames: Iterable[str]) -> str:
    for frame in frames:
        for part, pattern in PARTS.items():
            if re.search(pattern, frame):
                return part
    return OTHER


if __name__ == "__main__":
    main()
