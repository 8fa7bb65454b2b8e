"""Arrival processes: when requests come, and with how many rows.

Pure data, used where serving is simulated. A rate, a number of connections or a recorded trace
flows in; the moments of arrival flow out, the same ones for the same seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

__all__ = ["Arrivals", "ClosedLoop", "ConstantRate", "OpenLoop", "Poisson", "Trace", "read_trace"]


@dataclass(frozen=True)
class ClosedLoop:
    """Clients that each wait for their answer before they send again.

    `think_s` passes between an answer and the next request. A refused client sends again after
    `retry_s`: what the server's 429 asks for.

    Raises:
        ValueError: if a number makes no sense.
    """

    connections: int
    rows: int = 1
    think_s: float = 0.0
    retry_s: float = 1.0

    def __post_init__(self) -> None:
        _at_least_one("connections", self.connections)
        _at_least_one("rows", self.rows)
        if self.think_s < 0 or self.retry_s <= 0:
            raise ValueError("think_s should be 0 or more, retry_s above 0")


@dataclass(frozen=True)
class _Rate:
    """Requests of so many rows at a rate per second; ValueError if a number makes no sense."""

    rate: float
    rows: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate should be above 0, not {self.rate}")
        _at_least_one("rows", self.rows)


class Poisson(_Rate):
    """Requests of many independent clients: gaps are exponentially distributed."""

    def moments(self, random: Random) -> Iterator[tuple[float, int]]:
        """Yield (seconds since the start, rows) without end."""
        now = 0.0
        while True:
            now += random.expovariate(self.rate)
            yield now, self.rows


class ConstantRate(_Rate):
    """Requests at equal distances, the first after one of them."""

    def moments(self, _random: Random) -> Iterator[tuple[float, int]]:
        """Yield (seconds since the start, rows) without end."""
        count = 0
        while True:
            count += 1
            yield count / self.rate, self.rows


@dataclass(frozen=True)
class Trace:
    """Recorded requests: (seconds since the start, rows) of each, in the order of time.

    `models` are what they are for, none if that was not recorded.

    Raises:
        ValueError: if there is none, or they are out of order.
    """

    requests: tuple[tuple[float, int], ...]
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.requests:
            raise ValueError("the trace is empty")
        if self.models and len(self.models) != len(self.requests):
            raise ValueError("a trace should say of all requests what they are for, or of none")
        before = 0.0
        for seconds, rows in self.requests:
            _at_least_one("rows", rows)
            if not before <= seconds < math.inf:
                raise ValueError(f"{seconds} seconds should not be before {before}")
            before = seconds

    def moments(self, _random: Random) -> Iterator[tuple[float, int]]:
        """Yield (seconds since the start, rows) of each request."""
        return iter(self.requests)


OpenLoop = Poisson | ConstantRate | Trace
Arrivals = ClosedLoop | OpenLoop


def read_trace(document: str, *, rows: int = 1) -> Trace:
    """Return a recorded trace; requests that don't say it have `rows` rows.

    It is JSON, a list of seconds, [seconds, rows] or [seconds, rows, model]; or CSV,
    ``seconds[,rows[,model]]`` a line, where a first line may name the columns.

    Raises:
        ValueError: in one line, if the document is neither.
    """
    if document.lstrip().startswith("["):
        try:
            entries = json.loads(document)
        except ValueError as error:
            raise ValueError(f"is not JSON: {error}") from None
        where = "entry"
    else:
        lines = [line.strip() for line in document.splitlines()]
        if lines and lines[0].lower().startswith("seconds"):
            lines[0] = ""
        entries = [line.split(",") for line in lines if line and not line.startswith("#")]
        where = "line"
    read = [_request(entry, rows, f"{where} {i}") for i, entry in enumerate(entries, start=1)]
    models = tuple(model for *_, model in read if model)
    return Trace(tuple((seconds, own) for seconds, own, _ in read), models)


def _request(entry: Any, rows: int, where: str) -> tuple[float, int, str]:
    values: list[Any] = entry if isinstance(entry, list) else [entry]
    defaults: list[Any] = [rows, ""]
    try:
        seconds, own, model = values + defaults[len(values) - 1 :]
        return float(seconds), int(own), str(model).strip()
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: should be seconds, or seconds and rows, or these and a model: {entry!r}"
        ) from None


def _at_least_one(what: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"{what} should be 1 or more, not {number}")
