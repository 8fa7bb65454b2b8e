"""What serving costs apart from predictions: front-end, combiner, load generator, their cores.

Pure data, used where serving is simulated; measured figures flow in.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Host"]


@dataclass(frozen=True)
class Host:
    """Seconds of CPU time; all zero is the plain model, in which only predictions take time.

    Front-end and combiner work in turns: a turn handles everything that is there at its start, so
    what a turn costs is shared by more and more the busier they are.

    Attributes:
        cores: how many cores front-end, combiner, load generator and CPU workers share; 0 if
            none of them ever waits for a core.
        frontend_s_per_turn: of the front-end, per turn.
        frontend_s_per_request: per request; half when it comes, half when it is answered.
        frontend_s_per_row: per row that comes.
        frontend_s_per_byte: per byte that comes, see `row_bytes`.
        frontend_s_per_job: per job given out and heard of.
        combiner_s_per_turn: of the combiner, per turn.
        combiner_s_per_range: per range that a worker tells of.
        combiner_s_per_row: per row that is combined.
        worker_s_per_job: of a worker, per job, on top of the batch's latency; on the device.
        client_s_per_request: of the load generator, one process on the same cores.
        row_bytes: of one row of a request.

    Raises:
        ValueError: if a number is negative.
    """

    cores: int = 0
    frontend_s_per_turn: float = 0.0
    frontend_s_per_request: float = 0.0
    frontend_s_per_row: float = 0.0
    frontend_s_per_byte: float = 0.0
    frontend_s_per_job: float = 0.0
    combiner_s_per_turn: float = 0.0
    combiner_s_per_range: float = 0.0
    combiner_s_per_row: float = 0.0
    worker_s_per_job: float = 0.0
    client_s_per_request: float = 0.0
    row_bytes: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} should be 0 or more, not {value}")

    @property
    def has_processes(self) -> bool:
        """Whether front-end, combiner or load generator take any time."""
        return any(
            value
            for name, value in vars(self).items()
            if name.startswith(("frontend", "combiner", "client"))
        )
