"""The command's side of the processes that train: on which devices, and one handle for each.

Runs in the command. A spec and a line per trial go to a child's stdin, messages come back on its
status pipe, whose end is the end of the child. What it prints goes to its log, a file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import msgspec

from allocator.host import available_cores, core_groups
from server.deployment.devices import find_gpus
from server.growth.process import Asked, Ended, Metric, Unusable, WorkerSpec
from workers.runtime.bootstrap import Failed, Started
from workers.runtime.child_process import child_command, describe_exit
from workers.runtime.spec import DeviceSpec

__all__ = ["Message", "Worker", "training_devices"]

Message = Started | Asked | Metric | Ended | Unusable | Failed

_CHUNK_BYTES = 1 << 16
_TAIL_BYTES = 4096

_decode = msgspec.json.Decoder(Message).decode


class _Host(NamedTuple):
    """What there is to train on: GPUs as (name, kind, uuid), and cores."""

    gpus: list[tuple[str, str, str]]
    cores: list[int]


def training_devices(count: int | None) -> list[DeviceSpec]:
    """Return the device of each process that trains.

    Without a `count`, each GPU has one process, or where there is none, each group of cores. More
    processes than GPUs share these in turn. The cores are divided among all.
    """
    gpus = [(gpu.name, gpu.kind, gpu.uuid) for gpu in find_gpus()]
    host = _Host(gpus, available_cores())
    count = count or len(gpus) or len(core_groups(host.cores))
    return [_device(host, index, count) for index in range(count)]


def _device(host: _Host, index: int, count: int) -> DeviceSpec:
    total = len(host.cores)
    own = host.cores[index * total // count : (index + 1) * total // count]
    cores = tuple(own or [host.cores[index * total // count]])
    if not host.gpus:
        return DeviceSpec(f"cpu:{index}", f"cpu-{len(cores)}", 0, cores)
    name, kind, uuid = host.gpus[index % len(host.gpus)]
    return DeviceSpec(name, kind, 0, cores, uuid=uuid)


class Worker:
    """A process that trains; started anew by `start` after it has ended.

    Attributes:
        trial: the number of the running one, None between trials.
        is_up: whether the process is ready for trials.
        is_busy: whether it was told to run a trial that has not ended.
        was_up: whether any of its processes was.
        log: the file of what it prints.
        failures: of its last trials, how many in a row have failed.
    """

    def __init__(self, spec: WorkerSpec, log: Path, lock: int) -> None:
        self.spec = spec
        self.was_up = False
        self.log = log
        self._lock = lock
        self.start()

    def start(self) -> None:
        """Start the process; the one before has ended."""
        self.trial: int | None = None
        self.is_up = self.is_busy = False
        self.failures = 0
        self._error = ""
        self._unread = b""
        self.fd, status = os.pipe()
        try:
            with self.log.open("ab") as log:
                self._child = subprocess.Popen(
                    child_command("server.growth.process", status, log.fileno()),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(status, log.fileno(), self._lock),
                )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(status)
        self._send(msgspec.json.encode(self.spec))

    def run_trial(self) -> None:
        """Tell the process to run a trial."""
        self.is_busy = True
        self._send(b"run")

    def read(self) -> list[Message] | None:
        """Return the messages that have come, None at the end of the process."""
        chunk = os.read(self.fd, _CHUNK_BYTES)
        if not chunk:
            return None
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        messages = [_decode(line) for line in lines]
        for message in messages:
            self._note(message)
        return messages

    def end(self) -> str:
        """End the process if it has not ended; return how it did. It may be called again."""
        self._child.kill()
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        code = self._child.wait()
        self._close()
        return f"failed: {self._error}" if self._error else describe_exit(code, self._last_line())

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _note(self, message: Message) -> None:
        if isinstance(message, Started):
            self.is_up = self.was_up = True
        elif isinstance(message, Asked):
            self.trial = message.number
        elif isinstance(message, Failed):
            self._error = message.error
        elif isinstance(message, Ended):
            self.trial, self.is_busy = None, False
            self.failures = self.failures + 1 if message.outcome == "failed" else 0

    def _send(self, line: bytes) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: its status pipe ends
            self._child.stdin.write(line + b"\n")
            self._child.stdin.flush()

    def _last_line(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
