"""Metrics of a server that searches, in the text format of Prometheus.

https://prometheus.io/docs/practices/naming/ says how they are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ctxembed._results import Usage

__all__ = ["MEDIA_TYPE", "Metrics"]

MEDIA_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_QUERIES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


_KEPT: Final = 256
"""Requests that are counted at once."""


class _Total:
    """A collector of one counter, whose value another object holds."""

    def __init__(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self._name = name
        self._help = help_text
        self._read = read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._help, value=self._read())


class Metrics:
    """Counters of one server. They hold no text, no id of a document and no key.

    They belong to the event loop's thread, except for :meth:`scan`.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("ctxembed_requests", "Requests that ended.", ("endpoint", "status"), registry=registry)
        self._seconds = Histogram(
            "ctxembed_request_seconds", "Time of a request.", ("endpoint",), buckets=_SECONDS, registry=registry
        )
        stages = Histogram(
            "ctxembed_search_stage_seconds",
            "Time of a search by stage: embed, queue, scan, read.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {name: stages.labels(name) for name in ("embed", "queue", "scan", "read")}
        self._scan_queries = Histogram(
            "ctxembed_scan_queries", "Queries that shared a scan.", buckets=_QUERIES, registry=registry
        )
        self._scan_seconds = Counter("ctxembed_scan_seconds", "Time of all scans.", registry=registry)
        self._api_tokens = Counter(
            "ctxembed_query_api_tokens", "Tokens of queries that the API embedded.", registry=registry
        )
        self._api_cost = Counter(
            "ctxembed_query_api_cost_usd", "Reported cost of queries that the API embedded.", registry=registry
        )
        self._by_endpoint: dict[tuple[str, int | str], tuple[Any, Any]] = {}
        self._ended: list[tuple[str, int | str, float]] = []
        self._searched: list[Mapping[str, float]] = []

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a value that is read when the metrics are."""
        Gauge(f"ctxembed_{name}", help_text, registry=self._registry).set_function(read)

    def total(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a total that is read when the metrics are."""
        self._registry.register(_Total(f"ctxembed_{name}", help_text, read))

    def gauges(self, name: str, help_text: str, label: str, values: Mapping[str, Callable[[], float]]) -> None:
        """Add a value for each value of a label."""
        gauge = Gauge(f"ctxembed_{name}", help_text, (label,), registry=self._registry)
        for value, read in values.items():
            gauge.labels(value).set_function(read)

    def request(self, endpoint: str, status: int | str, seconds: float) -> None:
        """Count a request that ended."""
        self._ended.append((endpoint, status, seconds))
        if len(self._ended) >= _KEPT:
            self._count()

    def search(self, stages: Mapping[str, float]) -> None:
        """Count the seconds of a search's stages. The mapping is kept for a while."""
        self._searched.append(stages)
        if len(self._searched) >= _KEPT:
            self._count()

    def _count(self) -> None:
        """Count what has ended, many at once: one by one would be a tenth of the time of a small request."""
        ended, self._ended = self._ended, []
        for endpoint, status, seconds in ended:
            found = self._by_endpoint.get((endpoint, status))
            if found is None:
                found = self._requests.labels(endpoint, str(status)), self._seconds.labels(endpoint)
                self._by_endpoint[endpoint, status] = found
            found[0].inc()
            found[1].observe(seconds)
        searched, self._searched = self._searched, []
        for stages in searched:
            for name, seconds in stages.items():
                self._stages[name].observe(seconds)

    def scan(self, queries: int, seconds: float) -> None:
        """Count a scan."""
        self._scan_queries.observe(queries)
        self._scan_seconds.inc(seconds)

    def usage(self, usage: Usage) -> None:
        """Count what the API reported for queries."""
        self._api_tokens.inc(usage.total_tokens or 0)
        self._api_cost.inc(float(usage.cost_usd or 0))

    def to_text(self) -> bytes:
        """Return all metrics."""
        self._count()
        found: bytes = generate_latest(self._registry)
        return found
