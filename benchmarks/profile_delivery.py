"""Where the CPU time of one delivery goes: `python -m benchmarks.profile_delivery`, as root.

While 1,000 subscribers take one record a frame the server is sampled twice. perf sees what it does
in the kernel, and how much is left for all else; py-spy stops the server for each sample, which a
system call delays until it is over, so it only says what the interpreter's own time is made of. Any
sample belongs to the first part, from its innermost frame on, that a frame's name fits.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.load_generator import Load
from benchmarks.machine import described, prepare, program, progress
from benchmarks.peers.servers import BY_NAME, HERE_FULL
from benchmarks.scenarios.fan_out import once

SUBSCRIBERS = 1000
SAMPLES_PER_S = 200
SAMPLED_S = 8.0
OTHER = "the rest: event loop, timers"
INTERPRETER = "the interpreter: what follows"
# What a frame is called that says where a sample of perf belongs, the kernel's part of it first.
KERNEL = {
    "syscall: writing to sockets": r"io_submit|sock_write|sock_sendmsg|sys_(write|send)",
    "syscall: reading, what is ready": r"sys_(read|recv|epoll)|sock_recv|do_epoll|io_uring",
    "SQLite and its syscalls": r"sqlite|sys_(pwrite|fcntl|fdatasync|pread)|fsync",
    "other syscalls, switching threads": r"entry_SYSCALL|asm_|schedule",
}
# The same for a sample of py-spy. What waits in the system is not the interpreter's.
WAITING = re.compile(
    r"SimpleQueue_get|pthread_cond_|epoll_p?wait|f(data)?sync|sqlite|pwrite|;syscall \(|"
    r"_submit \(gateway/web/bulk"
)
PARTS = {
    "framing: JSON and WebSocket": r"protocol/|wire\.py|msgspec|orjson|frame_of",
    "bookkeeping: tails, cohorts, connections": r"(cohorts|bulk|hub|tail|cursor|connection|flight"
    r"|subscriptions|subscribing|budget|websocket|direct|arriving|requests)\.py",
    "store: append and read": r"gateway/stores/|stores\.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, sample, and print shares."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile_delivery", description=__doc__
    )
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument("--server", default=HERE_FULL, choices=[HERE_FULL, "here, memory"])
    parser.add_argument("--stacks", type=Path, help="write the sampled stacks to this file too")
    chosen = parser.parse_args(arguments)
    prepare()
    for tool, package in (("perf", "apt install linux-perf"), ("py-spy", "pip install py-spy")):
        if not program(tool):
            raise SystemExit(f"{tool} is not here: {package}")
    print(f"{described()}\n")
    print(f"| {chosen.server}, {chosen.subscribers:,} subscribers | share |\n|---|---|")
    server = BY_NAME[chosen.server]
    _print(_shares(once(server, chosen.subscribers, _by_perf), KERNEL, INTERPRETER))
    stacks = once(server, chosen.subscribers, _by_py_spy)
    if chosen.stacks:
        chosen.stacks.write_text("\n".join(stacks) + "\n")
    own = [each for each in stacks if not WAITING.search(each)]
    print("| *of the interpreter's* | |")
    _print(_shares(own, PARTS, OTHER))


def _print(shares: Counter[str]) -> None:
    for part, samples in shares.most_common():
        print(f"| {part} | {samples / shares.total():.0%} |")


def _shares(stacks: Iterable[str], parts: Mapping[str, str], rest: str) -> Counter[str]:
    """Count samples by part; a line is frames from the outermost on, and how many samples."""
    shares = Counter[str]()
    for stack in stacks:
        frames, _, samples = stack.rpartition(" ")
        shares[_part(frames.split(";")[::-1], parts, rest)] += int(samples)
    return shares


def _part(frames: Iterable[str], parts: Mapping[str, str], rest: str) -> str:
    for frame in frames:
        for part, pattern in parts.items():
            if re.search(pattern, frame):
                return part
    return rest


def _by_perf(load: Load, pids: Sequence[int]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        command = [
            program("perf"),
            "record",
            "-g",
            "-F",
            "999",
            "-p",
            str(pids[0]),
            "-o",
            str(data),
        ]
        _sampled([*command, "--", "sleep", str(int(SAMPLED_S))], load, pids)
        script = [program("perf"), "script", "-i", str(data), "-F", "ip,sym"]
        told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    samples = [block.split("\n") for block in told.strip().split("\n\n")]
    return [
        ";".join(line.strip().partition(" ")[2] for line in reversed(lines) if line) + " 1"
        for lines in samples
    ]


def _by_py_spy(load: Load, pids: Sequence[int]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "stacks"
        command = [program("py-spy"), "record", "--pid", str(pids[0]), "--native"]
        options = ["--rate", str(SAMPLES_PER_S), "--duration", str(int(SAMPLED_S))]
        _sampled([*command, *options, "--format", "raw", "--output", str(raw)], load, pids)
        return raw.read_text().splitlines()


def _sampled(command: Sequence[str], load: Load, pids: Sequence[int]) -> None:
    """Keep the server busy while it is sampled."""
    sampler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    progress("sampling")
    while sampler.poll() is None:
        load.in_turn(20, pids)
    if sampler.returncode:
        said = sampler.stderr.read().decode() if sampler.stderr else ""
        raise RuntimeError(f"{command[0]} ended with code {sampler.returncode}: {said[-300:]}")


if __name__ == "__main__":
    main()
