"""A short form of each fault scenario. `make faults` runs the long forms."""

from __future__ import annotations

import pytest

from tests.support import nginx
from tests.support.faults import cluster, large, network, scenarios, valkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SMALL = {"streams": 4, "raw_writers": 4, "sdk_writers": 4, "readers": 8}


async def test_kill_under_load_loses_and_repeats_no_record(tmp_path):
    verdict = await scenarios.kills(tmp_path, times=2, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.kills == 2


async def test_stop_under_load_loses_and_repeats_no_record(tmp_path):
    verdict = await scenarios.stops(tmp_path, times=1, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.stops == 1


async def test_kill_and_stop_with_redis_lose_and_repeat_no_record(tmp_path):
    for number, scenario in enumerate((scenarios.kills, scenarios.stops)):
        folder = tmp_path / str(number)
        folder.mkdir()
        verdict = await cluster.over_redis(scenario, folder, times=1, **SMALL)
        assert verdict.is_clean, verdict.faults
        assert verdict.records > 100


async def test_kill_of_redis_server_loses_no_acknowledged_record(tmp_path):
    verdict = await valkey.killed(tmp_path, times=1, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100


async def test_appends_to_large_file_do_not_wait_for_other_work(tmp_path):
    verdict = await large.large(tmp_path, runs=20_000, stream_mb=20)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100


@pytest.mark.skipif(nginx.unavailable_reason() is not None, reason=str(nginx.unavailable_reason()))
@pytest.mark.parametrize("has_affinity", [False, True], ids=["anywhere", "affinity"])
async def test_clients_of_killed_gateway_move_to_the_other(tmp_path, has_affinity):
    verdict = await cluster.kills(tmp_path, times=2, has_affinity=has_affinity, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.kills == 2


@pytest.mark.skipif(nginx.unavailable_reason() is not None, reason=str(nginx.unavailable_reason()))
async def test_rolling_restart_loses_and_repeats_no_record(tmp_path):
    verdict = await cluster.rolling(tmp_path, rounds=1, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.stops == 2


async def test_paused_client_receives_all_records_when_resumed(tmp_path):
    verdict = await scenarios.paused(tmp_path, **SMALL)
    assert verdict.is_clean, verdict.faults


async def test_both_sides_detect_half_open_connection(tmp_path):
    verdict = await scenarios.half_open(tmp_path, **SMALL)
    assert verdict.is_clean, verdict.faults


@pytest.mark.skipif(
    network.unavailable_reason() is not None, reason=str(network.unavailable_reason())
)
async def test_client_resumes_after_dropped_packets(tmp_path):
    verdict = await scenarios.dropped(tmp_path, **SMALL)
    assert verdict.is_clean, verdict.faults


async def test_slow_client_does_not_delay_others_or_grow_memory(tmp_path):
    verdict = await scenarios.slow(tmp_path, for_s=3)
    assert verdict.is_clean, verdict.faults


async def test_vanished_readers_release_all_resources(tmp_path):
    verdict = await scenarios.vanished(tmp_path, clients=40)
    assert verdict.is_clean, verdict.faults


@pytest.mark.skipif(nginx.unavailable_reason() is not None, reason=str(nginx.unavailable_reason()))
async def test_nginx_reload_loses_and_repeats_no_record(tmp_path):
    verdict = await scenarios.proxied(tmp_path, reloads=1, **SMALL)
    assert verdict.is_clean, verdict.faults
