"""The directory of a library: what lies where, and that one command at a time works on it.

Runs in the command; the processes that train use the paths. Members flow in, `library.yaml` flows
out, which is replaced as a whole. The directory of a trial belongs to the library only while the
file names it; `sweep` removes the others.

    library.yaml         the members, as in a configuration
    trials.db            the trials, unless another storage was chosen
    trials/0012/         what trial 12 has written, and its predictions
    failures/0013.txt    the traceback of a trial that failed
    logs/worker-0.txt    what a process that trains has printed and logged
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from server.errors import ConfigError
from workers.runtime.cache import write_atomically

__all__ = ["Library"]

_FILE = "library.yaml"
_LOCK = ".lock"
_STUDY = ".study"
#: Processes of a command that was killed end within this time, and programs that they have forked.
_LOCK_S = 15.0
_POLL_S = 0.1
_MODE = 0o644


class Library:
    """A library's directory, an absolute path, which is made if it is missing.

    Raises:
        ConfigError: if it can't be made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / _FILE
        self.storage = f"sqlite:///{directory / 'trials.db'}"
        try:
            for name in ("trials", "failures", "logs"):
                (directory / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--library {directory}: {error.strerror}") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Own the library within the block; yield the lock's descriptor, for processes to inherit.

        Whatever inherits it owns the library, too, until it ends.

        Raises:
            ConfigError: if another command owns it, or what it has started.
        """
        with (self.directory / _LOCK).open("a+") as file:
            deadline = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        file.seek(0)
                        raise ConfigError(
                            f"--library {self.directory}: another `ensembled grow` works on it "
                            f"(process {file.read().strip() or 'unknown'})"
                        ) from None
                    time.sleep(_POLL_S)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield file.fileno()

    def study(self) -> str:
        """Return the name of its study, which no other library has."""
        file = self.directory / _STUDY
        if not file.is_file():
            write_atomically(file, f"ensembled-{secrets.token_hex(6)}".encode())
        return file.read_text(encoding="ascii")

    def trial(self, number: int) -> Path:
        """Return the directory of a trial."""
        return self.directory / "trials" / f"{number:04}"

    def predictions(self, number: int, digest: str) -> Path:
        """Return the file of a trial's predictions of the data with this digest."""
        return self.trial(number) / f"predictions-{digest}.npy"

    def failure(self, number: int) -> Path:
        """Return the file of a failed trial's traceback."""
        return self.directory / "failures" / f"{number:04}.txt"

    def log(self, worker: int) -> Path:
        """Return the file of what a worker prints."""
        return self.directory / "logs" / f"worker-{worker}.txt"

    def write(self, members: Mapping[str, Mapping[str, Any]], remarks: Sequence[str]) -> None:
        """Replace `library.yaml`; the remarks become comments at its head.

        Raises:
            OSError: if it can't be written.
        """
        head = "".join(f"# {remark}\n" for remark in remarks)
        body = yaml.safe_dump({"members": dict(members)}, sort_keys=False, allow_unicode=True)
        text = f"{head}{body}".encode()
        if self.file.is_file() and self.file.read_bytes() == text:
            return
        write_atomically(self.file, text)
        self.file.chmod(_MODE)

    def sweep(self, kept: Iterable[int]) -> None:
        """Remove the directories of all trials but some; for times when none is running."""
        names = {self.trial(number).name for number in kept}
        for path in (self.directory / "trials").iterdir():
            if path.name.isdecimal() and path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def remove(self, number: int) -> None:
        """Remove the directory of a trial, if there is one."""
        shutil.rmtree(self.trial(number), ignore_errors=True)
