import pytest

from gateway._internal.counters import Counters, Histogram
from gateway.errors import RunNotFound, StoreUnavailable
from gateway.model.records import Record, StreamKey, Writer
from gateway.protocol import encode_record, time_of
from gateway.stores.base import PathStore
from gateway.stores.instrumented import counted
from gateway.stores.leases import ClusterStore
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.store import RedisStore
from tests.support.gateways import new_run


def test_a_value_is_counted_in_the_first_bucket_that_holds_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 100.0):
        histogram.observe(value)
    assert histogram.up_to() == [2, 4, 6]
    assert histogram.count == 6
    assert histogram.sum == pytest.approx(106.6)


def test_a_clock_that_was_set_back_counts_as_no_time():
    histogram = Histogram((1.0,))
    histogram.observe(-5.0)
    assert (histogram.up_to(), histogram.sum) == ([1, 1], 0.0)


def test_a_delivery_takes_from_acceptance_to_now():
    counters = Counters(clock_s=lambda: 100.25)
    counters.delivered(100_000)
    assert counters.delivery_s.sum == pytest.approx(0.25)


@pytest.mark.parametrize("source", [None, "run_1", "run_2"])
def test_the_time_of_an_encoded_record_is_read(source):
    data = b'{"time_ms":5,"x":1}'
    assert time_of(encode_record(Record(7, 1_795_352_174_123, source, data), "run_1")) == (
        1_795_352_174_123
    )


async def test_appends_are_counted_and_repeats_are_not():
    times = iter([10.0, 10.003, 20.0, 20.002])
    counters = Counters()
    store = counted(MemoryStore(), counters)
    store._monotonic_s = lambda: next(times)
    await store.open()
    key = StreamKey((await store.create_run(new_run())).id, "s")
    for _ in range(2):
        await store.append(key, [b"1", b'"two"'], writer=Writer("w", 0, 0))
    assert (counters.records_appended, counters.bytes_appended) == (2, 6)
    assert counters.append_s.count == 2
    assert counters.append_s.sum == pytest.approx(0.005)
    assert not counters.store_errors


async def test_faults_of_the_store_are_counted_and_mistakes_of_callers_are_not():
    class Failing(MemoryStore):
        failure: Exception = StoreUnavailable("the disk is full")

        async def append(self, *args, **options):
            raise self.failure

        async def follow(self, key, after=None, on_page=None):
            raise self.failure
            yield

    counters = Counters()
    store = counted(Failing(), counters)
    await store.open()
    key = StreamKey((await store.create_run(new_run())).id, "s")
    with pytest.raises(StoreUnavailable):
        await store.append(key, [b"1"])
    with pytest.raises(StoreUnavailable):
        await anext(store.follow(key))
    Failing.failure = ZeroDivisionError()  # of the store's own
    with pytest.raises(ZeroDivisionError):
        await store.append(key, [b"1"])
    with pytest.raises(RunNotFound):
        await store.get_run("run_nowhere")
    assert counters.store_errors == {"append": 2, "follow": 1}
    assert counters.records_appended == 0


async def test_what_a_store_has_beyond_the_contract_is_there_with_counters_too():
    assert isinstance(counted(MemoryStore(), Counters()), PathStore)
    assert not isinstance(counted(MemoryStore(), Counters()), ClusterStore)
    assert isinstance(counted(RedisStore("redis://127.0.0.1/0"), Counters()), ClusterStore)


async def test_closing_a_follow_frees_what_it_held():
    inner = MemoryStore()
    store = counted(inner, Counters())
    await store.open()
    key = StreamKey((await store.create_run(new_run())).id, "s")
    await store.append(key, [b"1"])
    pages = store.follow(key)
    assert len((await anext(pages)).records) == 1
    await pages.aclose()
    assert inner._growth._watches == {}


def test_a_quantile_is_the_bound_below_which_a_share_lies():
    histogram = Histogram((1.0, 2.0))
    assert histogram.quantile(0.99) is None
    for value in (0.5,) * 98 + (1.5,) * 2:
        histogram.observe(value)
    assert (histogram.quantile(0.5), histogram.quantile(0.98)) == (1.0, 1.0)
    assert histogram.quantile(0.99) == 2.0
    before = list(histogram.counts)
    assert histogram.quantile(0.5, before) is None
    histogram.observe(100.0)
    assert histogram.quantile(0.5, before) == float("inf")
