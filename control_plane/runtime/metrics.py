"""Prometheus metrics of one process, in a registry of its own.

Names start with `gatehouse_`. Labels have few values: never a SPIFFE ID, a path or a peer.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Makes metrics and renders them. Asking twice for one name raises ValueError: keep what you got."""

    def __init__(self, namespace: str = "gatehouse") -> None:
        self._namespace = namespace
        self._registry = CollectorRegistry(auto_describe=True)

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows."""
        return Counter(name, meaning, labels, namespace=self._namespace, registry=self._registry)

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that goes up and down."""
        return Gauge(name, meaning, labels, namespace=self._namespace, registry=self._registry)

    def watched(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when somebody looks; `value` must not raise."""
        self.gauge(name, meaning).set_function(value)

    def total(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A counter that somebody else counts; `value` must not raise and never fall."""
        self._registry.register(_Total(f"{self._namespace}_{name}", meaning, value))

    def calls(self) -> Callable[[str, str, float], None]:
        """What a transport's `observe` wants: calls by method and status, and how long they took."""
        count = self.counter("rpc", "gRPC calls that ended", ("method", "code"))
        took = self.seconds("rpc_elapsed_seconds", "How long gRPC calls took", ("method",))

        def observe(method: str, code: str, seconds: float) -> None:
            count.labels(method, code).inc()
            took.labels(method).observe(seconds)

        return observe

    def seconds(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Histogram:
        """A distribution of durations from half a millisecond to half a minute."""
        return Histogram(
            name, meaning, labels, namespace=self._namespace, registry=self._registry, buckets=_SECONDS
        )

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus (CONTENT_TYPE)."""
        return generate_latest(self._registry)


class _Total(Collector):
    def __init__(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        self._name, self._meaning, self._value = name, meaning, value

    def collect(self) -> Iterable[CounterMetricFamily]:
        """One counter."""
        yield CounterMetricFamily(self._name, self._meaning, value=self._value())
