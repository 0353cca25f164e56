"""Each scenario in a form that takes seconds. The long one: `make faults`."""

from __future__ import annotations

import pytest

from faults import cluster, large, network, nginx, scenarios, valkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SMALL = {"streams": 4, "raw_writers": 4, "sdk_writers": 4, "readers": 8}


async def test_kills_under_load_lose_and_repeat_nothing(tmp_path):
    verdict = await scenarios.kills(tmp_path, times=2, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.kills == 2


async def test_stops_under_load_lose_and_repeat_nothing(tmp_path):
    verdict = await scenarios.stops(tmp_path, times=1, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.stops == 1


async def test_kills_and_stops_over_redis_lose_and_repeat_nothing(tmp_path):
    for number, scenario in enumerate((scenarios.kills, scenarios.stops)):
        folder = tmp_path / str(number)
        folder.mkdir()
        verdict = await cluster.over_redis(scenario, folder, times=1, **SMALL)
        assert verdict.is_clean, verdict.faults
        assert verdict.records > 100


async def test_a_kill_of_the_stores_server_loses_nothing_that_was_acknowledged(tmp_path):
    verdict = await valkey.killed(tmp_path, times=1, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100


async def test_appends_to_a_large_file_wait_for_no_list_delete_or_sweep(tmp_path):
    verdict = await large.large(tmp_path, runs=20_000, stream_mb=20)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100


@pytest.mark.skipif(nginx.why_not() is not None, reason=str(nginx.why_not()))
@pytest.mark.parametrize("has_affinity", [False, True], ids=["anywhere", "affinity"])
async def test_the_clients_of_a_killed_gateway_are_soon_at_the_other(tmp_path, has_affinity):
    verdict = await cluster.kills(tmp_path, times=2, has_affinity=has_affinity, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.kills == 2


@pytest.mark.skipif(nginx.why_not() is not None, reason=str(nginx.why_not()))
async def test_a_rolling_restart_under_load_loses_and_repeats_nothing(tmp_path):
    verdict = await cluster.rolling(tmp_path, rounds=1, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.stops == 2


async def test_a_client_that_is_paused_gets_everything_when_it_goes_on(tmp_path):
    verdict = await scenarios.paused(tmp_path, **SMALL)
    assert verdict.is_clean, verdict.faults


async def test_a_half_open_connection_is_noticed_by_both_sides(tmp_path):
    verdict = await scenarios.half_open(tmp_path, **SMALL)
    assert verdict.is_clean, verdict.faults


@pytest.mark.skipif(network.why_not() is not None, reason=str(network.why_not()))
async def test_a_client_whose_packets_are_dropped_resumes_when_they_pass_again(tmp_path):
    verdict = await scenarios.dropped(tmp_path, **SMALL)
    assert verdict.is_clean, verdict.faults


async def test_a_slow_client_holds_nobody_up_and_costs_a_bounded_amount(tmp_path):
    verdict = await scenarios.slow(tmp_path, for_s=3)
    assert verdict.is_clean, verdict.faults


async def test_readers_that_vanish_leave_nothing_behind(tmp_path):
    verdict = await scenarios.vanished(tmp_path, crowd=40)
    assert verdict.is_clean, verdict.faults


@pytest.mark.skipif(nginx.why_not() is not None, reason=str(nginx.why_not()))
async def test_a_reload_of_nginx_loses_and_repeats_nothing(tmp_path):
    verdict = await scenarios.proxied(tmp_path, reloads=1, **SMALL)
    assert verdict.is_clean, verdict.faults
