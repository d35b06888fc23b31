"""Writes a reading out for Prometheus. Importing this loads prometheus-client: do it late."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from holdfast.observe.ledger import BOUNDS, Spread
from holdfast.observe.metrics import METRICS, Metric, Reading

_LIMITS = (*map(str, BOUNDS), "+Inf")

_PROCESS = ProcessCollector(registry=None)
"""CPU, memory and descriptors, under the names that every exporter uses."""


def render(reading: Reading, accept: str = "") -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics for who accepts it, else Prometheus' own.

    Takes a while with many accounts, so it is not to be called on the event loop.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Once(reading)), content_type


class _Once(Collector):
    """One reading, as the library's encoders want it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Family]:
        """All metrics in the order of their table, then those of the process."""
        for metric in METRICS:
            yield _family(metric, self._reading)
        yield from _PROCESS.collect()


def _family(metric: Metric, reading: Reading) -> Family:
    family = Family(metric.name.removesuffix("_total"), metric.help, metric.type.value)
    for values, value in metric.samples(reading):
        labels = dict(zip(metric.labels, values, strict=True))
        if isinstance(value, Spread):
            for limit, count in zip(_LIMITS, value.counts, strict=True):
                family.add_sample(f"{metric.name}_bucket", {**labels, "le": limit}, count)
            family.add_sample(f"{metric.name}_count", labels, value.counts[-1])
            family.add_sample(f"{metric.name}_sum", labels, value.sum)
        else:
            family.add_sample(metric.name, labels, value)
    return family
