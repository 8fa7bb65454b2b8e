"""Runs a fault-injection campaign against a server of its own, from start to clean shutdown.

Runs in the campaign's process: a plan and a scene flow in, a report flows out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import yaml

from benchmarks.chaos.campaign import Campaign, Happened, Plan
from benchmarks.chaos.changes import Changes
from benchmarks.chaos.judging import Verdict
from benchmarks.chaos.processes import Census, Processes
from benchmarks.chaos.scene import Scene
from benchmarks.server_process import RunningServer, running_server

__all__ = ["Report", "SystemUnderTest", "report_of", "served", "run_campaign"]

_ROOT = Path(__file__).resolve().parents[2]
#: What no injected fault explains: an unexpected exception, or a process that died of one.
_UNEXPECTED = ("Traceback (most recent call last)", " died (")
_KILLED = "it died during start-up"


class Report(msgspec.Struct, frozen=True):
    """The result of a campaign.

    Attributes:
        seed: repeats the campaign.
        rate: answers per second without faults.
        verdict: all replies.
        happened: every fault.
        first, last: processes and resources at the start and at the end; None if not reached.
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


class SystemUnderTest:
    """A server that serves a scene: the system under test.

    Attributes:
        addresses: of HTTP and of gRPC.
        processes: of the server.
        changes: of what it serves.
    """

    def __init__(
        self, server: RunningServer, scene: Scene, directory: Path, config: Path, log_file: Path
    ) -> None:
        self._server = server
        self._directory, self._log_file = directory, log_file
        self.addresses = server.address, server.grpc
        self.processes = Processes(server.pid, directory, scene.devices)
        self.changes = Changes(scene, config, log_file)

    def end(self) -> Iterator[str]:
        """Stop the server; yield whatever is not as it should be afterwards."""
        children = self.processes.now()
        if status := self._server.stop():
            yield f"the server ended with status {status}"
        if left := [role for role, process in children.items() if process.is_running()]:
            yield f"still there after the end: {', '.join(left)}"
        if files := [path.name for path in self._directory.iterdir()]:
            yield f"files left behind: {', '.join(files)}"
        for line in self._log_file.read_text(errors="replace").splitlines():
            if any(word in line for word in _UNEXPECTED) and _KILLED not in line:
                yield f"in the log: {line}"


@contextlib.contextmanager
def served(scene: Scene, log_file: Path | None = None) -> Iterator[SystemUnderTest]:
    """Serve a scene for the length of a block.

    Args:
        scene: what is served.
        log_file: where the server's log is kept; discarded if not given.

    Raises:
        BenchmarkError: if the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        directory = Path(name)
        (directory / "allocation.json").write_text(json.dumps(scene.allocation))
        config = directory / "config.yaml"
        config.write_text(yaml.safe_dump(scene.shifted(0.0)))
        temporary = directory / "t"  # its sockets' paths must be short
        temporary.mkdir()
        environment = {"TMPDIR": str(temporary), "PYTHONPATH": str(_ROOT)}
        log_file = log_file or directory / "log.txt"
        with running_server(config, log_file=log_file, **environment) as server:
            yield SystemUnderTest(server, scene, temporary, config, log_file)


def report_of(plan: Plan, campaign: Campaign) -> Report:
    """The report of a finished campaign."""
    return Report(
        plan.seed,
        campaign.rate,
        campaign.verdict,
        tuple(campaign.happened),
        campaign.first,
        campaign.last,
    )


def run_campaign(
    plan: Plan,
    scene: Scene,
    *,
    log_file: Path | None = None,
    on_fault: Callable[[Happened], None] = lambda happened: None,
) -> Report:
    """Serve a scene, carry out a plan, and stop the server.

    Args:
        plan: of the campaign.
        scene: what is served.
        log_file: where the server's log is kept.
        on_fault: called with each fault.

    Raises:
        BenchmarkError: if the server does not start or is gone, or an answer can't be understood.
    """
    with served(scene, log_file) as system:
        campaign = Campaign(
            plan,
            scene,
            system.addresses,
            system.processes,
            changes=system.changes,
            on_fault=on_fault,
        )
        asyncio.run(campaign.run())
        for problem in system.end():
            campaign.complain(problem)
        return report_of(plan, campaign)
