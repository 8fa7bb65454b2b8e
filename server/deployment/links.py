"""Keeps the files of models as they were loaded, by hard links.

Runs in the supervisor. Stamped sources flow in, sources that know of links flow out: a process that
restarts after a file has been replaced loads what was linked. A file that is overwritten in place
changes the link as well, which its stamp tells; what can't be linked (on another file system, say)
is not kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from workers.backends.files import linked
from workers.runtime.spec import ModelSource

__all__ = ["Links"]


class Links:
    """Links to the files of models in a directory; there are none without one."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def keep(self, source: ModelSource) -> ModelSource:
        """Return a source with links to its files, if they can be made.

        A user's Python code is imported from where it is: what it imports can't be known.
        """
        if self._directory is None or source.is_users_code or not source.stamps:
            return source
        name = hashlib.sha256(msgspec.json.encode(source.stamps)).hexdigest()[:32]
        kept = msgspec.structs.replace(source, links=str(self._directory / name))
        if linked(kept) is not None:
            return kept
        try:
            self._link(source, name)
        except OSError:
            return source
        # What has been replaced since it was stamped is not what was meant.
        return kept if linked(kept) is not None else source

    def remove_others(self, sources: Iterable[ModelSource]) -> None:
        """Remove the links that none of these sources knows."""
        if self._directory is not None and self._directory.is_dir():
            kept = {Path(source.links) for source in sources if source.links}
            for one in self._directory.iterdir():
                if one not in kept:
                    shutil.rmtree(one, ignore_errors=True)
            if not kept:
                shutil.rmtree(self._directory, ignore_errors=True)

    def _link(self, source: ModelSource, name: str) -> None:
        assert self._directory is not None
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=self._directory))
        try:
            for stamp in source.stamps:
                link = Path(f"{made}{stamp.path}")
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(os.path.realpath(stamp.path), link)
            shutil.rmtree(self._directory / name, ignore_errors=True)
            made.rename(self._directory / name)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            raise
