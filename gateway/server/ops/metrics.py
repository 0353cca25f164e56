"""`/metrics`: the gateway's counters under their Prometheus names.

Nothing is stored here. Each scrape reads the counters and the open tails and connections. No label
names a run, a stream or a client: their number is unbounded.

Source:
    docs/operating.md lists the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import version
from typing import Protocol, runtime_checkable

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway._internal.counters import Counters, Histogram
from gateway.errors import BY_CODE
from gateway.fanout.hub import Hub
from gateway.server.ops.snapshot import ConnectionSource, HttpReaderSource, LagSource
from gateway.stores.base import Store

METRICS_PATH = "/metrics"


@runtime_checkable
class HasStoreLag(Protocol):
    """A store that is notified of other processes' appends, and measures how late."""

    @property
    def lag_s(self) -> float:
        """Seconds since the last notification or heartbeat."""


class GatewayCollector(Collector):
    """Makes metrics of one gateway's counters.

    Args:
        counters: The gateway's counters.
        connections: Its open connections.
        waiting: Its readers over HTTP.
        hub: Returns the hub; None while the gateway is not running.
        store: Returns the store, likewise.
    """

    def __init__(
        self,
        counters: Counters,
        connections: Collection[ConnectionSource],
        waiting: HttpReaderSource,
        hub: Callable[[], Hub | None],
        store: Callable[[], Store | None],
    ) -> None:
        self._counters = counters
        self._connections = connections
        self._waiting = waiting
        self._hub = hub
        self._store = store

    def describe(self) -> list[Metric]:
        """Describe no metrics in advance: the gateway may not run yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the current value of each metric."""
        yield InfoMetricFamily(
            "realtime_gateway", "The gateway.", {"version": version("realtime-streams")}
        )
        yield from self._of_connections()
        yield from self._of_records()
        yield from self._of_readers()
        yield from self._of_store()
        yield _histogram(
            "realtime_event_loop_lag_seconds",
            "How late the event loop ran a timer.",
            self._counters.loop_lag_s,
        )

    def _of_connections(self) -> Iterator[Metric]:
        counters, connections = self._counters, self._connections
        yield _gauge(
            "realtime_connections", "Open WebSockets and answers of frames.", len(connections)
        )
        yield _counter(
            "realtime_connections_opened", "Connections accepted.", counters.connections_opened
        )
        yield _labeled(
            "realtime_connections_closed",
            "Connections closed, by cause: client, cut, or an error's code.",
            "by",
            counters.connections_closed,
        )
        yield _gauge(
            "realtime_subscriptions",
            "Subscriptions of all open connections.",
            sum(each.subscriptions for each in connections),
        )
        yield _gauge(
            "realtime_http_readers",
            "HTTP requests that wait for records of streams.",
            self._waiting.live_readers,
        )
        yield _labeled(
            "realtime_refusals",
            "Errors sent to clients, by code.",
            "code",
            dict.fromkeys(BY_CODE, 0) | counters.refusals,
        )

    def _of_records(self) -> Iterator[Metric]:
        counters = self._counters
        yield _counter(
            "realtime_records_appended",
            "Records appended through this process, without duplicates.",
            counters.records_appended,
        )
        yield _counter("realtime_appended_bytes", "Data of those records.", counters.bytes_appended)
        yield _counter(
            "realtime_records_sent",
            "Records sent to readers, once for each reader.",
            counters.records_sent,
        )
        yield _counter(
            "realtime_received_bytes",
            "Frames from clients, and what they append over HTTP.",
            counters.bytes_received,
        )
        yield _counter(
            "realtime_sent_bytes",
            "Frames to clients, and what they read over HTTP.",
            counters.bytes_sent,
        )
        yield _histogram(
            "realtime_append_seconds", "From an append to its durability.", counters.append_s
        )
        yield _histogram(
            "realtime_delivery_seconds",
            "From a record's append to its write to readers that had caught up.",
            counters.delivery_s,
        )

    def _of_readers(self) -> Iterator[Metric]:
        hub = self._hub()
        tails = list(hub.tails) if hub is not None else []
        readers: list[LagSource] = [*self._connections, self._waiting]
        lags = [reader.lag for each in readers for reader in each.lagging()]
        yield _gauge("realtime_live_streams", "Streams with readers at this gateway.", len(tails))
        yield _gauge(
            "realtime_ring_bytes",
            "Recent records in memory, of all live streams.",
            sum(tail.ring_bytes for tail in tails),
        )
        yield _gauge(
            "realtime_slowest_reader_lag_records",
            "Records that the slowest reader has not received yet.",
            max(lags, default=0),
        )
        yield _gauge(
            "realtime_lagging_readers",
            "Readers with records that they have not received yet.",
            len(lags),
        )
        yield _counter(
            "realtime_catch_up_reads",
            "Pages read from the store for readers that had fallen behind the ring.",
            self._counters.catch_up_reads,
        )

    def _of_store(self) -> Iterator[Metric]:
        store = self._store()
        is_ready = store is not None and store.is_ready
        yield _gauge("realtime_store_ready", "1 while the store can be used.", int(is_ready))
        if isinstance(store, HasStoreLag):
            yield _gauge(
                "realtime_store_lag_seconds",
                "Since the last notification of the store's servers.",
                store.lag_s,
            )
        yield _labeled(
            "realtime_store_errors",
            "Calls of the store that failed, without errors of the caller, by method.",
            "method",
            self._counters.store_errors,
        )


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value)


def _labeled(name: str, words: str, label: str, values: Mapping[str, int]) -> Metric:
    metric = CounterMetricFamily(name, words, labels=[label])
    for each, value in sorted(values.items()):
        metric.add_metric([each], value)
    return metric


def _histogram(name: str, words: str, histogram: Histogram) -> Metric:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, histogram.up_to(), strict=True))
    return HistogramMetricFamily(name, words, buckets, histogram.sum)


class Metrics:
    """The registry of one gateway, with Prometheus' metrics of the process.

    Args:
        collector: The gateway's collector.
    """

    def __init__(self, collector: Collector) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(collector)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Render all metrics.

        Args:
            accept: The scraper's `Accept` header, which may ask for OpenMetrics.

        Returns:
            The text and its content type.
        """
        write, content_type = choose_encoder(accept)
        return write(self.registry), content_type
