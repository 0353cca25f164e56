"""Each scenario in a form that takes seconds. The long one: `make faults`."""

from __future__ import annotations

import pytest

from faults import scenarios

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

SMALL = {"streams": 4, "raw_writers": 4, "sdk_writers": 4, "readers": 8}


async def test_kills_under_load_lose_and_repeat_nothing(tmp_path):
    verdict = await scenarios.kills(tmp_path, times=3, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.kills == 3


async def test_stops_under_load_lose_and_repeat_nothing(tmp_path):
    verdict = await scenarios.stops(tmp_path, times=2, **SMALL)
    assert verdict.is_clean, verdict.faults
    assert verdict.records > 100 and verdict.stops == 2
