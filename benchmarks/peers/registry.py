"""The peers: what is installed for each, how it is started, how it is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.peers.servers.task import Task

__all__ = ["PEERS", "Peer"]


@dataclass(frozen=True)
class Peer:
    """Another server that serves the same members.

    Attributes:
        name: on the command line and in tables; of its environment and its requirements, too.
        package: whose version is told; None for one that needs no environment of its own.
        path: where requests go; {model} is the ensemble's name.
        open_inference: whether it speaks the Open Inference Protocol; a request is a raw row and
            an answer raw FP32 otherwise.
        workers: processes that run all members each.
        batches: rows of a batch at most, by case.
        wait_ms: how long the first row of a batch waits for others.
        is_restless: it spends a tenth of a core while nobody asks: runs only when it is measured.
        is_server_alone: it answers without members, so that its answers are not checked.
    """

    name: str
    package: str | None
    path: str
    open_inference: bool = False
    workers: int = 2
    batches: tuple[tuple[str, int], ...] = (("small", 64), ("heavy", 4))
    wait_ms: int = 1
    is_restless: bool = False
    is_server_alone: bool = False

    @property
    def module(self) -> str:
        """What is run to serve."""
        return f"benchmarks.peers.servers.{self.name}_server"

    def task(self, task: Task, case: str) -> Task:
        """Return a case's task with how this peer does it best."""
        batch = dict(self.batches)[case]
        return replace(task, workers=self.workers, batch=batch, wait_ms=self.wait_ms)


#: By name, in the order of the tables.
PEERS = {
    peer.name: peer
    for peer in (
        Peer("uvicorn", None, "/", is_server_alone=True),
        Peer("mosec", "mosec", "/inference"),
        Peer("pytriton", "nvidia-pytriton", "", open_inference=True),
        Peer("litserve", "litserve", "/predict", is_restless=True),
        Peer("bentoml", "bentoml", "/raw/"),
        Peer("ray", "ray", "/", is_restless=True),
    )
}
