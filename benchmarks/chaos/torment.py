"""A server of its own for a campaign, from its start to its end, which must be a clean one.

Runs in the campaign's process: a plan and a scene flow in, a report flows out.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import yaml

from benchmarks.chaos.campaign import Campaign, Happened, Plan
from benchmarks.chaos.judging import Verdict
from benchmarks.chaos.processes import Census, Processes
from benchmarks.chaos.scene import Scene
from benchmarks.server_process import RunningServer, running_server

__all__ = ["Report", "torment", "write_scene"]

_ROOT = Path(__file__).resolve().parents[2]


class Report(msgspec.Struct, frozen=True):
    """What came of a campaign.

    Attributes:
        seed: that it can be repeated with.
        rate: answers per second without faults.
        verdict: all replies.
        happened: every fault.
        first, last: what there was at the start and in the end; None if it did not come so far.
    """

    seed: int
    rate: float
    verdict: Verdict
    happened: tuple[Happened, ...]
    first: Census | None
    last: Census | None

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong, lost or untrue."""
        verdict = self.verdict
        return not (verdict.wrong or verdict.lost or verdict.untrue)


def write_scene(scene: Scene, directory: Path) -> Path:
    """Write a scene's configuration and allocation, and return the former's path."""
    (directory / "allocation.json").write_text(json.dumps(scene.allocation))
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump({**scene.config, "allocation": "allocation.json"}))
    return path


def torment(
    plan: Plan,
    scene: Scene,
    *,
    log_file: Path | None = None,
    on_fault: Callable[[Happened], None] = lambda happened: None,
) -> Report:
    """Serve a scene, go through a plan, and stop the server.

    Args:
        plan: of the campaign.
        scene: what is served.
        log_file: where the server's log is kept.
        on_fault: told of each fault.

    Raises:
        BenchmarkError: if the server does not start or is gone, or an answer can't be understood.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        directory = Path(name)
        config = write_scene(scene, directory)
        temporary = directory / "t"  # its sockets' paths must be short
        temporary.mkdir()
        with running_server(
            config, log_file=log_file, TMPDIR=str(temporary), PYTHONPATH=str(_ROOT)
        ) as server:
            processes = Processes(server.pid, temporary, scene.devices)
            addresses = server.address, server.grpc
            campaign = Campaign(plan, scene, addresses, processes, on_fault)
            asyncio.run(campaign.run())
            for problem in _end(server, processes, temporary):
                campaign.complain(problem)
        return Report(
            plan.seed,
            campaign.rate,
            campaign.verdict,
            tuple(campaign.happened),
            campaign.first,
            campaign.last,
        )


def _end(server: RunningServer, processes: Processes, temporary: Path) -> Iterator[str]:
    """Stop the server, and tell what is not as it should be then."""
    children = processes.now()
    if status := server.stop():
        yield f"the server ended with status {status}"
    if left := [role for role, process in children.items() if process.is_running()]:
        yield f"still there after the end: {', '.join(left)}"
    if files := [path.name for path in temporary.iterdir()]:
        yield f"files left behind: {', '.join(files)}"
