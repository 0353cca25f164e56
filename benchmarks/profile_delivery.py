"""Profile the CPU time of one delivery: `python -m benchmarks.profile_delivery`, as root.

The server is sampled twice while 1,000 subscribers receive one record per frame. perf shows the
time in the kernel and the time outside it. py-spy stops the server for each sample, and a system
call delays that stop until it returns; so py-spy only shows how the interpreter's time is divided.
A sample belongs to the category whose pattern matches its innermost matching frame.
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
from benchmarks.machine import describe_machine, find_program, prepare, progress
from benchmarks.peers.servers import BY_NAME, HERE_FULL
from benchmarks.scenarios.fan_out import once

SUBSCRIBERS = 1000
SAMPLES_PER_S = 200
SAMPLED_S = 8.0
OTHER = "other: event loop, timers"
INTERPRETER = "the interpreter (see below)"
# Categories of perf's samples, by a pattern for the names of frames. The first match counts.
KERNEL = {
    "syscall: writing to sockets": r"io_submit|sock_write|sock_sendmsg|sys_(write|send)",
    "syscall: reading and polling": r"sys_(read|recv|epoll)|sock_recv|do_epoll|io_uring",
    "SQLite and its syscalls": r"sqlite|sys_(pwrite|fcntl|fdatasync|pread)|fsync",
    "other syscalls, context switches": r"entry_SYSCALL|asm_|schedule",
}
# Samples of py-spy that wait in the kernel. They are not the interpreter's time.
WAITING = re.compile(
    r"SimpleQueue_get|pthread_cond_|epoll_p?wait|f(data)?sync|sqlite|pwrite|;syscall \(|"
    r"_submit \(gateway/server/uvicorn/bulk_write"
)
# Categories of the other samples of py-spy.
PARTS = {
    "framing: JSON and WebSocket": r"gateway/protocol/(codec|encoding|\w+_frames|results)\.py"
    r"|msgspec|orjson|frame_of",
    "bookkeeping: tails, groups, connections": r"gateway/(fanout|_internal|protocol"
    r"|server/websocket|server/uvicorn)/",
    "store: append and read": r"gateway/stores/|stores\.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, sample, and print shares."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile_delivery", description=__doc__
    )
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument("--server", default=HERE_FULL, choices=[HERE_FULL, "here, memory"])
    parser.add_argument("--stacks", type=Path, help="also write the sampled stacks to this file")
    chosen = parser.parse_args(arguments)
    prepare()
    for tool, package in (("perf", "apt install linux-perf"), ("py-spy", "pip install py-spy")):
        if not find_program(tool):
            raise SystemExit(f"{tool} is not installed: {package}")
    print(f"{describe_machine()}\n")
    print(f"| {chosen.server}, {chosen.subscribers:,} subscribers | share |\n|---|---|")
    server = BY_NAME[chosen.server]
    _print(_shares(once(server, chosen.subscribers, _by_perf), KERNEL, INTERPRETER))
    stacks = once(server, chosen.subscribers, _by_py_spy)
    if chosen.stacks:
        chosen.stacks.write_text("\n".join(stacks) + "\n")
    own = [each for each in stacks if not WAITING.search(each)]
    print("| *of the interpreter's time* | |")
    _print(_shares(own, PARTS, OTHER))


def _print(shares: Counter[str]) -> None:
    for part, samples in shares.most_common():
        print(f"| {part} | {samples / shares.total():.0%} |")


def _shares(stacks: Iterable[str], parts: Mapping[str, str], rest: str) -> Counter[str]:
    """Count samples by category. A line has frames, the outermost first, and a sample count."""
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
            find_program("perf"),
            "record",
            "-g",
            "-F",
            "999",
            "-p",
            str(pids[0]),
            "-o",
            str(data),
        ]
        _run_sampler([*command, "--", "sleep", str(int(SAMPLED_S))], load, pids)
        script = [find_program("perf"), "script", "-i", str(data), "-F", "ip,sym"]
        output = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    samples = [block.split("\n") for block in output.strip().split("\n\n")]
    return [
        ";".join(line.strip().partition(" ")[2] for line in reversed(lines) if line) + " 1"
        for lines in samples
    ]


def _by_py_spy(load: Load, pids: Sequence[int]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "stacks"
        command = [find_program("py-spy"), "record", "--pid", str(pids[0]), "--native"]
        options = ["--rate", str(SAMPLES_PER_S), "--duration", str(int(SAMPLED_S))]
        _run_sampler([*command, *options, "--format", "raw", "--output", str(raw)], load, pids)
        return raw.read_text().splitlines()


def _run_sampler(command: Sequence[str], load: Load, pids: Sequence[int]) -> None:
    """Run a sampler, and keep the server busy until it ends."""
    sampler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    progress("sampling")
    while sampler.poll() is None:
        load.closed_loop(20, pids)
    if sampler.returncode:
        output = sampler.stderr.read().decode() if sampler.stderr else ""
        raise RuntimeError(f"{command[0]} ended with code {sampler.returncode}: {output[-300:]}")


if __name__ == "__main__":
    main()
