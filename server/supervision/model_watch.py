"""Notices that the file of a model is replaced while the model is served.

Runs in the supervisor. Sources with the stamps of their files flow in, a line for each changed file
flows out, once. Loaded models stay as they are; a process that restarts refuses to load a changed
one (`workers.backends.load`), since an ensemble's workers must not serve different models.
"""

from __future__ import annotations

from collections.abc import Iterable

from workers.backends.files import changed_file
from workers.runtime.spec import ModelSource

__all__ = ["ModelWatch"]


class ModelWatch:
    """Watches the files of some models."""

    def __init__(self, sources: Iterable[ModelSource]) -> None:
        self._sources = {source.member: source for source in sources if source.stamps}

    def complaints(self) -> list[str]:
        """Look at all files of members whose files were as stamped until now."""
        changed = {name: changed_file(source.stamps) for name, source in self._sources.items()}
        lines = [
            f"member {name}: {file} is not what it was when the server started: its workers serve "
            "what they have loaded, but none that restarts loads it; restart the server"
            for name, file in changed.items()
            if file
        ]
        self._sources = {n: source for n, source in self._sources.items() if not changed[n]}
        return lines
