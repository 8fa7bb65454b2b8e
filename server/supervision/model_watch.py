"""Notices that the file of a model is replaced while the model is served.

Runs in the supervisor. Sources with the stamps of their files flow in, a line for each changed file
flows out, once. Loaded models stay as they are; a process that restarts loads what it was from a
link, or refuses to load it (`workers.backends.load`), since an ensemble's workers must not serve
different models.
"""

from __future__ import annotations

from collections.abc import Iterable

from workers.backends.files import changed_file, linked
from workers.runtime.spec import ModelSource

__all__ = ["ModelWatch"]


class ModelWatch:
    """Watches the files of some models."""

    def __init__(self, sources: Iterable[ModelSource]) -> None:
        self.follow(sources)

    def follow(self, sources: Iterable[ModelSource]) -> None:
        """Watch the files of these models instead."""
        self._sources = {(one.member, one.origin): one for one in sources if one.stamps}

    def complaints(self) -> list[str]:
        """Look at all files of members whose files were as stamped until now.

        A thread may do so; what it has found is not told if others are followed meanwhile.
        """
        sources = self._sources
        changed = {name: changed_file(source.stamps) for name, source in sources.items()}
        if self._sources is not sources:
            return []
        lines = [_complaint(sources[name], file) for name, file in changed.items() if file]
        self._sources = {name: one for name, one in sources.items() if not changed[name]}
        return lines


def _complaint(source: ModelSource, file: str) -> str:
    text = f"member {source.member}: {file} is not what it was when it was loaded: "
    if linked(source) is None:
        text += "its workers serve what they have loaded, but none that restarts loads it; "
    return text + "reload (SIGHUP) to serve what it is now"
