"""Metric families, made of plain numbers, and their text in Prometheus' exposition formats.

Runs in the front-end; pure. A family is a name, a help text, label names and samples: label values
with a number, or with a histogram. Formatting takes much longer than counting, so it is done in
chunks: between two of them the event loop can do other work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from server.engine.statistics import Histogram

__all__ = [
    "OPENMETRICS_END",
    "Counters",
    "Definition",
    "Family",
    "Gauges",
    "Histograms",
    "encode",
    "families",
]

_UNITS = ("seconds", "bytes", "joules", "watts", "celsius", "ratio")
#: The last line of a document in the OpenMetrics format.
OPENMETRICS_END = b"# EOF\n"

_Labels = Sequence[str]
_Value = TypeVar("_Value")


class Definition(NamedTuple):
    """A family of items of one type; `value` of one is a number, or a `Histogram`."""

    family: type[Family[Any]]
    name: str
    documentation: str
    value: Callable[[Any], Any]

    def of(self, labels: _Labels, samples: Iterable[tuple[_Labels, Any]]) -> Family[Any]:
        """Return the family with samples: label values, and the item's value."""
        return self.family(self.name, self.documentation, labels, samples)


class Family(Generic[_Value]):
    """A family of one kind; its name has its unit, and ends in ``_total`` for counters."""

    _kind: ClassVar[Any]
    #: Samples of a chunk: about as many lines as two histograms.
    _chunk = 40

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: _Labels,
        samples: Iterable[tuple[_Labels, _Value]],
    ) -> None:
        unit = name.removesuffix("_total").rpartition("_")[2]
        self._metric: Metric = self._kind(
            name, documentation, labels=labels, unit=unit if unit in _UNITS else ""
        )
        self._samples = list(samples)

    @classmethod
    def define(cls, name: str, documentation: str, value: Callable[[Any], Any]) -> Definition:
        """Define a family of this kind."""
        return Definition(cls, name, documentation, value)

    def chunks(self) -> Iterator[Metric]:
        """The family without samples, then with some of them at a time; they are read late."""
        yield self._metric
        for start in range(0, len(self._samples), self._chunk):
            self._metric.samples.clear()
            for labels, value in self._samples[start : start + self._chunk]:
                self._add(self._metric, labels, value)
            yield self._metric

    def _add(self, metric: Any, labels: _Labels, value: _Value) -> None:
        metric.add_metric(labels, value)


class Counters(Family[float]):
    """Numbers that only grow."""

    _kind = CounterMetricFamily


class Gauges(Family[float]):
    """Numbers that go up and down."""

    _kind = GaugeMetricFamily


class Histograms(Family[Histogram]):
    """Distributions; a histogram is left out until it has an observation."""

    _kind = HistogramMetricFamily
    _chunk = 2

    def _add(self, metric: Any, labels: _Labels, value: Histogram) -> None:
        counts = value.cumulated()
        if counts[-1]:
            bounds = map(floatToGoString, (*value.bounds, math.inf))
            metric.add_metric(labels, list(zip(bounds, counts, strict=True)), value.sum)


def families(
    definitions: Iterable[Definition], labels: _Labels, items: Sequence[tuple[_Labels, Any]]
) -> Iterator[Family[Any]]:
    """Yield the defined families of items: label values, and the item that has the values."""
    for one in definitions:
        yield one.of(labels, [(values, one.value(item)) for values, item in items])


def encode(family: Family[Any], *, is_openmetrics: bool) -> Iterator[bytes]:
    """Format a family, a chunk at a time; the header is repeated in no chunk."""
    header = b""
    for chunk in family.chunks():
        text = _text(chunk, is_openmetrics=is_openmetrics)
        yield text.removeprefix(header)
        header = header or text


def _text(metric: Metric, *, is_openmetrics: bool) -> bytes:
    registry: Any = SimpleNamespace(collect=lambda: (metric,))  # all that the encoders need
    if is_openmetrics:
        text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text.removesuffix(OPENMETRICS_END)
    return exposition.generate_latest(registry)
