"""What was done and how long it took, per model; the protocol's statistics are made of it.

Runs in the front-end. Ensembles count requests: each one that named the model counts once, as a
success or as a failure. Members count rows, whichever ensemble they were predicted for, because
their batches hold rows of many requests. Times are kept in seconds and told in nanoseconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from server.accepted import Answer

__all__ = ["MemberCounters", "ModelCounters", "member_statistics", "model_statistics"]


@dataclass(slots=True)
class ModelCounters:
    """Requests to one model. All times are sums over requests, in seconds.

    Attributes:
        successes, failures: requests.
        rows: of the successes.
        success_s: from having the request's body to having its response.
        failure_s: from having its head to having the error.
        input_s: from having the body to acceptance: parsing, decoding, preparing.
        queue_s: from acceptance until the last of a request's jobs was handed to a worker.
        infer_s: from then until the last of its rows was combined.
        output_s: from then to having the response.
        last: when the last answer was given, as Unix time; 0 if there was none.
        saved: members' predictions of rows that were not needed, thanks to cascades and to
            answers that were certain early.
    """

    successes: int = 0
    failures: int = 0
    rows: int = 0
    success_s: float = 0.0
    failure_s: float = 0.0
    input_s: float = 0.0
    queue_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    last: float = 0.0
    saved: int = 0

    def succeed(self, arrived: float, answer: Answer) -> None:
        """Count a request whose response is there; `arrived` is when its body was."""
        now = time.monotonic()
        self.successes += 1
        self.rows += answer.rows
        self.success_s += now - arrived
        self.input_s += answer.accepted - arrived
        self.queue_s += answer.started - answer.accepted
        self.infer_s += answer.ended - answer.started
        self.output_s += now - answer.ended
        self.last = time.time()
        self.saved += answer.saved

    def fail(self, arrived: float) -> None:
        """Count a request that gets an error."""
        self.failures += 1
        self.failure_s += time.monotonic() - arrived


@dataclass(slots=True)
class MemberCounters:
    """What a member has done for whatever ensemble. All times are sums over rows, in seconds.

    Attributes:
        rows, failed: rows that it predicted, and that it failed on.
        queue_s: how long the rows waited for their batch to be handed to a worker.
        infer_s, failed_s: how long the batches took that they were in.
        batches: by rows of a batch, how many there were and how many seconds they took.
        last: when the last batch ended, as Unix time; 0 if there was none.
    """

    rows: int = 0
    failed: int = 0
    queue_s: float = 0.0
    infer_s: float = 0.0
    failed_s: float = 0.0
    batches: defaultdict[int, list[float]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0.0])
    )
    last: float = 0.0

    def run(self, rows: int, failed: int, waited_s: float, elapsed_s: float) -> None:
        """Count a batch, unless it was skipped because nobody wanted its rows any more.

        Args:
            rows: how many it predicted.
            failed: how many more it failed on.
            waited_s: how long its oldest row had waited.
            elapsed_s: how long it took.
        """
        if not rows + failed:
            return
        self.rows += rows
        self.failed += failed
        self.queue_s += waited_s * (rows + failed)
        self.infer_s += elapsed_s * rows
        self.failed_s += elapsed_s * failed
        batch = self.batches[rows + failed]
        batch[0] += 1
        batch[1] += elapsed_s
        self.last = time.time()


def model_statistics(name: str, version: str, counted: ModelCounters) -> dict[str, Any]:
    """The protocol's statistics of an ensemble."""
    n = counted.successes
    return {
        "name": name,
        "version": version,
        "last_inference": _ms(counted.last),
        "inference_count": counted.rows,
        "execution_count": n,
        "inference_stats": {
            "success": _duration(n, counted.success_s),
            "fail": _duration(counted.failures, counted.failure_s),
            "queue": _duration(n, counted.queue_s),
            "compute_input": _duration(n, counted.input_s),
            "compute_infer": _duration(n, counted.infer_s),
            "compute_output": _duration(n, counted.output_s),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [],
        "predictions_saved": counted.saved,
    }


def member_statistics(name: str, version: str, counted: MemberCounters) -> dict[str, Any]:
    """The protocol's statistics of a member: its counts are rows.

    What it takes to read inputs and to write predictions is part of the inference.
    """
    n, failed = counted.rows, counted.failed
    return {
        "name": name,
        "version": version,
        "last_inference": _ms(counted.last),
        "inference_count": n,
        "execution_count": sum(int(batch[0]) for batch in counted.batches.values()),
        "inference_stats": {
            "success": _duration(n, counted.queue_s + counted.infer_s),
            "fail": _duration(failed, counted.failed_s),
            "queue": _duration(n + failed, counted.queue_s),
            "compute_input": _duration(n, 0.0),
            "compute_infer": _duration(n, counted.infer_s),
            "compute_output": _duration(n, 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(int(count), 0.0),
                "compute_infer": _duration(int(count), seconds),
                "compute_output": _duration(int(count), 0.0),
            }
            for rows, (count, seconds) in sorted(counted.batches.items())
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def _ms(moment: float) -> int:
    return round(moment * 1000)
