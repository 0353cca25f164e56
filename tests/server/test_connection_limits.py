import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TooManyConnections
from gateway.model.limits import Limits
from gateway.server.connection_limits import MAX_RETRY_S, ConnectionLimits, TokenBucket
from gateway.server.ops.drain import BATCH, MAX_RETRY_AFTER_S, plan_drain


def test_token_bucket_admits_burst_then_rate():
    bucket = TokenBucket(5, 100.0)
    assert [bucket.take(100.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(100.0) > 0
    assert [bucket.take(101.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(101.0) > 0


def test_token_bucket_spreads_retry_times():
    bucket = TokenBucket(10, 0.0)
    for _ in range(20):
        bucket.take(0.0)
    waits = [bucket.take(0.0) for _ in range(30)]
    assert waits == pytest.approx([(i + 1) / 10 for i in range(30)])
    assert max(bucket.take(0.0) for _ in range(1000)) == MAX_RETRY_S


@given(st.lists(st.floats(0, 3), max_size=200))
def test_token_bucket_never_exceeds_its_rate(pauses):
    bucket, now_s, let_in = TokenBucket(4, 0.0), 0.0, 0
    for pause_s in pauses:
        now_s += pause_s
        let_in += bucket.take(now_s) == 0
    assert let_in <= 8 + 4 * now_s + 1e-6


def test_an_address_has_a_number_of_connections():
    admission = ConnectionLimits(Limits(address_connections=2), 0.0)
    admission.accept("198.51.100.1", 0.0)
    admission.accept("198.51.100.1", 0.0)
    with pytest.raises(TooManyConnections, match=r"198\.51\.100\.1 has 2 .*limit is 2") as caught:
        admission.accept("198.51.100.1", 0.0)
    assert caught.value.retry_after_s
    admission.accept("198.51.100.2", 0.0)
    admission.leave("198.51.100.1", [])
    admission.accept("198.51.100.1", 0.0)


def test_connection_without_address_is_not_counted():
    admission = ConnectionLimits(Limits(address_connections=1), 0.0)
    for _ in range(5):
        admission.accept("", 0.0)
    admission.leave("", [])
    assert admission.is_empty


def test_a_subject_has_a_number_of_connections():
    admission = ConnectionLimits(Limits(subject_connections=1), 0.0)
    admission.admit("ann")
    admission.admit("bob")
    with pytest.raises(TooManyConnections, match="subject 'ann' has 1 connections; the limit is 1"):
        admission.admit("ann")
    admission.leave("", ["ann", "bob"])
    assert admission.is_empty


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 5000])
def test_drain_plan_covers_each_client_once_within_deadline(count):
    plan = list(plan_drain(count, within_s=2.0, accepts_per_s=500, random=lambda: 0.5))
    assert sum(len(each.retry_after_s) for each in plan) == count
    assert all(0 < len(each.retry_after_s) <= BATCH for each in plan)
    assert sum(each.pause_s for each in plan) <= 2.0
    assert [each.pause_s for each in plan[:1]] == [0.0] * bool(count)


def test_drain_plan_spreads_reconnects_by_client_count():
    def latest_s(count):
        plan = plan_drain(count, within_s=2.0, accepts_per_s=500, random=lambda: 1.0)
        return max(after_s for each in plan for after_s in each.retry_after_s)

    assert latest_s(5) == 0.02
    assert latest_s(5000) == 20
    assert latest_s(100_000) == MAX_RETRY_AFTER_S
