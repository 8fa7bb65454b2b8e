"""Metric families as Prometheus reads them, made of plain numbers.

Runs in the front-end; pure. A family is a name, a help text, the names of its labels and its
samples: the labels' values with a number, or with a histogram.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from server.histogram import Histogram

__all__ = ["Metric", "counter", "gauge", "histogram"]

_UNITS = ("seconds", "bytes", "joules", "watts", "celsius", "ratio")

Labels = Sequence[str]
Numbers = Iterable[tuple[Labels, float]]


def counter(name: str, text: str, labels: Labels, samples: Numbers) -> Metric:
    """A family of counters; `name` ends in ``_total``."""
    family = CounterMetricFamily(name, text, labels=labels, unit=_unit(name.removesuffix("_total")))
    for values, number in samples:
        family.add_metric(values, number)
    return family


def gauge(name: str, text: str, labels: Labels, samples: Numbers) -> Metric:
    """A family of gauges."""
    family = GaugeMetricFamily(name, text, labels=labels, unit=_unit(name))
    for values, number in samples:
        family.add_metric(values, number)
    return family


def histogram(
    name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, Histogram]]
) -> Metric:
    """A family of histograms."""
    family = HistogramMetricFamily(name, text, labels=labels, unit=_unit(name))
    for values, observed in samples:
        bounds = map(floatToGoString, (*observed.bounds, math.inf))
        counts = zip(bounds, observed.cumulated(), strict=True)
        family.add_metric(values, list(counts), observed.sum)
    return family


def _unit(name: str) -> str:
    unit = name.rpartition("_")[2]
    return unit if unit in _UNITS else ""
