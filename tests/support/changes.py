"""A server that goes from one deployment to the next, under load, with a judge of the answers."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from serving import Client, Server, configuration, wait_for

X = np.array([[1.0, 2.0]], np.float32)

#: A member that adds `add`; while there is a file `hold`, no worker comes to the end of loading it,
#: and none can load what adds a number in the file `fail`.
HELD = """
import pathlib, time
import numpy as np

class Adds:
    inputs = {"x": ("FP32", [2])}

    def __init__(self, add, weights=""):
        self.add = np.float32(add)

    def load(self, device):
        hold = pathlib.Path(__file__).with_name("hold")
        is_worker = pathlib.Path("/proc/self/cmdline").read_bytes().startswith(b"ensembled worker")
        while is_worker and hold.exists():
            hold.with_name("held").touch()
            time.sleep(0.01)
        fail = hold.with_name("fail")
        if is_worker and fail.exists() and str(self.add) in fail.read_text().split():
            raise ValueError("it is told to fail")

    def predict(self, x):
        return {"sum": x + self.add}
"""


class ChangingServer:
    """A server and its configuration, which is written anew and reloaded.

    Attributes:
        adds: by generation, what the ensemble `all` adds to its input.
    """

    def __init__(self, serve: Callable[..., Server], document: dict[str, Any], add: float) -> None:
        self.document = document
        self.server = serve(document)
        self.path = self.server.log.with_name("config.yaml")
        self.adds = {1: add}
        self.generation = 1
        self._next = 2
        self._since = {1: 0.0}
        self._until: dict[int, float] = {}

    def write(self, document: dict[str, Any]) -> None:
        """Write another configuration."""
        self.document = dict(document)
        if isinstance(document.get("allocation"), dict):
            self.path.with_name("allocation.json").write_text(json.dumps(document["allocation"]))
            document = {**document, "allocation": "allocation.json"}
        self.path.write_text(yaml.safe_dump(document, sort_keys=False))

    def write_members(self, **members: Any) -> None:
        """Write the configuration with other members, all of which the ensemble has."""
        ensembles = configuration(members)["ensembles"]
        self.write({**self.document, "members": members, "ensembles": ensembles})

    def signal(self) -> Callable[[], str]:
        """Tell the server to reload; the returned function waits, and gives the log of it."""
        before = len(self.server.stderr)
        self.server.process.send_signal(signal.SIGHUP)

        def outcome() -> str:
            log = self.server.stderr[before:]
            return log if "is served" in log or "nothing is changed" in log else ""

        return lambda: wait_for(outcome, "the end of a reload", 100)

    def go_to(self, add: float) -> None:
        """Go to what is written, which adds so much, and check that it is served."""
        former, number = self.generation, self._next
        self._since[number] = time.monotonic()
        self.adds[number] = add
        log = self.signal()()
        assert f"generation {number} is served" in log, log
        self.generation, self._next = number, number + 1
        self._until[former] = time.monotonic()
        self.check()

    def refuse(self) -> str:
        """Fail to plan what is written; the log. What was served before still is."""
        return self.fail(self.signal(), numbers=0)

    def fail(self, wait_outcome: Callable[[], str], *, numbers: int = 1) -> str:
        """Wait for the end of a change that fails, after so many numbers were given; its log."""
        log = wait_outcome()
        assert "nothing is changed" in log, log
        self._next += numbers  # no number is ever given again
        wait_for(self.server.is_ready, "readiness")
        self.check()
        return log

    def check(self) -> None:
        """What is current answers."""
        answer = self.server.predict("all", X)
        np.testing.assert_array_equal(answer.values, X + np.float32(self.adds[self.generation]))
        assert answer.json["parameters"]["generation"] == self.generation

    def _judge(self, began: float, ended: float, answer: Any, x: np.ndarray) -> str:
        """What is wrong with an answer: it is that of one generation, current at the time."""
        if answer.status != 200:
            return f"{answer.status}: {answer.json}"
        generation = answer.json["parameters"]["generation"]
        if ended < self._since.get(generation, ended) or began > self._until.get(generation, began):
            return f"generation {generation} was not current"
        if not np.array_equal(answer.values, x + np.float32(self.adds[generation])):
            return f"generation {generation} answered {answer.values} for {x}"
        return ""

    @contextmanager
    def under_load(self, clients: int = 3, *, loses_connections: bool = False) -> Iterator[None]:
        """Clients ask all the time, and no answer is wrong; connections may be lost if told so."""
        stop, wrong, answered = threading.Event(), list[str](), [0] * clients
        threads = [
            threading.Thread(
                target=self._ask, args=(number, stop, wrong, answered, loses_connections)
            )
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: all(answered), "the first answers")
        try:
            yield
            before = list(answered)
            wait_for(lambda: all(map(int.__gt__, answered, before)) or wrong, "further answers")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []

    def _ask(
        self,
        number: int,
        stop: threading.Event,
        wrong: list[str],
        answered: list[int],
        loses_connections: bool,
    ) -> None:
        client, serial = Client(self.server.url), 0
        while not stop.is_set() and not wrong:
            serial += 1
            x = np.array([[number, serial]], np.float32)
            began = time.monotonic()
            try:
                answer = client.predict("all", x)
            except httpx.TransportError as error:
                if not loses_connections:
                    wrong.append(repr(error))
                client.close()
                client = Client(self.server.url)
                continue
            if answer.status == 503 and loses_connections:
                continue
            if complaint := self._judge(began, time.monotonic(), answer, x):
                wrong.append(complaint)
            answered[number] += 1
        client.close()


class Hold:
    """Keeps workers from coming to the end of loading a member of `HELD`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "hold"
        self._fail = directory / "fail"
        self._reached = directory / "held"
        self.module = directory / "held_member.py"
        self.module.write_text(HELD)

    def member(self, add: float, nbytes: int = 0) -> dict[str, Any]:
        """Its section in a configuration; weights of so many bytes belong to it."""
        model = {"python": f"{self.module}:Adds", "args": {"add": add}}
        if nbytes:
            weights = self.module.with_name(f"{nbytes}-{add}.bin")
            with weights.open("wb") as file:
                file.truncate(nbytes)
            model["weights"] = str(weights)
        return {"model": model, "output": "values"}

    @contextmanager
    def failing(self, *adds: float) -> Iterator[None]:
        """Within the block, no worker can load what adds one of these."""
        self._fail.write_text(" ".join(str(float(add)) for add in adds))
        try:
            yield
        finally:
            self._fail.unlink()

    @contextmanager
    def loading(self) -> Iterator[Callable[[], None]]:
        """Within the block, loading takes for ever; what is yielded waits until one has begun."""
        self._reached.unlink(missing_ok=True)
        self._file.touch()
        try:
            yield lambda: wait_for(self._reached.exists, "a worker that loads", 60)
        finally:
            self._file.unlink(missing_ok=True)


@contextmanager
def shared_memory(server: Server) -> Iterator[int]:
    """A descriptor of the server's shared memory."""
    for entry in Path(f"/proc/{server.process.pid}/fd").iterdir():
        if os.readlink(entry).startswith("/memfd:ensembled"):
            fd = os.open(entry, os.O_RDONLY)
            try:
                yield fd
            finally:
                os.close(fd)
            return
    raise AssertionError("no shared memory")


def has_data(fd: int, start: int, stop: int) -> bool:
    """Whether a part of a file takes memory."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) < stop
    except OSError:  # nothing comes after that
        return False
