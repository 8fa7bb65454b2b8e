"""What a server served last, kept in a file in case it is killed.

Runs in the supervisor. The state that came up flows in after each change, and is removed when the
server stops in order; what an earlier server left behind flows out at the start. A lock keeps two
servers with one configuration from taking each other's state.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from server.config.amendments import Amendments
from server.deployment.links import Links
from workers.runtime.cache import cache_part, write_atomically
from workers.runtime.spec import ModelSource

__all__ = ["SavedState", "StateFile", "state_path"]

_log = logging.getLogger(__name__)


class SavedState(msgspec.Struct, frozen=True):
    """What was served.

    Attributes:
        config: the path of the configuration, absolute.
        text: the configuration as it was read, YAML.
        amendments: what requests had changed.
        generation: the number of the deployment.
        sources: the models of members, by the server's names.
    """

    config: str
    text: str
    amendments: Amendments = Amendments()
    generation: int = 1
    sources: dict[str, ModelSource] = {}

    @property
    def document(self) -> dict[str, Any]:
        """The configuration as it was read."""
        document: dict[str, Any] = yaml.safe_load(self.text)
        return document

    @classmethod
    def of(
        cls,
        config: Path,
        document: Mapping[str, Any],
        amendments: Amendments,
        generation: int,
        sources: dict[str, ModelSource],
    ) -> SavedState:
        """Return the state of a configuration that was read from a path as a document."""
        text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
        return cls(str(config), text, amendments, generation, sources)


def state_path(config: Path) -> Path | None:
    """Return where the state of servers with a configuration is kept, None without a cache."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(config))).hexdigest()
    try:
        return cache_part("states") / f"{digest[:32]}.json"
    except OSError as error:
        _log.warning("no state is kept: %s", error)
        return None


class StateFile:
    """The file of a state, and beside it a lock and a directory of files that clients have sent.

    Without a path, or while another server has the lock, nothing is kept. What can't be written is
    logged: a server serves without it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = -1
        if path is None:
            return
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(f"{path}.lock")
        except BlockingIOError:
            _log.warning("another server with this configuration runs: no state is kept (%s)", path)
        except OSError as error:
            _log.warning("no state is kept: %s", error)

    @property
    def path(self) -> Path | None:
        """Where the state is kept, None if it is not."""
        return self._path if self._lock >= 0 else None

    @property
    def links(self) -> Links:
        """The files of what is served, kept beside the state."""
        return Links(self.path and Path(f"{self.path}.links"))

    def read(self) -> SavedState | None:
        """Return what an earlier server left behind, None if it left nothing that can be read."""
        if self.path is None:
            return None
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=SavedState)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("the state of an earlier server can't be read: %s: %s", self.path, error)
            return None

    def write(self, state: SavedState) -> None:
        """Keep a state in place of the one before, and the files of its loads alone."""
        if self.path is None:
            return
        try:
            write_atomically(self.path, msgspec.json.encode(state))
        except OSError as error:
            _log.warning("the state can't be kept: %s: %s", self.path, error)
        self.remove_uploads(state.amendments)

    def adopt(self, directory: str) -> str:
        """Return the directory to which that of a client's files is moved, to outlive a crash."""
        if self.path is None or not directory:
            return directory
        try:
            self._uploads.mkdir(mode=0o700, exist_ok=True)
            target = tempfile.mkdtemp(dir=self._uploads)
            return str(shutil.move(directory, target))
        except OSError as error:
            _log.warning("files of a client can't be kept: %s", error)
            return directory

    def remove(self) -> None:
        """Forget the state: the server stops in order; and give up the lock."""
        if self.path is None:
            return
        self.remove_uploads(Amendments())
        self.links.remove_others(())
        for file in (self.path, Path(f"{self.path}.lock")):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove_uploads(self, kept: Amendments) -> None:
        """Remove the files of clients but for those of some amendments."""
        if self.path is None:
            return
        directories = [Path(one.directory) for one in kept.loads.values() if one.directory]
        for one in self._uploads.glob("*"):
            if not any(directory.is_relative_to(one) for directory in directories):
                shutil.rmtree(one, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._uploads.rmdir()  # as long as it is empty

    @property
    def _uploads(self) -> Path:
        return Path(f"{self._path}.uploads")


def _locked(path: str) -> int:
    """Return a descriptor of a lock file with the lock.

    Raises:
        BlockingIOError: if another process has it.
        OSError: if the file can't be made.
    """
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        except FileNotFoundError:
            pass  # its owner has removed it, as below if another one is there already
        except OSError:
            os.close(lock)
            raise
        os.close(lock)
