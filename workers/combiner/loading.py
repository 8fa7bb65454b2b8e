"""Loads the rules of generations into the combiner, and unloads them.

Runs in the combiner: at its start, then in the thread of `workers.runtime.loader`, since a custom
rule's module or a meta-model's runtime may take seconds to import while rows of other generations
are combined.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from workers.combiner.arena_combiner import ArenaCombiner
from workers.runtime.arena import Arena
from workers.runtime.loader import LoadFailed
from workers.runtime.memory import BoardRow, SharedMemory
from workers.runtime.spec import GenerationSpec, Load, PausedRule

__all__ = ["ArenaLoader", "Part"]

_log = logging.getLogger(__name__)

#: What the loop needs to combine the rows of a generation: by the numbers of its arenas.
Part = dict[int, ArenaCombiner]


class ArenaLoader:
    """A `workers.runtime.loader.Builder` of the combiners of arenas."""

    def __init__(self, memory: SharedMemory, board: BoardRow, paused: Sequence[PausedRule]) -> None:
        self._memory = memory
        self._board = board
        self._paused = paused
        self._parts: dict[int, Part] = {}

    def start(self, generation: GenerationSpec) -> Part:
        """Load a generation that is served already: a rule that can't be used fails only its rows.

        A former combiner may have loaded it, before it became unusable.
        """
        mapping = self._memory.map(generation)
        part = {
            spec.index: ArenaCombiner(Arena(mapping, spec), self._board, self._paused)
            for spec in generation.arenas
        }
        self._parts[generation.number] = part
        return dict(part)

    def load(self, command: Load, goes_on: Callable[[], bool]) -> Part:
        """Load a new generation, see `workers.runtime.loader.Builder`."""
        number = command.generation.number
        goes_on()
        part = self.start(command.generation)
        errors = [error for one in part.values() for error in one.load_errors]
        if errors:
            part.clear()
            self.unload(number)
            raise LoadFailed("; ".join(errors))
        return part

    def unload(self, generation: int) -> None:
        """Close the meta-models of a generation."""
        for one in self._parts.pop(generation, {}).values():
            one.close()
