"""Metric families as Prometheus reads them, made of plain numbers.

Runs in the front-end; pure. A family is a name, a help text, the names of its labels and its
samples: the labels' values with a number, or with a histogram. To make lines of text of that takes
much longer than to count, so it is done in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from server.engine.histogram import Histogram

__all__ = ["AnyFamily", "Counters", "Gauges", "Histograms"]

_UNITS = ("seconds", "bytes", "joules", "watts", "celsius", "ratio")
#: Numbers of a piece, about as many lines as two histograms.
_NUMBERS = 40

_Labels = Sequence[str]
_Value = TypeVar("_Value")


class Family(Generic[_Value]):
    """A family of one kind.

    Args:
        name: with its unit; that of counters ends in ``_total``.
        text: what it means.
        labels: their names.
        samples: the values of the labels, and what was counted there.
    """

    _at_once = _NUMBERS

    def __init__(
        self, name: str, text: str, labels: _Labels, samples: Iterable[tuple[_Labels, _Value]]
    ) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.samples = list(samples)

    def pieces(self) -> Iterator[Metric]:
        """The family, its samples a few at a time; at least one piece, the samples read late."""
        for start in range(0, max(1, len(self.samples)), self._at_once):
            yield self._piece(self.samples[start : start + self._at_once])

    def _piece(self, samples: list[tuple[_Labels, _Value]]) -> Metric:
        raise NotImplementedError

    @property
    def _unit(self) -> str:
        unit = self.name.removesuffix("_total").rpartition("_")[2]
        return unit if unit in _UNITS else ""


class Counters(Family[float]):
    """What only grows."""

    def _piece(self, samples: list[tuple[_Labels, float]]) -> Metric:
        metric = CounterMetricFamily(self.name, self.text, labels=self.labels, unit=self._unit)
        for values, number in samples:
            metric.add_metric(values, number)
        return metric


class Gauges(Family[float]):
    """What goes up and down."""

    def _piece(self, samples: list[tuple[_Labels, float]]) -> Metric:
        metric = GaugeMetricFamily(self.name, self.text, labels=self.labels, unit=self._unit)
        for values, number in samples:
            metric.add_metric(values, number)
        return metric


class Histograms(Family[Histogram]):
    """Observations by size; a histogram is left out until something was observed."""

    _at_once = 2

    def _piece(self, samples: list[tuple[_Labels, Histogram]]) -> Metric:
        metric = HistogramMetricFamily(self.name, self.text, labels=self.labels, unit=self._unit)
        for values, observed in samples:
            counts = observed.cumulated()
            if counts[-1]:
                bounds = map(floatToGoString, (*observed.bounds, math.inf))
                metric.add_metric(values, list(zip(bounds, counts, strict=True)), observed.sum)
        return metric


AnyFamily = Counters | Gauges | Histograms
