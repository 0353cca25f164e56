"""The benchmark tools: their arithmetic, and a real server under a small load."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import profile_delivery, report
from benchmarks.load_generator import Load, Measurement, text_frame
from benchmarks.peers.servers import BY_NAME, FLOOR, HERE_FULL, Server, running
from benchmarks.report import Effort, Result, interleaved
from benchmarks.scenarios import catch_up, fan_out, http_appends


def test_interleaved_runs_skip_server_that_failed() -> None:
    order: list[str] = []

    def measured() -> int:
        order.append("good")
        return len(order)

    def failing() -> int:
        order.append("bad")
        raise TimeoutError("10 of 20 received")

    taken, failed = interleaved("x", Effort(runs=3), {"good": measured, "bad": failing})
    assert order == ["good", "bad", "good", "good"]
    assert taken == {"good": [1, 3, 4], "bad": []}
    assert failed == {"bad": "TimeoutError: 10 of 20 received"}


def test_group_over_time_limit_has_fewer_runs() -> None:
    taken, _ = interleaved("x", Effort(runs=3, group_s=0.0), {"one": lambda: 1})
    assert taken == {"one": [1]}


def test_row_has_median_range_and_number_of_runs() -> None:
    result = Result("s", "what", "server", (3000.0, 1000.0, 1200.0), 0.5)
    assert result.row() == "| s | what | server | 1,200 | 1,000 to 3,000 (3) | 50% |"
    absent = Result("s", "what", "server", (), note="ConnectionError: gone")
    assert absent.row() == "| s | what | server | none | ConnectionError: gone | |"
    assert math.isnan(absent.median)


def test_saved_results_load_unchanged(tmp_path: Path) -> None:
    all_of_them = [Result("s", "a", "b", (1.5, 2.5), 0.1, 1000), Result("s", "c", "d", ())]
    report.save(all_of_them, "machine", tmp_path / "results.json")
    assert report.load(tmp_path / "results.json") == all_of_them


@pytest.mark.parametrize(("size", "head"), [(125, 6), (126, 8), (65535, 8), (65536, 14)])
def test_frame_header_length_depends_on_payload_size(size: int, head: int) -> None:
    frame = text_frame(b"x" * size)
    assert len(frame) == head + size
    assert frame[0] == 0x81 and frame[1] & 0x80


def test_percentile_is_a_measured_value() -> None:
    measured = Measurement(1, 1.0, 1.0, 1.0, [float(value) for value in range(100, 0, -1)])
    assert measured.latency_ms(50) == 51.0 and measured.latency_ms(99) == 100.0
    assert catch_up.percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_sample_belongs_to_category_of_innermost_frame() -> None:
    loop = "run (loop.c:1);BroadcastGroup._deliver (gateway/fanout/group.py:182)"
    shares = profile_delivery._shares(
        [
            f"{loop} 3",
            f"{loop};frame_of (gateway/server/uvicorn/websocket_protocol.py:1) 7",
            "run (loop.c:1) 2",
        ],
        profile_delivery.PARTS,
        profile_delivery.OTHER,
    )
    assert shares == {
        "bookkeeping: tails, groups, connections": 3,
        "framing: JSON and WebSocket": 7,
        profile_delivery.OTHER: 2,
    }
    kernel = "[unknown];syscall;entry_SYSCALL_64_after_hwframe;__x64_sys_io_submit;tcp_sendmsg 1"
    python = "[unknown];_PyEval_EvalFrameDefault 4"
    assert profile_delivery._shares(
        [kernel, python], profile_delivery.KERNEL, profile_delivery.INTERPRETER
    ) == {
        "syscall: writing to sockets": 1,
        profile_delivery.INTERPRETER: 4,
    }


def _two_records(load: Load, pids: Sequence[int]) -> Measurement:
    return load.closed_loop(2, pids)


@pytest.mark.process
@pytest.mark.parametrize("server", [BY_NAME[HERE_FULL], BY_NAME[FLOOR]], ids=lambda it: it.name)
def test_load_generator_counts_every_subscriber(server: Server) -> None:
    if server.missing:
        pytest.skip(server.missing)
    measured = fan_out.once(server, 5, _two_records)
    assert measured.deliveries == 10
    assert measured.server_cpu_s >= 0 and len(measured.latencies_ms) == 10


@pytest.mark.process
def test_http_clients_append_one_record_at_a_time() -> None:
    ours = http_appends._servers(here_only=True)[0]
    measured = http_appends._once(ours, 1, Effort(share=0.1))
    assert measured.deliveries >= http_appends.CLIENTS
    assert len(measured.latencies_ms) == measured.deliveries


WRAPPER = """
import http.server, os, sys
if os.fork() == 0:
    open({pid_file!r}, "w").write(str(os.getpid()))
    here = "127.0.0.1", int(sys.argv[1])
    http.server.HTTPServer(here, http.server.BaseHTTPRequestHandler).serve_forever()
os.wait()
"""


@pytest.mark.process
def test_child_processes_of_server_end_with_it(tmp_path: Path) -> None:
    """The `node` of PyPI is a wrapper; its child process would otherwise keep a core busy."""
    pid_file = tmp_path / "pid"
    program = WRAPPER.format(pid_file=str(pid_file))

    def command(port: int, _: Path) -> list[str]:
        return [sys.executable, "-c", program, str(port)]

    protocol = http_appends._no_websocket
    with running(Server("wrapped", "", command, protocol)):
        pid = int(pid_file.read_text())
        assert Path(f"/proc/{pid}").exists()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
        assert time.monotonic() < deadline, f"process {pid} is still running"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
