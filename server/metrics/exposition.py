"""From collectors to the text that Prometheus scrapes.

Runs in the front-end's event loop, in small pieces, so that requests get their turn every half
millisecond. A collector that fails is left out, from the family that failed on, and counted;
nothing else suffers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from server.metrics.families import AnyFamily, Counters

__all__ = ["Collect", "Exposition"]

_log = logging.getLogger(__name__)
_OPEN_METRICS = "application/openmetrics-text"
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_END = b"# EOF\n"
_TURN_S = 0.0005

#: Gives families, each with the samples of one moment.
Collect = Callable[[], AsyncIterator[AnyFamily]]


class Exposition:
    """Answers scrapes.

    Args:
        collectors: by name, in the order in which they are asked.
        turn_s: how long to work before others get their turn.
    """

    def __init__(self, collectors: Mapping[str, Collect], turn_s: float = _TURN_S) -> None:
        self._collectors = collectors
        self._turn_s = turn_s
        self._errors: defaultdict[str, int] = defaultdict(int)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """What there is to tell, and its content type.

        Args:
            accept: the ``Accept`` header of the one who asks, which may name OpenMetrics.
        """
        is_open = _OPEN_METRICS in accept
        parts: list[bytes] = []
        turn_ends = time.perf_counter() + self._turn_s
        for name, collect in self._collectors.items():
            try:
                async for family in collect():
                    for part in _encode(family, is_open=is_open):
                        parts.append(part)
                        if time.perf_counter() >= turn_ends:
                            await asyncio.sleep(0)
                            turn_ends = time.perf_counter() + self._turn_s
            except Exception:
                # Once aloud: a scrape comes every few seconds.
                level = logging.DEBUG if self._errors[name] else logging.ERROR
                _log.log(level, "the metrics of %s could not be collected", name, exc_info=True)
                self._errors[name] += 1
        parts += _encode(self._own(), is_open=is_open)
        if not is_open:
            return b"".join(parts), _PLAIN
        return b"".join([*parts, _END]), openmetrics.CONTENT_TYPE_LATEST

    def _own(self) -> AnyFamily:
        return Counters(
            "ensembled_metrics_errors_total",
            "Parts of a scrape that failed and were left out.",
            ("collector",),
            (((name,), self._errors[name]) for name in self._collectors),
        )


class _One:
    """A registry of one family, which is all that the encoders ask for."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _encode(family: AnyFamily, *, is_open: bool) -> Iterator[bytes]:
    """The family's text; what introduces it comes with each piece, and is said once."""
    introduction = b""
    for piece in family.pieces():
        samples, piece.samples = piece.samples, []
        if not introduction:
            introduction = _text(piece, is_open=is_open)
            yield introduction
        piece.samples = samples
        yield _text(piece, is_open=is_open).removeprefix(introduction)


def _text(metric: Metric, *, is_open: bool) -> bytes:
    if is_open:
        text: bytes = openmetrics.generate_latest(_One(metric))  # type: ignore[no-untyped-call]
        return text.removesuffix(_END)
    return exposition.generate_latest(_One(metric))
