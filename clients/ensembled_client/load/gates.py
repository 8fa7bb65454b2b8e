"""What a continuous integration asks of a test. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ensembled_client.load.summary import Summary

__all__ = ["Gates", "parse_most_errors"]


@dataclass(frozen=True)
class Gates:
    """Bounds; None for no bound.

    Attributes:
        max_p99_ms: the highest p99 of the latency.
        min_rate: the fewest good answers per second.
        max_errors: the most errors: a count, or a share (0 to 1) if `errors_are_share`.
        errors_are_share: which of the two.
    """

    max_p99_ms: float | None = None
    min_rate: float | None = None
    max_errors: float | None = None
    errors_are_share: bool = False

    def failures(self, summary: Summary) -> list[str]:
        """A line for every gate that is not passed; without good answers there is no p99."""
        lines = []
        p99_ms = summary.latency_ms["p99"]
        if self.max_p99_ms is not None and (summary.fine == 0 or p99_ms > self.max_p99_ms):
            measured = f"{p99_ms:.4g} ms" if summary.fine else "unknown, nothing was answered"
            lines.append(f"--max-p99-ms {self.max_p99_ms:g}: p99 is {measured}")
        if self.min_rate is not None and not summary.requests_per_s >= self.min_rate:
            lines.append(
                f"--min-rate {self.min_rate:g}: {summary.requests_per_s:.6g} requests/s were "
                "answered well"
            )
        if self.max_errors is not None and (line := self._errors(summary, self.max_errors)):
            lines.append(line)
        return lines

    def _errors(self, summary: Summary, most: float) -> str | None:
        failed = summary.failed
        if not self.errors_are_share:
            return f"--max-errors {most:g}: there were {failed:,}" if failed > most else None
        ended = failed + summary.fine
        share = failed / ended if ended else 0.0
        if share <= most:
            return None
        return f"--max-errors {most * 100:.6g}%: {share:.3%} of the requests failed"


def parse_most_errors(text: str) -> tuple[float, bool]:
    """Return the bound, and whether it is a share: ``12``, or ``0.5%``.

    Raises:
        ValueError: if it is neither.
    """
    is_share = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if is_share else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or (is_share and number > 1):
        raise ValueError(f"not a bound: {text!r}")
    return number, is_share
